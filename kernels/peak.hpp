// What the machine can do at best, measured: reading memory, and multiplying bytes with the best instruction of a
// table.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>

#include "kernels/kernel_table.hpp"
#include "kernels/thread_pool.hpp"

namespace jupiter {

// Units per second in the best of ten runs, because others who use the machine can only make a run slower.
template <typename Work>
double best_rate(double units, const Work& work) {
  double best = 0;
  for (int i = 0; i < 10; ++i) {
    const auto start = std::chrono::steady_clock::now();
    work();
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    best = std::max(best, units / seconds.count());
  }
  return best;
}

// Bytes per second that all threads together read. A run sums a GiB: memory of at most `buffer_bytes`, and at most a
// GiB, as often as that takes. The caller sees to it that the buffer is far larger than the caches.
double read_peak(ThreadPool& pool, std::uint64_t buffer_bytes);

// int8 multiply-adds per second of all threads, operands in registers, with as many independent sums as hide the
// latency; 0 for a table without an instruction for them (reference).
double multiply_peak(const KernelTable& table, ThreadPool& pool);
// The instruction with which multiply_peak() measures; empty where there is none.
std::string_view multiply_instruction(const KernelTable& table);

}  // namespace jupiter

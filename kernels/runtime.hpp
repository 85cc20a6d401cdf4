// What every step of the forward pass needs besides its data.
#pragma once

#include "kernels/kernel_table.hpp"
#include "kernels/thread_pool.hpp"

namespace jupiter {

struct Runtime {
  const KernelTable& kernels;
  ThreadPool& pool;
};

// Calls work(first, last) for slices of `count` rows on all threads, or for all rows on the calling thread alone where
// a thread would have less than `min_per_thread` rows.
template <typename Work>
void for_rows(const Runtime& rt, std::int64_t count, std::int64_t min_per_thread, const Work& work) {
  if (rt.pool.size() == 1 || count < min_per_thread * rt.pool.size()) {
    work(std::int64_t{0}, count);
    return;
  }
  rt.pool.run([&](int t) {
    const Slice s = slice_of(count, t, rt.pool.size());
    if (s.first < s.last) work(s.first, s.last);
  });
}

}  // namespace jupiter

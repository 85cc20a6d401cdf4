#include "peak.hpp"

#include <chrono>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace jupiter::testing {

namespace {

// Best of ten runs, in units per second.
template <typename Work>
double best_rate(double units, Work work) {
  double best = 0;
  for (int i = 0; i < 10; ++i) {
    const auto start = std::chrono::steady_clock::now();
    work();
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    if (units / seconds.count() > best) best = units / seconds.count();
  }
  return best;
}

}  // namespace

#if defined(__x86_64__)

namespace {
constexpr long kSteps = 1'000'000;
bool has_avx512() { return __builtin_cpu_supports("avx512vnni") != 0; }

// Sixteen independent sums; the result only keeps them alive.
__attribute__((target("avx512f"))) void dot_chains() {
  __m512i sums[16] = {};
  const __m512i w = _mm512_set1_epi8(3), x = _mm512_set1_epi8(5);
  for (long n = 0; n < kSteps; ++n) {
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) asm volatile("vpdpbusd %2, %1, %0" : "+v"(sums[i]) : "v"(w), "v"(x));
  }
}
__attribute__((target("avx512f"))) void fma_chains() {
  __m512 sums[16] = {};
  const __m512 w = _mm512_set1_ps(0.5f), x = _mm512_set1_ps(1.5f);
  for (long n = 0; n < kSteps; ++n) {
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) asm volatile("vfmadd231ps %2, %1, %0" : "+v"(sums[i]) : "v"(w), "v"(x));
  }
}
}  // namespace

double integer_peak() { return has_avx512() ? best_rate(kSteps * 16.0 * 64.0, dot_chains) : 0; }
double float_peak() { return has_avx512() ? best_rate(kSteps * 16.0 * 16.0, fma_chains) : 0; }

#else

double integer_peak() {
  return 0;
}
double float_peak() {
  return 0;
}

#endif

double read_peak(const std::byte* data, std::size_t bytes) {
  return best_rate(static_cast<double>(bytes), [&] {
    const auto* words = reinterpret_cast<const unsigned long*>(data);
    unsigned long sums[8] = {};
    for (std::size_t i = 0; i + 8 <= bytes / 8; i += 8) {
      __builtin_prefetch(words + i + 512);
      for (std::size_t k = 0; k < 8; ++k) sums[k] += words[i + k];
    }
    volatile unsigned long sink = sums[0] + sums[1] + sums[2] + sums[3] + sums[4] + sums[5] + sums[6] + sums[7];
    (void)sink;
  });
}

}  // namespace jupiter::testing

#include "peak.hpp"

#include "kernels/peak.hpp"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace jupiter::testing {

#if defined(__x86_64__)

namespace {
constexpr long kSteps = 1'000'000;

// Sixteen independent sums; the result only keeps them alive.
__attribute__((target("avx512f"))) void fma_chains() {
  __m512 sums[16] = {};
  const __m512 w = _mm512_set1_ps(0.5f), x = _mm512_set1_ps(1.5f);
  for (long n = 0; n < kSteps; ++n) {
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) asm volatile("vfmadd231ps %2, %1, %0" : "+v"(sums[i]) : "v"(w), "v"(x));
  }
}
}  // namespace

double float_peak() {
  return __builtin_cpu_supports("avx512f") != 0 ? best_rate(kSteps * 16.0 * 16.0, fma_chains) : 0;
}

#else

double float_peak() {
  return 0;
}

#endif

}  // namespace jupiter::testing

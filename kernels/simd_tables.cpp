// Asks the processor for its instruction sets.
#include "kernels/simd_tables.hpp"

#if defined(__aarch64__)
#include <sys/auxv.h>
#elif defined(__x86_64__)
#include <cpuid.h>
#endif

namespace jupiter {

#if defined(__x86_64__)

namespace {
// Two that clang's built-in function does not know. Whether the system saves the registers is asked with AVX2.
bool has_f16c() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid(1, &a, &b, &c, &d) != 0 && (c >> 29 & 1) != 0;
}
bool has_avx_vnni() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid_count(7, 1, &a, &b, &c, &d) != 0 && (a >> 4 & 1) != 0;
}

bool has_avx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c();
}
bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512vnni");
}
}  // namespace

std::vector<const KernelTable*> simd_tables() {
  std::vector<const KernelTable*> found;
  if (has_avx512()) found.push_back(&avx512_kernels());
  if (has_avx2() && has_avx_vnni()) found.push_back(&avx_vnni_kernels());
  if (has_avx2()) found.push_back(&avx2_kernels());
  return found;
}

#elif defined(__aarch64__)

std::vector<const KernelTable*> simd_tables() {
  constexpr unsigned long kDotprod = 1ul << 20;  // HWCAP_ASIMDDP
  std::vector<const KernelTable*> found;
  if ((getauxval(AT_HWCAP) & kDotprod) != 0) found.push_back(&neon_dotprod_kernels());
  found.push_back(&neon_kernels());
  return found;
}

#else

std::vector<const KernelTable*> simd_tables() {
  return {};
}

#endif

}  // namespace jupiter

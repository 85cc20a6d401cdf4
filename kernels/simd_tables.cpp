// Asks the processor for its instruction sets.
#include "kernels/simd_tables.hpp"

namespace jupiter {

#if defined(__x86_64__)

std::vector<const KernelTable*> simd_tables() {
  std::vector<const KernelTable*> found;
  __builtin_cpu_init();
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                      __builtin_cpu_supports("avx512vnni");
  if (avx512) found.push_back(&avx512_kernels());
  return found;
}

#else

std::vector<const KernelTable*> simd_tables() {
  return {};
}

#endif

}  // namespace jupiter

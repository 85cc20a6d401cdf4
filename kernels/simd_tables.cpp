// Asks the processor for its instruction sets.
#include "kernels/simd_tables.hpp"

namespace jupiter {

std::vector<const KernelTable*> simd_tables() {
  return {};
}

}  // namespace jupiter

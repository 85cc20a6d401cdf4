// The tables of the instruction sets that this build has.
#pragma once

#include <vector>

#include "kernels/kernel_table.hpp"

namespace jupiter {

// Each in its own file; to be used only where the machine has the instructions.
const KernelTable& avx512_kernels();
const KernelTable& avx2_kernels();
const KernelTable& avx_vnni_kernels();
const KernelTable& neon_kernels();
const KernelTable& neon_dotprod_kernels();

// Best first; asks the processor (and the operating system) what it has.
std::vector<const KernelTable*> simd_tables();

}  // namespace jupiter

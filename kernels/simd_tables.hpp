// The tables of the instruction sets that this build has. Each is null where the machine lacks the instructions.
#pragma once

#include <vector>

#include "kernels/kernel_table.hpp"

namespace jupiter {

// Best first; asks the processor (and the operating system) what it has.
std::vector<const KernelTable*> simd_tables();

}  // namespace jupiter

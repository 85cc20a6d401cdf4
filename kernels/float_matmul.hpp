// Float weights through OpenBLAS. Its order of sums depends on the shape: --exact takes KernelTable::matmul_exact.
#pragma once

#include "kernels/runtime.hpp"

namespace jupiter {

// out = x * w^T for all rows of w; f16 and bf16 weights are widened a slab at a time.
void blas_multiply(const Runtime& rt, const PackedMatrix& w, MatrixView<const float> x, MatrixView<float> out);

}  // namespace jupiter

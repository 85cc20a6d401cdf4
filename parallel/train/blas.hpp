// Matrix products of the neural training, by OpenBLAS. Its order of sums depends on shapes, threads and processor, so
// nothing that touches an answer's logits may use it (parallel/DESIGN.md, decision 1).
#pragma once

#include "io/buffer.hpp"
#include "kernels/runtime.hpp"

namespace jupiter {

// A matrix that stands in a product as it is, or transposed.
struct Factor {
  MatrixView<const float> matrix;
  bool transposed = false;
};

enum class Into { overwrite, add };

// c = a b, or c += a b. a: [m][k], b: [k][n] (after transposing), c: [m][n]. The rows of c are divided among rt's
// threads, and OpenBLAS itself runs on each of them alone. RunError where OpenBLAS is not installed.
void multiply_blas(const Runtime& rt, const Factor& a, const Factor& b, MatrixView<float> c, Into into);

}  // namespace jupiter

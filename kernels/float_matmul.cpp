// sgemm over slabs of weight rows. Built without OpenBLAS (cross-compiled kernels), the row-invariant kernel serves.
#include "kernels/float_matmul.hpp"

#include <algorithm>
#include <vector>

#include "kernels/linear.hpp"

#ifdef JUPITER_OPENBLAS
#include <cblas.h>
#endif

namespace jupiter {

#ifdef JUPITER_OPENBLAS

namespace {
constexpr std::int64_t kSlabRows = 256;  // weight rows widened at a time: fits L2 for usual widths

void multiply_slab(MatrixView<const float> x, const float* w, std::int64_t n, std::int64_t k, std::int64_t first,
                   MatrixView<float> out) {
  cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, static_cast<int>(x.rows), static_cast<int>(n),
              static_cast<int>(k), 1.0f, x.data, static_cast<int>(x.stride), w, static_cast<int>(k), 0.0f,
              out.data + first, static_cast<int>(out.stride));
}
}  // namespace

void blas_multiply(const Runtime& rt, const PackedMatrix& w, MatrixView<const float> x, MatrixView<float> out) {
  const bool narrow = w.format != Format::f32;
  static thread_local std::vector<float> slab;
  if (narrow) slab.resize(static_cast<std::size_t>(kSlabRows * w.cols));
  const Precision precision = w.format == Format::bf16 ? Precision::bf16 : Precision::f16;
  for (std::int64_t first = 0; first < w.rows; first += kSlabRows) {
    const std::int64_t n = std::min(kSlabRows, w.rows - first);
    const std::byte* rows = w.data + static_cast<std::size_t>(first * w.cols) * (narrow ? 2 : 4);
    if (narrow) {
      for_rows(rt, n, 16, [&](std::int64_t a, std::int64_t b) {
        rt.kernels.widen(precision, rows + a * w.cols * 2, (b - a) * w.cols, slab.data() + a * w.cols);
      });
    }
    multiply_slab(x, narrow ? slab.data() : reinterpret_cast<const float*>(rows), n, w.cols, first, out);
    rt.pool.poll(0);
  }
}

void set_blas_threads(int threads) {
  openblas_set_num_threads(threads);
}

#else

void blas_multiply(const Runtime& rt, const PackedMatrix& w, MatrixView<const float> x, MatrixView<float> out) {
  rt.pool.run([&](int thread) {
    const Slice s = slice_of(w.panels(), thread, rt.pool.size());
    rt.kernels.matmul_exact(w, {s.first, s.last}, x, out);
  });
}

void set_blas_threads(int) {}

#endif

}  // namespace jupiter

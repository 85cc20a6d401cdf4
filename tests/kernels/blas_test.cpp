// The float kernels against a product that others wrote: OpenBLAS's sgemm. It sums in another order, so the difference
// is bounded by what rounding can make of it, not by bits.
#include <cblas.h>
#include <gtest/gtest.h>

#include <cmath>

#include "io/model/packed.hpp"
#include "kernel_testing.hpp"

namespace jupiter {
namespace {

using testing::Floats;
using testing::Random;
using testing::Weights;

// |found - expected| is at most the sum over k of |x||w|, times what k rounded additions and products may lose.
void compare(const KernelTable& table, Format format, std::int64_t rows, std::int64_t cols, std::int64_t outputs) {
  Random random(static_cast<std::uint64_t>(rows * 1000 + cols));
  const Weights packed(format, outputs, cols, 5);
  const Floats x(random, rows * cols, 1, -2, 2);
  Floats w(outputs * cols, 0), expected(rows * outputs, 0), found(rows * outputs, 1), sizes(rows * outputs, 0);
  for (std::int64_t o = 0; o < outputs; ++o) dequantize_row(packed.matrix(), o, w.data() + o * cols);
  const auto product = [&](const float* a, const float* b, float* c) {
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, static_cast<blasint>(rows), static_cast<blasint>(outputs),
                static_cast<blasint>(cols), 1, a, static_cast<blasint>(cols), b, static_cast<blasint>(cols), 0, c,
                static_cast<blasint>(outputs));
  };
  product(x.data(), w.data(), expected.data());
  Floats absolute_x(rows * cols, 0), absolute_w(outputs * cols, 0);
  for (std::int64_t i = 0; i < rows * cols; ++i) absolute_x.data()[i] = std::abs(x.data()[i]);
  for (std::int64_t i = 0; i < outputs * cols; ++i) absolute_w.data()[i] = std::abs(w.data()[i]);
  product(absolute_x.data(), absolute_w.data(), sizes.data());
  table.matmul_float(packed.matrix(), {0, packed.matrix().panels()}, {x.data(), rows, cols},
                     {found.data(), rows, outputs});
  for (std::int64_t i = 0; i < rows * outputs; ++i) {
    const double bound = 2 * static_cast<double>(cols + 1) * 0x1p-24 * static_cast<double>(sizes.data()[i]);
    ASSERT_LE(std::abs(static_cast<double>(found.data()[i]) - static_cast<double>(expected.data()[i])), bound)
        << table.name << " " << name(format) << " " << rows << "x" << cols << "x" << outputs << " element " << i;
  }
}

TEST(OpenBlas, HasTheFloatProductsOfEveryTable) {
  for (const KernelTable* table : available_kernels()) {
    for (const Format format : testing::kFloats) {
      compare(*table, format, 1, 64, 16);
      compare(*table, format, 3, 33, 40);
      compare(*table, format, 17, 576, 49);
      compare(*table, format, 64, 1000, 100);
    }
  }
}

}  // namespace
}  // namespace jupiter

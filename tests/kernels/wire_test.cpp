// The residual on the wire: exact without a change, 8 bits within half a step of each group.
#include "kernels/wire.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "io/error.hpp"

namespace jupiter {
namespace {

constexpr std::int64_t kRows = 37, kDim = 96;

std::vector<float> sample_rows() {
  std::vector<float> x(kRows * kDim);
  for (std::size_t i = 0; i < x.size(); ++i) {
    x[i] = static_cast<float>(i * 2654435761 >> 7 & 2047) / 64.0f - 16.0f;  // 11 bits: exact in f16
    if (i / 32 % 5 == 0) x[i] *= 512.0f;                                    // groups of different size
    if (i / 32 % 7 == 0) x[i] = 0;
  }
  return x;
}

std::vector<float> round_trip(Wire wire, Precision precision, std::vector<float> x, int threads) {
  ThreadPool pool({.threads = threads});
  const Runtime rt{kernels(), pool};
  ModelConfig c;
  c.dim = kDim;
  c.residual = precision;
  std::vector<std::byte> bytes(static_cast<std::size_t>(kRows * wire_row_bytes(wire, c)));
  to_wire(rt, wire, precision, MatrixView<const float>(x.data(), kRows, kDim), bytes.data());
  std::vector<float> y(x.size(), -1.0f);
  from_wire(rt, wire, precision, bytes.data(), MatrixView<float>(y.data(), kRows, kDim));
  return y;
}

TEST(Wire, ExactChangesNothing) {
  for (const Precision p : {Precision::f16, Precision::f32})
    EXPECT_EQ(round_trip(Wire::exact, p, sample_rows(), 2), sample_rows());
}

TEST(Wire, EightBitsAreWithinHalfAStepOfTheirGroup) {
  const std::vector<float> x = sample_rows(), y = round_trip(Wire::q8, Precision::f16, x, 2);
  std::size_t different = 0;
  for (std::size_t g = 0; g < x.size(); g += 32) {
    float largest = 0;
    for (std::size_t i = g; i < g + 32; ++i) largest = std::max(largest, std::fabs(x[i]));
    for (std::size_t i = g; i < g + 32; ++i) {
      // Half a step, and what the scale's own rounding to f16 moves the largest values by.
      EXPECT_LE(std::fabs(x[i] - y[i]), largest / 127.0f * 0.5f + largest / 2000.0f) << i;
      different += x[i] != y[i];
    }
  }
  EXPECT_GT(different, x.size() / 4);
  EXPECT_EQ(y, round_trip(Wire::q8, Precision::f16, x, 1));
}

TEST(Wire, BytesOfARow) {
  ModelConfig c;
  c.dim = 576;
  EXPECT_EQ(wire_row_bytes(Wire::exact, c), 1152);
  EXPECT_EQ(wire_row_bytes(Wire::q8, c), 576 + 36);
  c.dim = 48;
  EXPECT_THROW(wire_row_bytes(Wire::q8, c), UsageError);
}

TEST(Wire, ValuesThatDoNotFitAreErrors) {
  std::vector<float> x = sample_rows();
  x[100] = std::numeric_limits<float>::infinity();
  EXPECT_THROW(round_trip(Wire::q8, Precision::f32, x, 1), RunError);
  x[100] = 1e30f;
  EXPECT_THROW(round_trip(Wire::q8, Precision::f32, x, 1), RunError);
  EXPECT_THROW(round_trip(Wire::exact, Precision::f16, x, 1), RunError);
}

}  // namespace
}  // namespace jupiter

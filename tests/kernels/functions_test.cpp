// The reference's functions of single numbers against exact arithmetic.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "kernels/kernel_table.hpp"

namespace jupiter {
namespace {

TEST(Reference, BoundedSwigluIsThatOfExactArithmetic) {
  for (double x = -12; x < 12; x += 0.01) {
    const auto gate = static_cast<float>(x), up = static_cast<float>(0.9 * x + 1);
    float found = 0;
    reference_kernels().bounded_swiglu(&gate, &up, 1, &found);
    const double g = std::min<double>(gate, 7), u = std::clamp<double>(up, -7, 7);
    EXPECT_NEAR(found, g / (1 + std::exp(-1.702 * g)) * (u + 1), 2e-6 * (1 + std::abs(g * u))) << x;
  }
}

TEST(Reference, GeluAndCapsAreThoseOfExactArithmetic) {
  for (double x = -12; x < 12; x += 0.01) {
    const auto gate = static_cast<float>(x);
    const float one = 1.0f;
    float found = 0;
    reference_kernels().geglu(&gate, &one, 1, &found);
    const auto g = static_cast<double>(gate);
    const double gelu = 0.5 * g * (1 + std::tanh(std::sqrt(2 / M_PI) * (g + 0.044715 * g * g * g)));
    EXPECT_NEAR(found, gelu, 3e-7 * (1 + std::abs(g))) << x;
    float capped = gate;
    reference_kernels().softcap(4.0f, 1, &capped);
    EXPECT_NEAR(capped, 4 * std::tanh(g / 4), 2e-6) << x;
  }
  float large[] = {1e30f, -1e30f};
  reference_kernels().softcap(30.0f, 2, large);
  EXPECT_EQ(large[0], 30.0f);
  EXPECT_EQ(large[1], -30.0f);
}

TEST(Reference, ExponentialIsWithinItsStatedError) {
  double worst = 0;
  std::vector<float> x, y;
  for (float v = -86.9f; v < 87.9f; v += 1e-4f) x.push_back(v);
  y.resize(x.size());
  reference_kernels().exponential(x.data(), static_cast<std::int64_t>(x.size()), y.data());
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double exact = std::exp(static_cast<double>(x[i]));
    worst = std::max(worst, std::abs(static_cast<double>(y[i]) - exact) / exact);
  }
  RecordProperty("worst", std::to_string(worst * 1e9) + "e-9");
  EXPECT_LT(worst, 1.2e-7);
  const float edges[] = {-std::numeric_limits<float>::infinity(), -87.1f, 0.0f, std::numeric_limits<float>::infinity()};
  float out[4];
  reference_kernels().exponential(edges, 4, out);
  EXPECT_EQ(out[0], 0.0f);
  EXPECT_EQ(out[1], 0.0f);
  EXPECT_EQ(out[2], 1.0f);
  EXPECT_TRUE(std::isfinite(out[3]));
}

}  // namespace
}  // namespace jupiter

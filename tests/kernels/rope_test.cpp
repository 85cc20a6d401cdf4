// The tables' own sine, cosine, exponential and logarithm against libm, and the tables against the formula.
#include "kernels/rope.hpp"

#include <gtest/gtest.h>

#include <cmath>

namespace jupiter {
namespace {

TEST(Rope, SineAndCosineAreFarFinerThanTheTables) {
  for (double x = 0; x < 200000; x = x * 1.01 + 0.013) {
    const SinCos v = sin_cos(x);
    EXPECT_NEAR(v.sin, std::sin(x), 1e-11) << x;
    EXPECT_NEAR(v.cos, std::cos(x), 1e-11) << x;
  }
}

TEST(Rope, ExponentialAndLogarithm) {
  for (double x = -50; x < 50; x += 0.37) EXPECT_NEAR(exp_exact(x) / std::exp(x), 1.0, 1e-14) << x;
  for (double x = 1e-6; x < 1e9; x *= 1.7) EXPECT_NEAR(log_exact(x), std::log(x), 1e-13 * (1 + std::abs(std::log(x))));
}

TEST(Rope, TableHoldsTheAnglesOfEveryPosition) {
  ModelConfig c;
  c.head_dim = 64;
  c.rope_theta = 100000.0f;
  c.rope_factors.assign(32, 1.0f);
  c.rope_factors[31] = 8.0f;
  RopeTable table(c.rope_theta, c.head_dim, c.rope_factors, 1.0f, 0);
  table.extend(3);
  table.extend(5000);
  for (const std::int64_t p : {0, 1, 2, 3, 77, 4999}) {
    for (int i = 0; i < 32; ++i) {
      const double angle = static_cast<double>(p) * std::pow(100000.0, -2.0 * i / 64) / (i == 31 ? 8.0 : 1.0);
      EXPECT_NEAR(table.cos(p)[i], std::cos(angle), 1e-7) << p << " " << i;
      EXPECT_NEAR(table.sin(p)[i], std::sin(angle), 1e-7) << p << " " << i;
    }
  }
}

TEST(Rope, LayersHaveTheTableOfTheirKind) {
  ModelConfig c;
  c.head_dim = 64;
  c.rope_dim = 32;
  c.rope_theta = 1000000.0f;
  c.rope_factors.assign(16, 8.0f);
  c.rope_attention_factor = 1.5f;
  c.sliding_window = 4;
  c.sliding_rope_theta = 10000.0f;
  c.full_attention_layers = {1};
  c.no_rope_layers = {2};
  c.n_layers = 3;
  RopeTables tables(c);
  tables.extend(10);
  const RopeTable *sliding = tables.of(c.layer_kind(0)), *full = tables.of(c.layer_kind(1));
  ASSERT_NE(sliding, nullptr);
  ASSERT_NE(full, nullptr);
  EXPECT_EQ(tables.of(c.layer_kind(2)), nullptr);
  EXPECT_NEAR(sliding->cos(7)[5], std::cos(7 * std::pow(10000.0, -10.0 / 32)), 1e-7);
  EXPECT_NEAR(full->sin(7)[5], 1.5 * std::sin(7 * std::pow(1000000.0, -10.0 / 32) / 8), 1e-7);
}

}  // namespace
}  // namespace jupiter

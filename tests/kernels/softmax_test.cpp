// The order of the sums of a softmax: each order has its own bits, whatever compiler or table.
#include "kernels/softmax.hpp"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <random>

namespace jupiter {
namespace {

std::vector<float> random_logits(std::size_t n) {
  std::mt19937 random(static_cast<unsigned>(n));
  std::normal_distribution<float> normal(0, 4);
  std::vector<float> logits(n);
  for (float& l : logits) l = normal(random);
  return logits;
}

TEST(Softmax, SumsAreMadeInTheOrderThatTheirNameSays) {
  for (const std::size_t n : {1u, 15u, 16u, 17u, 1000u}) {
    const std::vector<float> logits = random_logits(n);
    std::vector<float> out(n), x(n), other(n);
    const float most = largest(logits);
    EXPECT_EQ(most, *std::max_element(logits.begin(), logits.end()));
    for (std::size_t i = 0; i < n; ++i) x[i] = logits[i] - most;
    kernels().exponential(x.data(), std::ssize(x), x.data());
    double sequential = 0, in_lanes = 0;
    std::array<double, 16> lanes{};
    for (std::size_t i = 0; i < n; ++i) {
      sequential += static_cast<double>(x[i]);
      lanes[i < n / 16 * 16 ? i % 16 : 0] += static_cast<double>(x[i]);
    }
    for (const double lane : lanes) in_lanes += lane;
    EXPECT_EQ(exponentials(kernels(), logits, most, out), sequential) << n;
    EXPECT_EQ(out, x);
    EXPECT_EQ(exponentials<SumOrder::lanes>(kernels(), logits, most, other), in_lanes) << n;
    EXPECT_EQ(other, x);
    EXPECT_EQ(log_sum_exp(kernels(), logits, most, other), std::log(in_lanes) + static_cast<double>(most)) << n;
  }
}

TEST(Softmax, ProbabilitiesAreThoseOfTheDefinition) {
  std::vector<float> p = random_logits(300);
  double sum = 0, total = 0;
  for (const float l : p) sum += std::exp(static_cast<double>(l));
  const double first = std::exp(static_cast<double>(p[0])) / sum;
  normalise(p, exponentials(kernels(), p, largest(p), p));
  for (const float x : p) total += static_cast<double>(x);
  EXPECT_NEAR(total, 1, 1e-6);
  EXPECT_NEAR(p[0], first, 1e-6 * first);
}

}  // namespace
}  // namespace jupiter

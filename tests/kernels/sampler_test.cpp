// Filters and draws of the sampler.
#include "kernels/sampler.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "io/error.hpp"

namespace jupiter {
namespace {

const KernelTable& table() {
  return reference_kernels();
}

TEST(Sampler, GreedyTakesTheFirstOfEqualBest) {
  const std::vector<float> logits{1, 3, 3, 2};
  EXPECT_EQ(sample(table(), logits, {}, {}, 0), 1);
}

TEST(Sampler, RepeatPenaltyLowersRecentTokensOnly) {
  const std::vector<float> logits{1, 3, 2.9f, 2};
  SamplingOptions o;
  o.repeat_penalty = 1.5f;
  o.repeat_last = 2;
  EXPECT_EQ(sample(table(), logits, o, std::vector<std::int32_t>{1, 0}, 0), 2);
  EXPECT_EQ(sample(table(), logits, o, std::vector<std::int32_t>{1, 0, 0}, 0), 1);
}

TEST(Sampler, FiltersKeepWhatTheySay) {
  const std::vector<float> logits{std::log(0.5f), std::log(0.3f), std::log(0.15f), std::log(0.05f)};
  SamplingOptions o{.temperature = 1, .top_k = 0, .top_p = 1, .min_p = 0};
  const auto kept = [&] { return distribution(table(), logits, o, {}); };
  ASSERT_EQ(kept().size(), 4u);
  EXPECT_NEAR(kept()[1].probability, 0.3f, 1e-5);
  o.top_k = 2;
  ASSERT_EQ(kept().size(), 2u);
  EXPECT_NEAR(kept()[0].probability, 0.625f, 1e-5);
  o.top_k = 0;
  o.top_p = 0.75f;
  EXPECT_EQ(kept().size(), 2u);
  o.top_p = 1;
  o.min_p = 0.25f;
  EXPECT_EQ(kept().size(), 3u);
}

TEST(Sampler, DrawsFollowTheDistribution) {  // chi-square over 20,000 positions, 3 degrees of freedom
  const std::vector<float> logits{std::log(0.4f), std::log(0.3f), std::log(0.2f), std::log(0.1f)};
  const SamplingOptions o{.temperature = 1, .top_k = 0, .top_p = 1, .min_p = 0, .seed = 11};
  std::vector<double> counts(4);
  for (int p = 0; p < 20000; ++p) ++counts[static_cast<std::size_t>(sample(table(), logits, o, {}, p))];
  double chi2 = 0;
  for (int i = 0; i < 4; ++i) {
    const double expected = 20000 * (0.4 - 0.1 * i);
    chi2 += (counts[i] - expected) * (counts[i] - expected) / expected;
  }
  EXPECT_LT(chi2, 16.3);  // 0.1 % of honest generators exceed this; the seed is fixed
}

TEST(Sampler, UniformDependsOnEveryArgument) {
  EXPECT_EQ(uniform(1, 2, 3), uniform(1, 2, 3));
  EXPECT_NE(uniform(1, 2, 3), uniform(2, 2, 3));
  EXPECT_NE(uniform(1, 2, 3), uniform(1, 3, 3));
  EXPECT_NE(uniform(1, 2, 3), uniform(1, 2, 4));
}

TEST(Sampler, NanIsAnError) {
  const std::vector<float> logits{1, std::numeric_limits<float>::quiet_NaN()};
  EXPECT_THROW(sample(table(), logits, {}, {}, 0), RunError);
  EXPECT_THROW(sample(table(), logits, {.temperature = 1}, {}, 0), RunError);
}

}  // namespace
}  // namespace jupiter

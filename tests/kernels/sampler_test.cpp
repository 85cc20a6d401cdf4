// Filters and draws of the sampler.
#include "kernels/sampler.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <numeric>

#include "io/error.hpp"
#include "kernel_testing.hpp"

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

TEST(Sampler, PresenceCountsOnceAndFrequencyEveryTime) {
  const std::vector<float> logits{3, 2.5f, 2, 1};
  const std::vector<std::int32_t> history{0, 0, 0, 1};
  SamplingOptions o;
  o.presence_penalty = 0.75f;
  EXPECT_EQ(sample(table(), logits, o, history, 0), 0);  // 2.25, 1.75, 2, 1
  o.presence_penalty = 0;
  o.frequency_penalty = 0.25f;
  EXPECT_EQ(sample(table(), logits, o, history, 0), 0);  // 2.25, 2.25, 2, 1: the first of equal ones
  o.frequency_penalty = 0.375f;
  EXPECT_EQ(sample(table(), logits, o, history, 0), 1);  // 1.875, 2.125, 2, 1
  o.presence_penalty = 0.25f;
  EXPECT_EQ(sample(table(), logits, o, history, 0), 2);  // 1.625, 1.875, 2, 1
  o.repeat_last = 1;
  EXPECT_EQ(sample(table(), logits, o, history, 0), 0);
}

TEST(Sampler, BiasesAreAdded) {
  const std::vector<float> logits{3, 2.5f, 2, 1};
  EXPECT_EQ(biased(logits, std::vector<LogitBias>{{0, -100}, {3, 2}, {7, 9}, {-1, 9}}),
            (std::vector<float>{-97, 2.5f, 2, 3}));
}

TEST(Sampler, LogProbabilitiesOfTheChosenAndTheBest) {
  const std::vector<float> logits{std::log(0.1f), std::log(0.6f), std::log(0.3f)};
  const auto all = top_logprobs(table(), logits, 0, 2);
  ASSERT_EQ(all.size(), 3u);
  EXPECT_EQ(all[0].token, 0);
  EXPECT_EQ(all[1].token, 1);
  EXPECT_EQ(all[2].token, 2);
  EXPECT_NEAR(all[0].logprob, std::log(0.1), 1e-5);
  EXPECT_NEAR(all[1].logprob, std::log(0.6), 1e-5);
  EXPECT_EQ(top_logprobs(table(), logits, 2, 0).size(), 1u);
  EXPECT_EQ(top_logprobs(table(), logits, 2, 20).size(), 4u);
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

// ---- against the plainest way to the same numbers: sort everything, then filter

struct Plain {
  std::vector<std::int32_t> tokens;
  std::vector<float> probabilities;
};

std::vector<float> plain_softmax(const std::vector<float>& logits, const std::vector<std::int32_t>& tokens,
                                 double factor) {
  std::vector<float> p;
  const double best = logits[tokens[0]];
  for (const std::int32_t t : tokens) p.push_back(static_cast<float>((double{logits[t]} - best) * factor));
  table().exponential(p.data(), static_cast<std::int64_t>(p.size()), p.data());
  const double sum = std::accumulate(p.begin(), p.end(), 0.0);
  for (float& x : p) x = static_cast<float>(x / sum);
  return p;
}

Plain plain_distribution(const std::vector<float>& logits, const SamplingOptions& o) {
  Plain d;
  d.tokens.resize(logits.size());
  std::iota(d.tokens.begin(), d.tokens.end(), 0);
  std::stable_sort(d.tokens.begin(), d.tokens.end(), [&](auto a, auto b) { return logits[a] > logits[b]; });
  if (o.top_k > 0) d.tokens.resize(std::min<std::size_t>(d.tokens.size(), static_cast<std::size_t>(o.top_k)));
  const std::vector<float> p = plain_softmax(logits, d.tokens, 1);
  std::size_t kept = p.size(), likely = 1;
  double sum = 0;
  for (std::size_t i = 0; o.top_p < 1 && i < kept; ++i) {
    sum += p[i];
    if (sum >= o.top_p) kept = i + 1;
  }
  while (likely < kept && p[likely] >= o.min_p * p[0]) ++likely;
  d.tokens.resize(std::min(kept, likely));
  d.probabilities = plain_softmax(logits, d.tokens, 1 / static_cast<double>(o.temperature));
  return d;
}

std::int32_t plain_draw(const Plain& d, double u) {
  double sum = 0;
  for (std::size_t i = 0; i < d.tokens.size(); ++i) {
    sum += d.probabilities[i];
    if (u < sum) return d.tokens[i];
  }
  return d.tokens.back();
}

// Wide and narrow rows, rows with many equal logits (0 and -0 are equal), and tokens that are ruled out.
std::vector<float> random_row(testing::Random& random) {
  constexpr std::int64_t kSizes[] = {1, 2, 17, 100, 3000, 20000};
  std::vector<float> row(static_cast<std::size_t>(kSizes[random.below(6)]));
  const std::int64_t kind = random.below(4);
  const float width = kind == 0 ? 1e-3f : kind == 1 ? 100.0f : 12.0f;
  for (float& l : row) {
    l = random.uniform(-width, width);
    if (kind == 2) l = std::round(l / 4) * 4;
    if (kind == 3 && random.below(8) == 0) l = -std::numeric_limits<float>::infinity();
  }
  if (kind == 3) row[static_cast<std::size_t>(random.below(std::ssize(row)))] = 1;
  return row;
}

SamplingOptions random_options(testing::Random& random, std::size_t vocabulary) {
  const auto n = static_cast<std::int32_t>(vocabulary);
  const std::int32_t top_k[] = {0, 0, 1, 40, n / 16, n / 16 + 1, n / 2, n + 5};
  const float share[] = {0, 0.05f, 0.5f, 0.95f, 1};
  const float temperature[] = {0.2f, 0.8f, 1, 3};
  SamplingOptions o;
  o.top_k = top_k[random.below(8)];
  o.top_p = random.below(2) == 0 ? 1 : share[random.below(5)];
  o.min_p = random.below(2) == 0 ? 0 : share[random.below(5)];
  o.temperature = temperature[random.below(4)];
  o.seed = random.bits();
  return o;
}

TEST(Sampler, GivesTheBitsOfAFullSort) {
  testing::Random random(21);
  for (int round = 0; round < 200; ++round) {
    const std::vector<float> row = random_row(random);
    const SamplingOptions o = random_options(random, row.size());
    SCOPED_TRACE("row of " + std::to_string(row.size()) + ", round " + std::to_string(round));
    const Plain expected = plain_distribution(row, o);
    const std::vector<Candidate> found = distribution(table(), row, o, {});
    ASSERT_EQ(found.size(), expected.tokens.size());
    for (std::size_t i = 0; i < found.size(); ++i) {
      ASSERT_EQ(found[i].token, expected.tokens[i]) << i;
      ASSERT_EQ(std::bit_cast<std::uint32_t>(found[i].probability),
                std::bit_cast<std::uint32_t>(expected.probabilities[i]))
          << i;
    }
    for (std::int64_t position = 0; position < 5; ++position) {
      ASSERT_EQ(sample(table(), row, o, {}, position), plain_draw(expected, uniform(o.seed, position, 0)));
    }
  }
}

}  // namespace
}  // namespace jupiter

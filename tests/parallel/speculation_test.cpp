// Speculation against plain decoding, bit by bit, on a ring whose messages are delayed at random.
#include "parallel/pipeline/speculation.hpp"

#include <gtest/gtest.h>

#include "random_ring.hpp"

namespace jupiter {
namespace {

TEST(Speculation, LapModeGivesTheBitsOfPlainDecoding) {
  for (const int stages : {1, 2, 4}) compare_with_plain({.stages = stages, .mode = DecodeMode::lap});
}

TEST(Speculation, ContinuousModeGivesTheBitsOfPlainDecoding) {
  std::int64_t steps = 0;
  for (const int stages : {1, 2, 3, 4}) {
    steps += compare_with_plain({.hit_rate = 0.8, .stages = stages, .seeds = 20}).steps;
  }
  EXPECT_GT(steps, 10000);
}

TEST(Speculation, HopelessDraftsChangeNothing) {
  for (const int stages : {1, 3}) compare_with_plain({.hit_rate = 0, .stages = stages});
}

TEST(Speculation, SampledTokensAreThoseOfPlainDecoding) {
  SamplingOptions sampling;
  sampling.temperature = 0.9f;
  sampling.repeat_penalty = 1.2f;
  sampling.seed = 11;
  for (const int stages : {1, 4}) compare_with_plain({.hit_rate = 0.6, .stages = stages, .sampling = sampling});
}

TEST(Speculation, LateDraftsChangeNothing) {
  for (const DecodeMode mode : {DecodeMode::lap, DecodeMode::continuous}) {
    const Compared met = compare_with_plain({.hit_rate = 0.3, .stages = 3, .mode = mode, .late = true});
    EXPECT_GT(met.late_results, 0);
  }
}

TEST(Speculation, AVerdictAboutThePastOrNothingKnownIsPassedOver) {
  Ring ring(1, {});
  ring.open(1, {});
  Frame f = prompt_frame(kPrompt, FrameRun::sample);
  ring.stages[0]->queue_verdict(1, {900, 800});
  ring.stages[0]->queue_verdict(2, {1, 0});  // not open
  const auto want = plain(kPrompt, 1, {});
  EXPECT_EQ(ring.stages[0]->forward(f).sequences.at(0).tokens, want.tokens);
}

TEST(OutputHeadCost, ARowComesAlongWhereThatCostsLessThanAPassOfItsOwn) {
  OutputHeadCost cost;
  const double before = cost.least_probability();
  EXPECT_GT(before, 0.05);
  EXPECT_LT(before, 0.3);
  for (int i = 0; i < 8; ++i) {
    cost.observe(1, 1e-3);
    cost.observe(5, 2e-3);
  }
  EXPECT_NEAR(cost.least_probability(), 0.25, 1e-9);
  for (int i = 0; i < 100; ++i) cost.observe(3, 9e-3);
  EXPECT_EQ(cost.least_probability(), 0.5);  // never out of reach of what is likely
}

TEST(Speculation, ATreeStopsAtTheContextsEnd) {
  const auto count = kContext - static_cast<std::int64_t>(kPrompt.size()) + 1;
  const Answer want = plain(kPrompt, count, {});
  std::vector<TokenId> all = kPrompt;
  all.insert(all.end(), want.tokens.begin(), want.tokens.end());
  for (int i = 0; i < 20; ++i) all.push_back(1);  // the drafter would go on
  Ring ring(2, [&] {
    DraftMixer m;
    m.add(std::make_shared<OracleDrafter>(all, 1.0, 256, 1));
    return m;
  });
  const Answer got = RandomRun(ring, 1).run(kPrompt, count, spec_options(DecodeMode::continuous, count, {}));
  EXPECT_EQ(got.tokens, want.tokens);
}

}  // namespace
}  // namespace jupiter

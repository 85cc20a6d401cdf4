// Sampling under speculation keeps the distribution: a chi-square test over 20,000 draws.
#include "parallel/pipeline/decoder.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <deque>

namespace jupiter {
namespace {

constexpr std::int64_t kDraws = 20'000;
const std::vector<float> kLogits = {1.2f, 2.0f, 0.3f, 1.7f, -0.5f, 0.9f, 1.4f, 0.0f};

// Two tokens, always the same ones; not the most likely ones alone.
class Fixed : public Drafter {
 public:
  void propose(DraftContext, std::vector<Proposal>& out) override {
    out.push_back({3, 0.5f, DraftSource::table});
    out.push_back({4, 0.3f, DraftSource::table});
  }
  void observe(DraftContext, TokenId) override {}
};

SequenceOptions without_end(SequenceOptions options) {
  options.end_tokens.clear();
  return options;
}

// How often each token came, from a head that says the same of every row.
std::vector<std::int64_t> draws(bool typical, DraftStats& stats, const GrammarSpec& grammar = {}) {
  Decoder decoder(kernels(), 1);
  decoder.set_drafters([] {
    DraftMixer mixer;
    mixer.add(std::make_shared<Fixed>());
    return mixer;
  });
  SequenceOptions options;
  options.sampling = {.temperature = 1, .top_k = 0, .top_p = 1, .min_p = 0, .seed = 5};
  options.decode = {DecodeMode::lap, typical, 6, 5, 2 * kDraws};
  options.grammar = grammar;
  options.answer_position = 1;
  options.end_tokens = {7};
  decoder.set_vocabulary([] {
    return std::make_shared<TokenTrie>(std::vector<std::string>{"a", "b", "c", "d", "e", "f", "g", ""}, false);
  });
  decoder.open(1, grammar.empty() ? without_end(options) : options);
  std::vector<float> rows;
  const std::vector<float> hidden(16 * 4);
  const OutputHeadPass head = [&](std::span<const std::int64_t> wanted, const OutputHeadNeed&) {
    rows.clear();
    for (std::size_t i = 0; i < wanted.size(); ++i) rows.insert(rows.end(), kLogits.begin(), kLogits.end());
    const auto n = static_cast<std::int64_t>(wanted.size());
    return OutputHeadRows{{rows.data(), n, std::ssize(kLogits)}, {hidden.data(), n, 4}};
  };
  Frame frame;
  frame.runs = {FrameRun::consecutive(1, 0, 1, FrameRun::sample | FrameRun::draft)};
  frame.tokens = {0};
  std::vector<std::int64_t> counts(kLogits.size());
  for (std::int64_t drawn = 0; drawn < kDraws;) {
    const FrameResult result = decoder.decode(frame, 0, head);
    const SequenceResult& r = result.sequences.at(0);
    for (const TokenId t : r.tokens) ++counts[static_cast<std::size_t>(t)];
    drawn += std::ssize(r.tokens);
    const Segment& s = r.segments.at(0);
    frame.runs = {tree_run(1, s, r.verdict)};
    frame.tokens = s.tokens;
    frame.links = s.links;
  }
  stats = decoder.close(1, {kDraws, 0, {}}).draft;
  return counts;
}

// Drafts that the grammar refuses do not come, however plausible they are; the others come as often as they should.
void check_constrained(bool typical) {
  DraftStats stats;
  const std::vector<std::int64_t> counts = draws(typical, stats, {"root ::= [a-d] [abdf]* \"!\""});
  EXPECT_EQ(counts[2] + counts[4] + counts[6] + counts[7], counts[2]);
  EXPECT_LE(counts[2], 1);
  EXPECT_GT(stats.accepted, kDraws / 8);
  if (typical) return;
  const double odds = static_cast<double>(counts[1]) / static_cast<double>(counts[0]);
  EXPECT_NEAR(odds, std::exp(kLogits[1] - kLogits[0]), 0.15);
}

double chi_square(const std::vector<std::int64_t>& counts) {
  double sum = 0, total = 0, chi = 0;
  for (const float l : kLogits) sum += std::exp(static_cast<double>(l));
  for (const std::int64_t n : counts) total += static_cast<double>(n);
  for (std::size_t i = 0; i < counts.size(); ++i) {
    const double expected = total * std::exp(static_cast<double>(kLogits[i])) / sum;
    chi += std::pow(static_cast<double>(counts[i]) - expected, 2) / expected;
  }
  return chi;
}

constexpr double kCritical = 24.3;  // 7 degrees of freedom: above with probability 0.001

TEST(Decoder, SampledTokensKeepTheirDistribution) {
  DraftStats stats;
  EXPECT_LT(chi_square(draws(false, stats)), kCritical);
  EXPECT_GT(stats.accepted, kDraws / 8);  // drafts did count
}

// Taking a plausible draft without drawing is what a rejection step would have to put right.
TEST(Decoder, TypicalAcceptanceDoesNot) {
  DraftStats stats;
  EXPECT_GT(chi_square(draws(true, stats)), 10 * kCritical);
}

TEST(Decoder, AGrammarHoldsWhateverIsDrafted) {
  check_constrained(false);
  check_constrained(true);
}

}  // namespace
}  // namespace jupiter

// Tables from sequences, and what the drafter makes of them.
#include <gtest/gtest.h>

#include "parallel/draft/draft_table.hpp"
#include "parallel/train/ngram_training.hpp"

namespace jupiter {
namespace {

constexpr std::int64_t kVocab = 50;

DraftData count(const std::vector<std::vector<TokenId>>& sequences) {
  NgramCounts counts(kVocab);
  for (const auto& s : sequences) counts.add(s, 1);
  DraftData data;
  data.identity.vocab_size = kVocab;
  for (std::size_t i = 0; i < kDraftOrders; ++i) data.tables[i] = counts.table(i + 1, 1, 1000);
  return data;
}

double probability(const std::vector<Proposal>& proposals, TokenId token) {
  double p = 0;
  for (const Proposal& x : proposals) p += x.token == token ? static_cast<double>(x.probability) : 0;
  return p;
}

TEST(NgramCounts, ContextsStayInsideTheirSequence) {
  const DraftData d = count({{1, 2, 3}, {2, 4}});
  EXPECT_EQ(d.tables[0].keys, (std::vector<std::uint64_t>{1, 2}));
  EXPECT_EQ(d.tables[0].counts, (std::vector<std::uint8_t>{1, 2}));
  EXPECT_EQ(d.tables[0].tokens, (std::vector<TokenId>{2, 3, 4}));
  EXPECT_EQ(d.tables[1].keys, (std::vector<std::uint64_t>{1 * kVocab + 2}));  // not 3 2: the next one's
  EXPECT_EQ(d.tables[2].contexts(), 0u);
}

TEST(NgramCounts, TheRarestContextsGoWhereThereIsNoRoom) {
  NgramCounts counts(kVocab);
  counts.add(std::vector<TokenId>{1, 2, 1, 2, 1, 3, 4}, 0);
  EXPECT_EQ(counts.table(1, 1, 100).contexts(), 3u);
  EXPECT_EQ(counts.table(1, 2, 100).keys, (std::vector<std::uint64_t>{1, 2}));
  EXPECT_EQ(counts.table(1, 1, 1).keys, (std::vector<std::uint64_t>{1}));
}

TEST(NgramCounts, WhatTheModelExpectsFillsWhatWasNotSeen) {
  const DraftData d = count({{1, 2}, {1, 2}, {1, 2}, {1, 2}});
  std::vector<NextTokens> expected(3);
  for (NextTokens& e : expected) {
    for (std::size_t i = 0; i < kDraftFollowers; ++i) e.tokens[i] = static_cast<TokenId>(20 + i);
    e.probabilities[0] = 0.8f;
  }
  const DraftTable t = blend_single(d.tables[0], expected);
  ASSERT_EQ(t.contexts(), 3u);
  EXPECT_EQ(t.tokens, (std::vector<TokenId>{20, 2, 20, 20}));
  EXPECT_GT(t.shares[0], t.shares[2]);  // after 1 the counted 2 has most of it
}

TEST(TableDrafter, LongestContextFirstAndNeverMoreThanOne) {
  TableDrafter drafter(std::make_shared<const DraftData>(
      count({{1, 2, 3, 4}, {1, 2, 3, 4}, {1, 2, 3, 4}, {9, 3, 5}, {9, 3, 5}, {8, 3, 6}, {8, 3, 6}})));
  const auto propose = [&](std::vector<TokenId> context) {
    std::vector<Proposal> out;
    drafter.propose(context, out);
    double sum = 0;
    for (const Proposal& p : out) sum += static_cast<double>(p.probability);
    EXPECT_LE(sum, 1 + 1e-5);
    return out;
  };
  const auto triple = propose({1, 2, 3}), pair = propose({9, 3}), single = propose({3});
  EXPECT_EQ(triple.front().token, 4);
  EXPECT_GT(probability(triple, 4), 0.7);
  EXPECT_EQ(pair.front().token, 5);
  EXPECT_GT(probability(pair, 5), probability(single, 5));
  EXPECT_GT(probability(pair, 6), 0);  // from the shorter context
  EXPECT_TRUE(propose({}).empty());
  EXPECT_TRUE(propose({40}).empty());
}

TEST(TableDrafter, TrustFollowsWhatHappens) {
  const auto data = std::make_shared<const DraftData>(count({{1, 2}, {1, 2}, {1, 2}}));
  TableDrafter right(data), wrong(data), fresh(data);
  const std::vector<TokenId> context = {1};
  for (int i = 0; i < 30; ++i) {
    right.observe(context, 2);
    wrong.observe(context, 3);
  }
  std::vector<Proposal> of_right, of_wrong, of_fresh;
  right.propose(context, of_right);
  wrong.propose(context, of_wrong);
  fresh.propose(context, of_fresh);
  EXPECT_GT(probability(of_right, 2), 1.1 * probability(of_fresh, 2));
  EXPECT_LT(probability(of_wrong, 2), 0.3 * probability(of_fresh, 2));
}

}  // namespace
}  // namespace jupiter

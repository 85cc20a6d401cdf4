// What is kept of a KV cache for later prompts, and who holds which blocks.
#include <gtest/gtest.h>

#include "kernels/kv_cache.hpp"
#include "parallel/pipeline/prefix_cache.hpp"

namespace jupiter {
namespace {

std::vector<TokenId> tokens(TokenId first, TokenId count) {
  std::vector<TokenId> t;
  for (TokenId i = 0; i < count; ++i) t.push_back(first + i);
  return t;
}

TEST(PrefixCache, FindsTheLongestCommonBeginning) {
  PrefixCache cache;
  EXPECT_TRUE(cache.add(1, tokens(0, 20)).empty());
  std::vector<TokenId> other = tokens(0, 10);
  other.insert(other.end(), {900, 901, 902, 903});
  EXPECT_TRUE(cache.add(2, other).empty());
  EXPECT_EQ(cache.find(tokens(0, 30), 29).sequence, 1u);
  EXPECT_EQ(cache.find(tokens(0, 30), 29).tokens, 20);
  EXPECT_EQ(cache.find(tokens(0, 30), 12).tokens, 12);
  other.push_back(904);
  EXPECT_EQ(cache.find(other, 100).sequence, 2u);
  EXPECT_EQ(cache.find(tokens(500, 30), 29).tokens, 0);
  EXPECT_EQ(cache.find(tokens(0, PrefixCache::kLeastTokens - 1), 100).tokens, 0);  // not worth it
}

TEST(PrefixCache, ALongerOneTakesThePlaceOfThoseItBeginsWith) {
  PrefixCache cache;
  cache.add(1, tokens(0, 20));
  cache.add(2, tokens(300, 20));
  EXPECT_FALSE(cache.is_worth_keeping(tokens(0, 20)));
  EXPECT_FALSE(cache.is_worth_keeping(tokens(0, 12)));
  EXPECT_TRUE(cache.is_worth_keeping(tokens(0, 21)));
  EXPECT_EQ(cache.add(3, tokens(0, 40)), (std::vector<SequenceId>{1}));
  EXPECT_EQ(cache.size(), 2u);
}

TEST(PrefixCache, WhatWasUsedLongestAgoGoesFirst) {
  PrefixCache cache;
  for (SequenceId s = 1; s <= 3; ++s) cache.add(s, tokens(static_cast<TokenId>(s) * 100, 20));
  cache.touch(1);
  EXPECT_EQ(cache.drop([](SequenceId s) { return s != 2; }), SequenceId{3});
  EXPECT_EQ(cache.drop([](SequenceId) { return true; }), SequenceId{2});
  EXPECT_EQ(cache.drop([](SequenceId) { return true; }), SequenceId{1});
  EXPECT_EQ(cache.drop([](SequenceId) { return true; }), std::nullopt);
}

TEST(KvCache, CountsWhatReservingTakesAndWhatClosingFrees) {
  KvCache cache({1, 1, 32}, 10);
  Sequence first;
  EXPECT_EQ(cache.blocks_to_reserve(first, 0, 70), 3);
  cache.reserve(first, 0, 70);
  first.length = 70;
  EXPECT_EQ(cache.free_blocks(), 7);
  Sequence second = cache.fork(first, 40);  // one block in full, eight positions of another
  EXPECT_EQ(cache.free_blocks(), 7);
  EXPECT_EQ(cache.blocks_of_its_own(first), 1);
  EXPECT_EQ(cache.blocks_of_its_own(second), 0);
  const Sequence* both[] = {&first, &second};
  EXPECT_EQ(cache.blocks_held(both), 3);
  EXPECT_EQ(cache.blocks_to_reserve(second, 40, 65), 2);  // a copy of the shared one, and a new one
  const std::int64_t before = cache.free_blocks();
  cache.reserve(second, 40, 65);
  EXPECT_EQ(before - cache.free_blocks(), 2);
  EXPECT_EQ(cache.blocks_held(both), 5);
  cache.truncate(first, 0);
  EXPECT_EQ(cache.blocks_of_its_own(second), 3);
  cache.truncate(second, 0);
  EXPECT_EQ(cache.free_blocks(), cache.total_blocks());
}

}  // namespace
}  // namespace jupiter

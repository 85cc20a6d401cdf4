// How a tensor group divides a model: every row once, in units that the kernels can take.
#include "io/model/tensor_slice.hpp"

#include <gtest/gtest.h>

#include <numeric>

#include "io/error.hpp"
#include "io/model/packed.hpp"

namespace jupiter {
namespace {

ModelConfig config(std::int64_t heads, std::int64_t kv_heads, std::int64_t head_dim, std::int64_t hidden) {
  ModelConfig c;
  c.n_heads = heads;
  c.n_kv_heads = kv_heads;
  c.head_dim = head_dim;
  c.dim = heads * head_dim;
  c.hidden_dim = hidden;
  c.vocab_size = 1003;
  c.n_layers = 2;
  return c;
}

std::vector<double> equal_shares(int boards) {
  return std::vector<double>(static_cast<std::size_t>(boards), 1.0 / boards);
}

// Ranges that follow each other from 0 to `count` and begin at multiples of `unit`.
void expect_whole(const std::vector<TensorSlice>& slices, IndexRange TensorSlice::*part, std::int64_t count,
                  std::int64_t unit) {
  std::int64_t at = 0;
  for (const TensorSlice& s : slices) {
    EXPECT_EQ((s.*part).first, at);
    EXPECT_EQ((s.*part).first % unit, 0) << count;
    at = (s.*part).last;
  }
  EXPECT_EQ(at, count);
}

TEST(TensorSlice, EveryRowBelongsToOneBoard) {
  for (const ModelConfig& c : {config(9, 3, 64, 1536), config(32, 4, 64, 5632), config(4, 2, 16, 192)}) {
    for (int boards = 1; boards <= 6; ++boards) {
      const auto slices = slices_of(c, {equal_shares(boards), false, false});
      ASSERT_EQ(std::ssize(slices), boards);
      expect_whole(slices, &TensorSlice::heads, c.n_heads, 1);
      expect_whole(slices, &TensorSlice::hidden, c.hidden_dim, kGroupCols);
      expect_whole(slices, &TensorSlice::attention_out, c.dim, kPanelRows);
      expect_whole(slices, &TensorSlice::feed_forward_out, c.dim, kPanelRows);
      expect_whole(slices, &TensorSlice::vocabulary, c.vocab_size, kPanelRows);
      const std::int64_t group = c.n_heads / c.n_kv_heads;
      for (const TensorSlice& s : slices) {
        if (s.heads.size() == 0) continue;
        EXPECT_LE(s.kv_heads.first, s.heads.first / group);
        EXPECT_GE(s.kv_heads.last, (s.heads.last - 1) / group + 1);
      }
    }
  }
}

TEST(TensorSlice, KeysAndValuesAreDividedWhereThereAreEnoughOfThem) {
  const ModelConfig c = config(32, 4, 64, 5632);
  std::int64_t held = 0;
  for (const TensorSlice& s : slices_of(c, {equal_shares(4), false, false})) held += s.kv_heads.size();
  EXPECT_EQ(held, 4);
  held = 0;
  for (const TensorSlice& s : slices_of(c, {equal_shares(7), false, false})) held += s.kv_heads.size();
  EXPECT_GT(held, 4) << "more boards than key-value heads: some are held twice";
}

TEST(TensorSlice, UnequalSharesGiveUnequalSlices) {
  const auto slices = slices_of(config(32, 4, 64, 5632), {{0.75, 0.25}, false, false});
  EXPECT_EQ(slices[0].hidden.size(), 5632 / 4 * 3);
  EXPECT_EQ(slices[0].heads.size(), 24);
  EXPECT_EQ(slices[1].kv_heads, (IndexRange{3, 4}));
}

TEST(TensorSlice, RepeatedProductsAreWholeOnEveryBoard) {
  const ModelConfig c = config(32, 4, 64, 5632);
  for (const TensorSlice& s : slices_of(c, {equal_shares(3), true, true})) {
    EXPECT_EQ(s.attention_out, (IndexRange{0, c.dim}));
    EXPECT_EQ(s.feed_forward_out, (IndexRange{0, c.dim}));
  }
}

TEST(TensorSlice, WhatCannotBeDividedIsRefused) {
  const ModelConfig c = config(4, 2, 16, 96);
  EXPECT_THROW(slices_of(c, {equal_shares(4), false, false}), UsageError) << "three groups of hidden rows";
  EXPECT_THROW(slices_of(c, {{0.5, 0.4}, false, false}), UsageError) << "not the whole";
  EXPECT_THROW(slices_of(c, {{1.0, 0.0}, false, false}), UsageError) << "nothing to do";
  EXPECT_THROW(slices_of(c, {{1.5, -0.5}, false, false}), UsageError);
  EXPECT_THROW(slices_of(c, {{0.99, 0.01}, false, false}), UsageError) << "a share below one group";
}

}  // namespace
}  // namespace jupiter

// Which rows of every matrix one board of a tensor group holds. A group computes each layer together: every matrix is
// split by output rows, so that each output keeps the order of its sum, hence its bits (parallel/DESIGN.md, decision
// 12). A slice consists of whole panels of 16 rows, which are matrices of their own.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "io/model/model_config.hpp"

namespace jupiter {

// [first, last) of rows, columns, or heads.
struct IndexRange {
  std::int64_t first = 0;
  std::int64_t last = 0;
  std::int64_t size() const { return last - first; }
  bool operator==(const IndexRange&) const = default;
};

struct TensorSlice {
  IndexRange heads;             // query heads, hence rows of wq; keys and values come with the heads that read them
  IndexRange kv_heads;          // rows of wk and wv, and what the cache holds; other boards may hold the same ones, too
  IndexRange hidden;            // rows of w_gate and w_up
  IndexRange attention_out;     // rows of wo; where every board has all of them, no gather follows
  IndexRange feed_forward_out;  // rows of w_down, likewise
  IndexRange vocabulary;        // rows of the output head
  IndexRange expert_hidden;     // rows of each expert's w_gate and w_up
  bool operator==(const TensorSlice&) const = default;
};

// How a group divides a layer.
struct TensorSplit {
  std::vector<double> shares;            // of each board, in the group's order; their sum is 1
  bool repeat_attention_out = false;     // every board computes all of wo: one gather less, more to compute
  bool repeat_feed_forward_out = false;  // the same with w_down
  bool operator==(const TensorSplit&) const = default;
};

// A board that computes alone: all rows of everything.
TensorSlice whole_slice(const ModelConfig& config);
// The slices of a group's boards, by rounding the running sums of the shares to whole units: hidden rows to groups of
// 32 columns, heads to whole panels and, where there are as many key-value heads as boards, to whole key-value heads.
// A board may be left without heads, but not without hidden rows (UsageError).
std::vector<TensorSlice> slices_of(const ModelConfig& config, const TensorSplit& split);

// Tokens of boards that share the output head, by running sums of the shares as above; UsageError where one of them is
// left without any, or the shares do not sum to 1.
std::vector<IndexRange> vocabulary_parts(const ModelConfig& config, std::span<const double> shares);

// How many boards a group can have: each needs hidden rows of every feed-forward part.
std::int64_t most_boards(const ModelConfig& config);

// Columns that boards exchange after a product, by board, and whether they may travel as groups of 32 int8.
std::vector<IndexRange> attended_columns(const ModelConfig& config, std::span<const TensorSlice> slices);
bool in_groups(std::span<const IndexRange> columns);

}  // namespace jupiter

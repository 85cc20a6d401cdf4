// Running sums of shares, rounded to units.
#include "io/model/tensor_slice.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <string>

#include "io/error.hpp"
#include "io/model/packed.hpp"

namespace jupiter {

namespace {

constexpr double kShareError = 1e-3;  // by which shares written by hand may miss 1

std::int64_t units_of(std::int64_t count, std::int64_t unit) {
  return (count + unit - 1) / unit;
}

// Where each board's part of `count` ends, in whole units.
std::vector<IndexRange> divide(std::int64_t count, std::int64_t unit, std::span<const double> shares) {
  const auto units = static_cast<double>(units_of(count, unit));
  std::vector<IndexRange> ranges;
  double sum = 0;
  std::int64_t at = 0;
  for (std::size_t b = 0; b < shares.size(); ++b) {
    sum += shares[b];
    const bool last = b + 1 == shares.size();
    const std::int64_t end = last ? count : std::min<std::int64_t>(count, std::llround(sum * units) * unit);
    ranges.push_back({at, std::max(at, end)});
    at = ranges.back().last;
  }
  return ranges;
}

// How many heads are a whole number of panels.
std::int64_t panel_heads(const ModelConfig& c) {
  return kPanelRows / std::gcd(kPanelRows, c.head_dim);
}

// Key-value heads of these query heads, outward to whole panels.
IndexRange kv_heads_of(const ModelConfig& c, const IndexRange& heads) {
  if (heads.size() == 0) return {0, 0};
  const std::int64_t group = c.n_heads / c.n_kv_heads, unit = panel_heads(c);
  const std::int64_t first = heads.first / group / unit * unit;
  return {first, std::min(c.n_kv_heads, units_of(units_of(heads.last, group), unit) * unit)};
}

void check_shares(std::span<const double> shares, const std::string& of_what) {
  double sum = 0;
  for (const double s : shares) {
    if (!(s > 0 && s <= 1)) throw UsageError("shares of " + of_what + ": expected above 0, found " + std::to_string(s));
    sum += s;
  }
  if (std::abs(sum - 1) > kShareError) {
    throw UsageError("shares of " + of_what + ": expected a sum of 1, found " + std::to_string(sum));
  }
}

void check(const ModelConfig& c, const TensorSplit& split) {
  check_shares(split.shares, "a tensor group");
  if (std::ssize(split.shares) > most_boards(c)) {
    throw UsageError("tensor group: expected at most " + std::to_string(most_boards(c)) + " boards (groups of " +
                     std::to_string(kGroupCols) + " hidden rows), found " + std::to_string(split.shares.size()));
  }
  if (c.qk_norm_whole && split.shares.size() > 1) {
    throw UsageError("tensor group: expected norms of single heads, found architecture " +
                     std::string(name(c.architecture)) + ", whose norms of q and k read all heads");
  }
}

}  // namespace

TensorSlice whole_slice(const ModelConfig& c) {
  return {{0, c.n_heads}, {0, c.n_kv_heads}, {0, c.hidden_dim},       {0, c.dim},
          {0, c.dim},     {0, c.vocab_size}, {0, c.expert_hidden_dim}};
}

std::int64_t most_boards(const ModelConfig& c) {
  std::int64_t most = std::numeric_limits<std::int64_t>::max();
  for (const std::int64_t width : {c.hidden_dim, c.expert_hidden_dim}) {
    if (width > 0) most = std::min(most, units_of(width, kGroupCols));
  }
  return most;
}

std::vector<TensorSlice> slices_of(const ModelConfig& c, const TensorSplit& split) {
  check(c, split);
  const auto boards = std::ssize(split.shares);
  if (boards == 1) return {whole_slice(c)};
  const std::int64_t kv_unit = panel_heads(c) * (c.n_heads / c.n_kv_heads);
  const bool whole_kv_heads = units_of(c.n_heads, kv_unit) >= boards;
  const auto heads = divide(c.n_heads, whole_kv_heads ? kv_unit : panel_heads(c), split.shares);
  const auto hidden = divide(c.hidden_dim, kGroupCols, split.shares);
  const auto expert_hidden = divide(c.expert_hidden_dim, kGroupCols, split.shares);
  const auto dim = divide(c.dim, kPanelRows, split.shares);
  const auto vocabulary = divide(c.vocab_size, kPanelRows, split.shares);
  std::vector<TensorSlice> slices;
  for (std::int64_t b = 0; b < boards; ++b) {
    const bool left_out =
        (c.hidden_dim > 0 && hidden[b].size() == 0) || (c.expert_hidden_dim > 0 && expert_hidden[b].size() == 0);
    if (left_out) {
      throw UsageError("tensor group: expected shares of at least " + std::to_string(kGroupCols) +
                       " hidden rows, found board " + std::to_string(b) + " without any (share " +
                       std::to_string(split.shares[b]) + ")");
    }
    const IndexRange all{0, c.dim};
    slices.push_back({heads[b], kv_heads_of(c, heads[b]), hidden[b], split.repeat_attention_out ? all : dim[b],
                      split.repeat_feed_forward_out ? all : dim[b], vocabulary[b], expert_hidden[b]});
  }
  return slices;
}

std::vector<IndexRange> vocabulary_parts(const ModelConfig& c, std::span<const double> shares) {
  check_shares(shares, "the output head");
  std::vector<IndexRange> parts = divide(c.vocab_size, kPanelRows, shares);
  for (std::size_t b = 0; b < parts.size(); ++b) {
    if (parts[b].size() > 0) continue;
    throw UsageError("output head: expected shares of at least " + std::to_string(kPanelRows) +
                     " tokens, found board " + std::to_string(b) + " without any (share " + std::to_string(shares[b]) +
                     ")");
  }
  return parts;
}

std::vector<IndexRange> attended_columns(const ModelConfig& c, std::span<const TensorSlice> slices) {
  std::vector<IndexRange> columns;
  for (const TensorSlice& s : slices) columns.push_back({s.heads.first * c.head_dim, s.heads.last * c.head_dim});
  return columns;
}

bool in_groups(std::span<const IndexRange> columns) {
  return std::all_of(columns.begin(), columns.end(),
                     [](const IndexRange& r) { return r.first % kGroupCols == 0 && r.last % kGroupCols == 0; });
}

}  // namespace jupiter

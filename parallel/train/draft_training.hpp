// How a model makes draft tables: what followed what in token sequences, and what it expects after each single token.
#pragma once

#include <string>

#include "io/model/draft_file.hpp"
#include "parallel/pipeline/pipeline.hpp"

namespace jupiter {

// Counts contexts of sequences. Memory: 4 bytes a token, and 16 while a table is made.
class DraftCounts {
 public:
  explicit DraftCounts(std::int64_t vocab_size) : vocab_size_(vocab_size) {}
  // Counts what follows from `counted_from` on; contexts may reach back before it.
  void add(std::span<const TokenId> sequence, std::size_t counted_from);
  std::int64_t tokens() const { return counted_; }
  // Contexts of `order` tokens that were seen at least `least_count` times, at most `most_contexts` of them.
  DraftTable table(std::size_t order, std::int64_t least_count, std::size_t most_contexts) const;

 private:
  std::int64_t vocab_size_;
  std::vector<TokenId> tokens_;    // sequences one after the other
  std::vector<std::uint8_t> use_;  // tokens before it in its sequence, at most kDraftOrders; or kNotCounted
  static constexpr std::uint8_t kNotCounted = 255;
  std::int64_t counted_ = 0;
};

// The most likely tokens after one token. Plain data: it travels between ranks as bytes.
struct NextTokens {
  std::array<TokenId, kDraftFollowers> tokens{};
  std::array<float, kDraftFollowers> probabilities{};
};

// The last stage's side of the sweep over single tokens: its rows come in order of the tokens.
class SingleTokens {
 public:
  explicit SingleTokens(const KernelTable& kernels) : kernels_(kernels) {}
  LogitsSink sink() {
    return [this](SequenceId, std::int64_t, std::span<const float> logits) { row(logits); };
  }
  const std::vector<NextTokens>& rows() const { return rows_; }

 private:
  void row(std::span<const float> logits);
  const KernelTable& kernels_;
  std::vector<float> scratch_;
  std::vector<std::pair<float, TokenId>> best_;
  std::vector<NextTokens> rows_;
};

// Rank 0's side: every token of the vocabulary behind `prefix` (not empty), many in a frame. progress may end it by
// throwing.
void sweep_single_tokens(Pipeline& pipeline, const std::vector<TokenId>& prefix, std::int64_t vocab_size,
                         const std::function<void(std::int64_t done)>& progress);

// One token's followers: what was counted, and the model's expectation in the place of what was not seen often.
DraftTable blend_single(const DraftTable& counted, std::span<const NextTokens> expected);

}  // namespace jupiter

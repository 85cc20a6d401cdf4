// How a draft table is made: n-grams are counted in token sequences (what followed which one, two or three tokens), and
// the model says what it expects after each single token. Neural training is in draft_head_training.hpp.
#pragma once

#include <string>

#include "io/model/draft_file.hpp"
#include "parallel/pipeline/pipeline.hpp"

namespace jupiter {

// Counts n-grams. It takes 5 bytes of memory for each token, and 16 more while a table is made.
class NgramCounts {
 public:
  explicit NgramCounts(std::int64_t vocab_size) : vocab_size_(vocab_size) {}
  // Counts the sequence's tokens from index `counted_from` on. Their contexts may reach back before it.
  void add(std::span<const TokenId> sequence, std::size_t counted_from);
  std::int64_t tokens() const { return counted_; }
  // The table of the contexts of `order` tokens that were seen at least `least_count` times. Where there are more than
  // `most_contexts`, those seen most often are taken.
  DraftTable table(std::size_t order, std::int64_t least_count, std::size_t most_contexts) const;

 private:
  std::int64_t vocab_size_;
  std::vector<TokenId> tokens_;  // sequences one after the other
  // Of each token: how many stand before it in its sequence (at most kDraftOrders), or kNotCounted.
  std::vector<std::uint8_t> use_;
  static constexpr std::uint8_t kNotCounted = 255;
  std::int64_t counted_ = 0;
};

// The most likely tokens after one token. It is plain data, because it travels between ranks as bytes.
struct NextTokens {
  std::array<TokenId, kDraftFollowers> tokens{};
  std::array<float, kDraftFollowers> probabilities{};
};

// The last stage's side of the sweep over single tokens. Its rows come in the order of the tokens.
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

// Rank 0's side of the sweep: sends every token of the vocabulary behind `prefix` (which must not be empty), many in
// one frame. `progress` may end the sweep by throwing.
void sweep_single_tokens(Pipeline& pipeline, const std::vector<TokenId>& prefix, std::int64_t vocab_size,
                         const std::function<void(std::int64_t done)>& progress);

// The table of single tokens from counts and expectations: the model's expectation stands in for what was not seen
// often.
DraftTable blend_single(const DraftTable& counted, std::span<const NextTokens> expected);

}  // namespace jupiter

// What drafts with a neural network: draft heads (draft_head.hpp) and draft models (parallel/draft_model). Asking one
// costs time, unlike the other drafters; DraftBlender (draft_blender.hpp) decides when to ask.
#pragma once

#include <memory>
#include <vector>

#include "kernels/kernel_table.hpp"
#include "parallel/draft/draft.hpp"

namespace jupiter {

// One guess of a neural drafter. It travels between ranks as plain data.
struct DraftGuess {
  TokenId token = 0;
  float probability = 0;
};

// A network that drafts for one sequence, with its state in that sequence.
class NeuralDrafter {
 public:
  virtual ~NeuralDrafter() = default;
  // A new token was decided. hidden: [dim], after the final norm, of the row that decided it.
  virtual void begin(std::span<const float> hidden) = 0;
  // What follows `context`, most likely first; empty where nothing is known (yet). The context's tokens from index
  // `root` on are the drafted path: the newest decided token, then drafted ones.
  virtual std::vector<DraftGuess> guess(DraftContext context, std::size_t root) = 0;
  // Says long before the first guess() how the sequence begins, so that a draft model can compute its cache ahead.
  virtual void prefetch(DraftContext) {}
  // Whether more is known by now than at the last guess(). Only drafters on other ranks learn something in between.
  virtual bool has_news() { return false; }
};

// Makes the drafters of new sequences. What they share is packed only once.
class NeuralDrafterFactory {
 public:
  virtual ~NeuralDrafterFactory() = default;
  virtual std::unique_ptr<NeuralDrafter> make() const = 0;
};

// The most likely tokens of a row of logits, most likely first; index i is token i. The logits are overwritten.
std::vector<DraftGuess> likeliest(const KernelTable& kernels, std::vector<float>& logits);
// The same for a part of the vocabulary: index i is token vocabulary[i].
std::vector<DraftGuess> likeliest(const KernelTable& kernels, std::vector<float>& logits,
                                  std::span<const TokenId> vocabulary);

}  // namespace jupiter

#include "parallel/draft/neural_drafter.hpp"

#include <algorithm>

#include "kernels/softmax.hpp"

namespace jupiter {

namespace {

constexpr std::size_t kGuesses = 8;  // most guesses about one context

// The most likely entries of a row of logits; token(i) names index i. The logits are overwritten.
template <typename Name>
std::vector<DraftGuess> best_of(const KernelTable& kernels, std::vector<float>& logits, const Name& token) {
  const double sum = exponentials(kernels, logits, largest(logits), logits);
  std::vector<std::size_t> order;
  const auto likelier = [&](std::size_t a, std::size_t b) {
    return logits[a] != logits[b] ? logits[a] > logits[b] : a < b;
  };
  for (std::size_t i = 0; i < logits.size(); ++i) {
    if (order.size() == kGuesses && !likelier(i, order.back())) continue;
    order.insert(std::upper_bound(order.begin(), order.end(), i, likelier), i);
    if (order.size() > kGuesses) order.pop_back();
  }
  std::vector<DraftGuess> guesses;
  for (const std::size_t i : order) {
    guesses.push_back({token(i), static_cast<float>(static_cast<double>(logits[i]) / sum)});
  }
  return guesses;
}

}  // namespace

std::vector<DraftGuess> likeliest(const KernelTable& kernels, std::vector<float>& logits) {
  return best_of(kernels, logits, [](std::size_t i) { return static_cast<TokenId>(i); });
}

std::vector<DraftGuess> likeliest(const KernelTable& kernels, std::vector<float>& logits,
                                  std::span<const TokenId> vocabulary) {
  return best_of(kernels, logits, [&](std::size_t i) { return vocabulary[i]; });
}

}  // namespace jupiter

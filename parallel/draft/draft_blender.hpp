// A neural drafter beside drafters that cost nothing: when it is asked, and how its guesses join theirs.
#pragma once

#include <map>

#include "parallel/draft/neural_drafter.hpp"

namespace jupiter {

// Mixes the guesses of a neural drafter (a draft head or a draft model) with the proposals of the others. Each side's
// weight follows from how much it was worth so far, counted apart for contexts about which the others are more and less
// confident.
class DraftBlender {
 public:
  // thrifty: the network is asked only where its measured gain pays for its measured time, after a few questions that
  // tell both. Otherwise it is asked about every context that is not too unlikely.
  DraftBlender(std::unique_ptr<NeuralDrafter> network, DraftSource source, bool thrifty)
      : network_(std::move(network)), source_(source), thrifty_(thrifty) {}

  // The hidden row, [dim], that decides the next token; comes before observe() of that token.
  void set_hidden(std::span<const float> hidden) { hidden_.assign(hidden.begin(), hidden.end()); }
  void observe(DraftContext context, TokenId token);
  // On entry `proposals` holds what the others say follows `context`, on return what all say together.
  void blend(DraftContext context, const DraftWorth& worth, std::vector<Proposal>& proposals);
  const NeuralUse& use() const { return use_; }
  void prefetch(DraftContext decided) { network_->prefetch(decided); }
  bool has_news() { return network_->has_news(); }

 private:
  static constexpr std::size_t kConfidenceClasses = 4;  // by the others' highest probability
  // A context that the network was asked about.
  struct Node {
    std::vector<Proposal> others;
    std::vector<DraftGuess> guesses;
    std::size_t confidence = 0;  // class of the others' confidence
  };
  // What each side's probabilities are multiplied with.
  struct Shares {
    double others = 0;
    double network = 0;
  };
  static std::size_t confidence_of(const std::vector<Proposal>& others);
  Shares shares(const Node& node) const;
  double weight(std::size_t confidence) const;
  double gain(std::size_t confidence) const;
  void learn(const Node& node, TokenId token);
  const Node* ask(DraftContext context, const std::vector<Proposal>& others);

  std::unique_ptr<NeuralDrafter> network_;
  DraftSource source_;
  bool thrifty_;
  std::vector<float> hidden_;
  std::map<std::vector<TokenId>, Node> nodes_;  // keyed by the path, which begins at the newest token's predecessor
  std::size_t decided_ = 0;                     // number of decided tokens
  std::size_t root_ = 0;                        // value of decided_ when nodes_ began
  bool stale_ = true;                           // nodes_ belongs to an earlier root
  std::array<double, kConfidenceClasses> weight_sum_{}, weight_count_{}, gain_sum_{};
  Calibration calibration_;
  NeuralUse use_;
  double cost_s_ = 0;  // running mean of the time of one question
};

}  // namespace jupiter

// Drafters guess the next token at little cost. Whatever they guess, the answer stays the model's own.
#pragma once

#include <algorithm>
#include <array>
#include <memory>
#include <span>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "io/tokenizer/tokenizer_data.hpp"

namespace jupiter {

enum class DraftSource : std::uint8_t { lookup = 0, table = 1, heads = 2, model = 3, oracle = 4, grammar = 5 };
constexpr std::size_t kDraftSources = 6;
std::string_view name(DraftSource source);

struct Proposal {
  TokenId token = 0;
  float probability = 0;  // that the token comes next
  DraftSource source = DraftSource::lookup;
};

// Everything before the token in question: the prompt, the answer so far, and a path of drafted tokens.
using DraftContext = std::span<const TokenId>;

class Drafter {
 public:
  virtual ~Drafter() = default;
  // Adds candidates for the token after `context`; their probabilities sum to at most 1.
  virtual void propose(DraftContext context, std::vector<Proposal>& out) = 0;
  // `token` followed `context` for certain; called once for every token of the sequence, in order.
  virtual void observe(DraftContext context, TokenId token) = 0;
};

// Proposes what followed the same last tokens earlier in this sequence, longest match first (prompt lookup decoding,
// Saxena 2023; the lengths are blended as in prediction by partial matching, Cleary and Witten 1984). How often each
// length of match was right is counted as the text goes on.
class LookupDrafter : public Drafter {
 public:
  void propose(DraftContext context, std::vector<Proposal>& out) override;
  void observe(DraftContext context, TokenId token) override;

 private:
  static constexpr std::size_t kOrders = 6;     // tokens of the longest match
  static constexpr std::size_t kFollowers = 4;  // so many are kept for each match, the newest first
  struct Followers {
    std::array<TokenId, kFollowers> tokens;
    std::array<std::uint16_t, kFollowers> counts;
    std::uint16_t n = 0;
    void add(TokenId token);
    bool contains(TokenId token) const;
  };
  const Followers* find(std::size_t order, DraftContext context) const;
  double trust(std::size_t order) const;
  std::array<std::unordered_map<std::uint64_t, Followers>, kOrders> index_;
  std::array<double, kOrders> hits_{}, tries_{};
};

// For tests. It knows the answer, and at each token it is wrong with probability 1 - hit_rate, by seed and position.
class OracleDrafter : public Drafter {
 public:
  // tokens: prompt and answer. Token ids are below vocab_size.
  OracleDrafter(std::vector<TokenId> tokens, double hit_rate, std::int64_t vocab_size, std::uint64_t seed);
  void propose(DraftContext context, std::vector<Proposal>& out) override;
  void observe(DraftContext, TokenId) override {}

 private:
  std::vector<TokenId> tokens_;
  double hit_rate_;
  std::int64_t vocab_size_;
  std::uint64_t seed_;
};

// How good a guess about a context would be, from which follows whether asking a network pays.
struct DraftWorth {
  double joint = 1;    // probability that the drafted path in the context is right
  double token_s = 0;  // seconds that the pipeline takes for a token at present
};

// How far a drafter's probabilities can be trusted: the number of right guesses over the sum of their probabilities,
// both counted from kPrior on.
struct Calibration {
  static constexpr double kPrior = 4;  // how slowly trust moves
  static constexpr double kMostTrust = 1.15;
  double hits = 0;      // guesses that were right
  double promised = 0;  // sum of the probabilities of all guesses
  double trust() const { return std::min(kMostTrust, (hits + kPrior) / (promised + kPrior)); }
};

// How often a neural drafter was asked, and how long that took.
struct NeuralUse {
  std::int64_t asked = 0;
  double seconds = 0;
  NeuralUse& operator+=(const NeuralUse& other) {
    asked += other.asked;
    seconds += other.seconds;
    return *this;
  }
};

class DraftBlender;  // draft_blender.hpp

// Several drafters as one. Each gets the probability that those before it left; a neural drafter is blended with all.
class DraftMixer {
 public:
  void add(std::shared_ptr<Drafter> drafter) { drafters_.push_back(std::move(drafter)); }
  void set_neural(std::shared_ptr<DraftBlender> blender) { blender_ = std::move(blender); }
  bool empty() const { return drafters_.empty() && blender_ == nullptr; }
  // At most `count` tokens, each once, most likely first.
  std::vector<Proposal> propose(DraftContext context, std::size_t count, const DraftWorth& worth = {}) const;
  // Takes the hidden row that decides the next token; comes before observe() of that token.
  void set_hidden(std::span<const float> hidden) const;
  void observe(DraftContext context, TokenId token) const;
  NeuralUse neural_use() const;
  void prefetch(DraftContext decided) const;  // as NeuralDrafter::prefetch()
  bool has_news() const;                      // as NeuralDrafter::has_news()

 private:
  std::vector<std::shared_ptr<Drafter>> drafters_;
  std::shared_ptr<DraftBlender> blender_;  // may be null
};

}  // namespace jupiter

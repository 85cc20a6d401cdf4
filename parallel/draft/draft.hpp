// Drafters: guesses of the next token that cost little. Whatever they say, the answer stays the model's own.
#pragma once

#include <array>
#include <memory>
#include <span>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "io/tokenizer/tokenizer_data.hpp"

namespace jupiter {

enum class DraftSource : std::uint8_t { lookup = 0, table = 1, heads = 2, model = 3, oracle = 4 };
constexpr std::size_t kDraftSources = 5;
std::string_view name(DraftSource source);

struct Proposal {
  TokenId token = 0;
  float probability = 0;  // that it comes next
  DraftSource source = DraftSource::lookup;
};

// A context is everything before the token: prompt, answer, and a path of drafted tokens.
using DraftContext = std::span<const TokenId>;

class Drafter {
 public:
  virtual ~Drafter() = default;
  // Adds candidates for the token after `context`; their probabilities sum to at most 1.
  virtual void propose(DraftContext context, std::vector<Proposal>& out) = 0;
  // `token` followed `context` for certain; called once for every token of the sequence, in order.
  virtual void observe(DraftContext context, TokenId token) = 0;
};

// What followed the same last tokens earlier in this sequence, longest match first (prompt lookup decoding, Saxena
// 2023; orders blended as in prediction by partial matching, Cleary and Witten 1984). How far each match length is to
// be trusted is counted as the text goes on.
class LookupDrafter : public Drafter {
 public:
  void propose(DraftContext context, std::vector<Proposal>& out) override;
  void observe(DraftContext context, TokenId token) override;

 private:
  static constexpr std::size_t kOrders = 6;     // longest match, tokens
  static constexpr std::size_t kFollowers = 4;  // kept for each match, the newest first
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

// For tests: knows the answer, and is wrong with probability 1 - `hit_rate` at each token (by seed and position).
class OracleDrafter : public Drafter {
 public:
  // tokens: prompt and answer; vocab_size: ids are below.
  OracleDrafter(std::vector<TokenId> tokens, double hit_rate, std::int64_t vocab_size, std::uint64_t seed);
  void propose(DraftContext context, std::vector<Proposal>& out) override;
  void observe(DraftContext, TokenId) override {}

 private:
  std::vector<TokenId> tokens_;
  double hit_rate_;
  std::int64_t vocab_size_;
  std::uint64_t seed_;
};

// What a guess is good for: drafters that cost time ask whether it pays.
struct DraftWorth {
  double joint = 1;    // probability that the context comes true
  double token_s = 0;  // what a token takes as things are
};

// How often a head was asked, and how long that took.
struct HeadUse {
  std::int64_t asked = 0;
  double seconds = 0;
  HeadUse& operator+=(const HeadUse& other) {
    asked += other.asked;
    seconds += other.seconds;
    return *this;
  }
};

class HeadDrafter;  // draft_head.hpp

// Several drafters as one: each speaks for the probability that those before it left; a head is mixed with them all.
class DraftMixer {
 public:
  void add(std::shared_ptr<Drafter> drafter) { drafters_.push_back(std::move(drafter)); }
  void set_head(std::shared_ptr<HeadDrafter> head) { head_ = std::move(head); }
  bool empty() const { return drafters_.empty() && head_ == nullptr; }
  // Most likely first, one entry a token, at most `count` of them.
  std::vector<Proposal> propose(DraftContext context, std::size_t count, const DraftWorth& worth = {}) const;
  // The hidden row that decides the next token; before observe() of that token.
  void see(std::span<const float> hidden) const;
  void observe(DraftContext context, TokenId token) const;
  HeadUse head_use() const;
  void foretell(DraftContext decided) const;  // as DraftHead::foretell()
  bool has_news() const;                      // as DraftHead::has_news()

 private:
  std::vector<std::shared_ptr<Drafter>> drafters_;
  std::shared_ptr<HeadDrafter> head_;  // or null
};

}  // namespace jupiter

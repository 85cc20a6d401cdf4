// An answer that a grammar constrains, on the last rank: which token may come next, and what drafted tokens can be
// right. Its state is a function of the answer's tokens alone, so it does not depend on how the pipeline came to them.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "io/grammar/matcher.hpp"
#include "kernels/sampler.hpp"
#include "parallel/draft/draft.hpp"

namespace jupiter {

class Constraint {
 public:
  using State = Matcher::State;
  static constexpr State kRefused = Matcher::kRefused;
  static constexpr std::size_t kMostStates = 4096;  // of a matcher, about 1 KiB each; then a new one goes on

  // answer_position: of the answer's first token. end_tokens, of which there must be one, may come where the grammar
  // may end, and where nothing else can.
  Constraint(std::shared_ptr<Matcher> matcher, std::int64_t answer_position, std::vector<TokenId> end_tokens);

  // The state behind these tokens of prompt and answer, which is the one that the functions below begin at.
  State follow(std::span<const TokenId> history);
  // The token after `history`: as sample() draws it where the logits of refused tokens are minus infinity.
  TokenId draw(const KernelTable& kernels, std::span<const float> logits, const SamplingOptions& options,
               std::span<const TokenId> history);

  // The state after one more token; kRefused where it must not follow.
  State after(State state, TokenId token);
  // Takes away drafts that must not follow, and adds the one that must where only one text can. At most `count` are
  // left, the most likely ones first.
  void filter(State state, std::size_t count, std::vector<Proposal>& drafts);

 private:
  static constexpr State kEnded = -3;
  bool is_end(TokenId token) const;
  bool may_end(State state) const;
  std::vector<float> masked(std::span<const float> logits);

  std::shared_ptr<Matcher> matcher_;
  std::int64_t answer_position_;
  std::vector<TokenId> end_tokens_;
  std::int64_t followed_;  // so many tokens of the history
  State state_;
};

// Matchers of the newest grammars: answers of one grammar share what was found out about it.
class MatcherCache {
 public:
  explicit MatcherCache(std::shared_ptr<const TokenTrie> vocabulary) : vocabulary_(std::move(vocabulary)) {}
  std::shared_ptr<Matcher> get(const GrammarSpec& grammar);

 private:
  static constexpr std::size_t kMost = 4;
  std::shared_ptr<const TokenTrie> vocabulary_;
  std::vector<std::shared_ptr<Matcher>> matchers_;  // the newest first
};

}  // namespace jupiter

// Sequences whose answers have ended and whose keys and values stay, so that a later prompt that begins with the same
// tokens need not compute them again: turns of a conversation, a system message, the question that the points of an
// outline share. A cache: whoever needs the room drops what was used longest ago, and what is wanted again is computed
// again, with the same bits.
#pragma once

#include <functional>
#include <list>
#include <optional>
#include <span>
#include <vector>

#include "parallel/pipeline/frame.hpp"

namespace jupiter {

class PrefixCache {
 public:
  // Fewer tokens are not worth a sequence of their own.
  static constexpr std::int64_t kLeastTokens = 8;

  struct Match {
    SequenceId sequence = 0;  // 0: none
    std::int64_t tokens = 0;  // that it and the prompt begin with
  };
  // The kept sequence that shares most first tokens with the prompt, `limit` of them at most.
  Match find(std::span<const TokenId> prompt, std::int64_t limit) const;
  // A request begins with it: it is the one that was used last.
  void touch(SequenceId sequence);
  // Whether keeping a sequence of these tokens would add anything.
  bool is_worth_keeping(std::span<const TokenId> tokens) const;
  // Takes a sequence and returns those that it makes superfluous, because it begins with all of their tokens.
  std::vector<SequenceId> add(SequenceId sequence, std::vector<TokenId> tokens);
  // Forgets the one that was used longest ago among those for which `may_go` holds, and returns it.
  std::optional<SequenceId> drop(const std::function<bool(SequenceId)>& may_go);

  bool empty() const { return entries_.empty(); }
  std::size_t size() const { return entries_.size(); }

 private:
  struct Entry {
    SequenceId sequence = 0;
    std::vector<TokenId> tokens;  // whose keys and values every stage holds
  };
  std::list<Entry> entries_;  // the last one was used last
};

}  // namespace jupiter

// What may follow in a text that a grammar describes. A state is the set of all places at which the text so far may
// stand: nodes of the grammar's network, each with the stack of nodes at which its callers go on. Stacks share their
// lower parts. States are numbered as they are met, and what follows them is kept, so the work of a token is a walk
// through tables.
//
// Everything is a function of the bytes so far: two matchers of the same grammar agree whatever they were asked before.
#pragma once

#include <array>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "io/grammar/grammar.hpp"
#include "io/grammar/token_trie.hpp"

namespace jupiter {

// A grammar as it travels: its text, and where it begins to hold.
struct GrammarSpec {
  std::string text = {};     // GBNF; empty: none
  std::string trigger = {};  // not empty: the answer is free before this text, with which the grammar begins
  bool at_start = false;     // only a trigger at the very beginning counts
  bool empty() const { return text.empty(); }
  bool operator==(const GrammarSpec&) const = default;
};

constexpr std::size_t kMostTriggerBytes = 256;

// UsageError where the grammar is wrong or the trigger too long.
void check(const GrammarSpec& spec, std::string_view source);

// Which tokens may follow.
struct TokenMask {
  std::vector<std::uint64_t> bits;
  std::int64_t count = 0;
  bool has(TokenId t) const { return (bits[static_cast<std::size_t>(t) / 64] >> (t % 64) & 1) != 0; }
};

class Matcher {
 public:
  using State = std::int32_t;
  static constexpr State kRefused = -1;
  // Places that are followed for one byte. An ambiguous grammar may come to more; the later ones are given up, so what
  // is taken is still a text of the grammar.
  static constexpr std::size_t kMostPlaces = 16384;

  Matcher(const GrammarSpec& spec, std::shared_ptr<const TokenTrie> vocabulary);

  // Before an answer's first byte.
  State start() const { return start_; }
  State next(State state, std::uint8_t byte);
  State next(State state, std::string_view bytes);
  // After a token; control tokens and the like change nothing where the text is free, and are refused elsewhere.
  State next_token(State state, TokenId token);
  // Whether the answer may end here.
  bool may_end(State state) const;
  // Whether the grammar does not hold yet, or no more.
  bool is_free(State state) const;
  // Valid until the next call. Ends of the answer are not among them.
  const TokenMask& mask(State state);
  // What can only follow: the bytes, at most `most` of them, up to where there is a choice or an end.
  std::string forced(State state, std::size_t most);

  // States that were met so far; they take about 1 KiB each.
  std::size_t states() const { return states_.size(); }
  // The number of another matcher's state in this one; both have the same grammar.
  State adopt(const Matcher& other, State state);

  const GrammarSpec& grammar() const { return spec_; }
  const TokenTrie& vocabulary() const { return *vocabulary_; }
  const std::shared_ptr<const TokenTrie>& shared_vocabulary() const { return vocabulary_; }

 private:
  static constexpr State kUnknown = -2;
  static constexpr std::int32_t kNoStack = -1;
  enum class Kind : std::uint8_t {
    bound,    // the grammar holds
    trigger,  // so many bytes of the trigger have come
    free,     // the trigger cannot come any more
    space,    // before the first byte, which is not shown where it is a space
  };
  struct Place {
    std::int32_t node;
    std::int32_t stack;
    bool operator==(const Place&) const = default;
  };
  struct Frame {  // of a stack
    std::int32_t node;
    std::int32_t below;
  };
  struct StateData {
    Kind kind = Kind::bound;
    std::int32_t triggered = 0;  // trigger: bytes of it; space: the state behind
    bool ends = false;           // bound: the text may end here
    std::vector<Place> places;
    std::unique_ptr<std::array<State, 256>> next;
    std::unique_ptr<TokenMask> mask;
  };
  struct Closure;

  State add(StateData&& data);
  State intern(Closure& closure);
  void enter(std::int32_t node, std::int32_t stack, Closure& closure);
  std::int32_t push(std::int32_t node, std::int32_t below);
  State compute_next(State state, std::uint8_t byte);
  State triggered_next(std::int32_t triggered, std::uint8_t byte);

  GrammarSpec spec_;
  Grammar grammar_;
  std::shared_ptr<const TokenTrie> vocabulary_;
  std::vector<std::int32_t> failure_;  // of the trigger: longest beginning that is an end of its first i bytes
  std::vector<StateData> states_;
  std::unordered_multimap<std::uint64_t, State> numbers_;  // by digest of the places
  std::vector<Frame> stacks_;
  std::unordered_map<std::uint64_t, std::int32_t> stack_numbers_;
  State start_ = 0, bound_start_ = 0, free_ = 0;
  std::vector<State> triggered_;  // by bytes of the trigger
  std::size_t masks_ = 0;
};

}  // namespace jupiter

// Places are found depth first, in the order in which the grammar names them.
#include "io/grammar/matcher.hpp"

#include <algorithm>
#include <unordered_set>

#include "io/error.hpp"

namespace jupiter {

namespace {
constexpr std::size_t kMostMasks = 64;  // that are kept; 16 KiB each for a vocabulary of 128k
// Places that are looked at for one mask, where a usual grammar takes two millions: a hostile one must not stop the
// pipeline. The count does not depend on what is known already, so that tokens are refused by the same rule everywhere.
constexpr std::size_t kMostWork = std::size_t{1} << 25;
}  // namespace

void check(const GrammarSpec& spec, std::string_view source) {
  if (spec.trigger.size() > kMostTriggerBytes) {
    throw UsageError(std::string(source) + ": expected a trigger of at most " + std::to_string(kMostTriggerBytes) +
                     " bytes, found " + std::to_string(spec.trigger.size()));
  }
  Grammar::parse(spec.text, source);
  Matcher matcher(spec, nullptr);
  if (matcher.next(matcher.start(), spec.trigger) == Matcher::kRefused) {
    throw UsageError(std::string(source) + ": expected a grammar whose texts begin with its trigger, found another");
  }
}

// Places that are reached without a byte.
struct Matcher::Closure {
  std::vector<Place> places;  // at nodes that take a byte
  bool ends = false;
  std::vector<Place> seen;
  std::unordered_set<std::uint64_t> seen_many;
  static constexpr std::size_t kFew = 24;

  static std::uint64_t key(const Place& p) {
    return static_cast<std::uint64_t>(static_cast<std::uint32_t>(p.node)) << 32 | static_cast<std::uint32_t>(p.stack);
  }
  // Whether the place is new.
  bool see(const Place& p) {
    if (seen.size() >= kMostPlaces) return false;
    if (seen.size() < kFew) {
      if (std::find(seen.begin(), seen.end(), p) != seen.end()) return false;
    } else {
      if (seen_many.empty()) {
        for (const Place& s : seen) seen_many.insert(key(s));
      }
      if (!seen_many.insert(key(p)).second) return false;
    }
    seen.push_back(p);
    return true;
  }
};

Matcher::Matcher(const GrammarSpec& spec, std::shared_ptr<const TokenTrie> vocabulary)
    : spec_(spec), grammar_(Grammar::parse(spec.text)), vocabulary_(std::move(vocabulary)) {
  const std::string& trigger = spec_.trigger;
  Closure closure;
  enter(grammar_.start(), kNoStack, closure);
  start_ = bound_start_ = intern(closure);
  if (!trigger.empty()) {
    bound_start_ = next(bound_start_, trigger);
    free_ = add({.kind = Kind::free, .places = {}, .next = {}, .mask = {}});
    failure_.assign(trigger.size(), 0);
    for (std::size_t i = 1; i < trigger.size(); ++i) {
      std::int32_t k = failure_[i - 1];
      while (k > 0 && trigger[i] != trigger[k]) k = failure_[k - 1];
      failure_[i] = k + (trigger[i] == trigger[k] ? 1 : 0);
    }
    for (std::size_t i = 0; i < trigger.size(); ++i) {
      triggered_.push_back(add(
          {.kind = Kind::trigger, .triggered = static_cast<std::int32_t>(i), .places = {}, .next = {}, .mask = {}}));
    }
    start_ = triggered_[0];
  }
  if (vocabulary_ && vocabulary_->has_space_prefix()) {
    const State behind = start_;
    start_ = add({.kind = Kind::space, .triggered = behind, .places = {}, .next = {}, .mask = {}});
  }
}

Matcher::State Matcher::add(StateData&& data) {
  states_.push_back(std::move(data));
  return static_cast<State>(states_.size()) - 1;
}

std::int32_t Matcher::push(std::int32_t node, std::int32_t below) {
  if (node == Grammar::kEnd) return below;  // nothing is left to do there
  const auto [it, is_new] =
      stack_numbers_.emplace(Closure::key({node, below}), static_cast<std::int32_t>(stacks_.size()));
  if (is_new) stacks_.push_back({node, below});
  return it->second;
}

void Matcher::enter(std::int32_t node, std::int32_t stack, Closure& closure) {
  std::vector<Place> open = {{node, stack}};
  while (!open.empty()) {
    const Place p = open.back();
    open.pop_back();
    if (!closure.see(p)) continue;
    const Grammar::Node& n = grammar_.node(p.node);
    switch (n.kind) {
      case Grammar::Kind::bytes:
        closure.places.push_back(p);
        break;
      case Grammar::Kind::fork:
        for (std::int32_t i = n.count; i > 0; --i) open.push_back({grammar_.targets(n)[i - 1], p.stack});
        break;
      case Grammar::Kind::call:
        open.push_back({n.first, push(n.next, p.stack)});
        break;
      case Grammar::Kind::end:
        if (p.stack == kNoStack) {
          closure.ends = true;
        } else {
          open.push_back({stacks_[p.stack].node, stacks_[p.stack].below});
        }
        break;
    }
  }
}

Matcher::State Matcher::intern(Closure& closure) {
  if (closure.places.empty() && !closure.ends) return kRefused;
  std::uint64_t digest = closure.ends ? 1 : 0;
  for (const Place& p : closure.places) digest = (digest ^ Closure::key(p)) * 0x9e3779b97f4a7c15ull ^ (digest >> 31);
  const auto [begin, end] = numbers_.equal_range(digest);
  for (auto it = begin; it != end; ++it) {
    const StateData& s = states_[it->second];
    if (s.ends == closure.ends && s.places == closure.places) return it->second;
  }
  const State number =
      add({.kind = Kind::bound, .ends = closure.ends, .places = std::move(closure.places), .next = {}, .mask = {}});
  numbers_.emplace(digest, number);
  return number;
}

Matcher::State Matcher::triggered_next(std::int32_t triggered, std::uint8_t byte) {
  const std::string& trigger = spec_.trigger;
  const char c = static_cast<char>(byte);
  if (spec_.at_start) {
    if (trigger[triggered] != c) return free_;
    return triggered + 1 == std::ssize(trigger) ? bound_start_ : triggered_[triggered + 1];
  }
  while (triggered > 0 && trigger[triggered] != c) triggered = failure_[triggered - 1];
  if (trigger[triggered] == c) ++triggered;
  return triggered == std::ssize(trigger) ? bound_start_ : triggered_[triggered];
}

Matcher::State Matcher::compute_next(State state, std::uint8_t byte) {
  const Kind kind = states_[state].kind;
  const std::int32_t triggered = states_[state].triggered;
  if (kind == Kind::free) return free_;
  if (kind == Kind::trigger) return triggered_next(triggered, byte);
  if (kind == Kind::space) return byte == ' ' ? triggered : next(triggered, byte);
  Closure closure;
  for (const Place& p : states_[state].places) {
    const Grammar::Node& n = grammar_.node(p.node);
    for (std::int32_t i = 0; i < n.count; ++i) {
      const Grammar::Edge& e = grammar_.edges(n)[i];
      if (byte >= e.low && byte <= e.high) enter(e.next, p.stack, closure);
    }
  }
  return intern(closure);
}

Matcher::State Matcher::next(State state, std::uint8_t byte) {
  if (state == kRefused) return kRefused;
  if (!states_[state].next) {
    states_[state].next = std::make_unique<std::array<State, 256>>();
    states_[state].next->fill(kUnknown);
  }
  const State known = (*states_[state].next)[byte];
  if (known != kUnknown) return known;
  const State found = compute_next(state, byte);
  (*states_[state].next)[byte] = found;
  return found;
}

Matcher::State Matcher::next(State state, std::string_view bytes) {
  for (const char c : bytes) {
    state = next(state, static_cast<std::uint8_t>(c));
    if (state == kRefused) break;
  }
  return state;
}

Matcher::State Matcher::next_token(State state, TokenId token) {
  if (state == kRefused) return kRefused;
  const std::string_view bytes = vocabulary_->bytes(token);
  if (!bytes.empty()) return next(state, bytes);
  return may_end(state) && is_free(state) ? state : kRefused;
}

bool Matcher::may_end(State state) const {
  const StateData& s = states_[state];
  if (s.kind == Kind::space) return may_end(s.triggered);
  return s.kind != Kind::bound || s.ends;
}

bool Matcher::is_free(State state) const {
  const StateData& s = states_[state];
  return s.kind == Kind::space ? is_free(s.triggered) : s.kind != Kind::bound;
}

const TokenMask& Matcher::mask(State state) {
  if (states_[state].mask) return *states_[state].mask;
  if (masks_ == kMostMasks) {
    for (StateData& s : states_) s.mask.reset();
    masks_ = 0;
  }
  auto mask = std::make_unique<TokenMask>();
  mask->bits.assign((static_cast<std::size_t>(vocabulary_->vocab_size()) + 63) / 64, 0);
  const auto take = [&](TokenId t) {
    mask->bits[static_cast<std::size_t>(t) / 64] |= std::uint64_t{1} << (t % 64);
    ++mask->count;
  };
  const std::vector<TokenTrie::Node>& nodes = vocabulary_->nodes();
  std::vector<State> path(vocabulary_->longest() + 1);
  path[0] = state;
  std::size_t work = 0;
  for (std::size_t i = 0; i < nodes.size() && work < kMostWork;) {
    const TokenTrie::Node& n = nodes[i];
    work += 1 + states_[path[n.depth - 1]].places.size();
    const State s = next(path[n.depth - 1], n.byte);
    if (s == kRefused) {
      i = static_cast<std::size_t>(n.skip);
      continue;
    }
    path[n.depth] = s;
    for (std::int32_t k = 0; k < n.tokens; ++k) take(vocabulary_->tokens()[n.first_token + k]);
    ++i;
  }
  if (is_free(state) && may_end(state)) {
    for (TokenId t = 0; t < vocabulary_->vocab_size(); ++t) {
      if (vocabulary_->bytes(t).empty()) take(t);
    }
  }
  ++masks_;
  states_[state].mask = std::move(mask);
  return *states_[state].mask;
}

std::string Matcher::forced(State state, std::size_t most) {
  std::string bytes;
  while (bytes.size() < most) {
    if (states_[state].kind != Kind::bound || states_[state].ends) break;
    int only = -1;
    bool choice = false;
    for (const Place& p : states_[state].places) {
      const Grammar::Node& n = grammar_.node(p.node);
      for (std::int32_t i = 0; i < n.count && !choice; ++i) {
        const Grammar::Edge& e = grammar_.edges(n)[i];
        choice = e.low != e.high || (only >= 0 && only != e.low);
        only = e.low;
      }
    }
    if (choice || only < 0) break;
    bytes += static_cast<char>(only);
    state = next(state, static_cast<std::uint8_t>(only));
  }
  return bytes;
}

Matcher::State Matcher::adopt(const Matcher& other, State state) {
  if (state == kRefused) return kRefused;
  const StateData& s = other.states_[state];
  if (s.kind != Kind::bound) return state;  // these have the same numbers in both
  Closure closure;
  closure.ends = s.ends;
  std::vector<std::int32_t> nodes;
  for (const Place& p : s.places) {
    nodes.clear();
    for (std::int32_t k = p.stack; k != kNoStack; k = other.stacks_[k].below) nodes.push_back(other.stacks_[k].node);
    std::int32_t stack = kNoStack;
    for (auto n = nodes.rbegin(); n != nodes.rend(); ++n) stack = push(*n, stack);
    closure.places.push_back({p.node, stack});
  }
  return intern(closure);
}

}  // namespace jupiter

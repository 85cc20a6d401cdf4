// Rules become nodes from their ends to their beginnings, so that every element knows what follows it.
#include "io/grammar/grammar.hpp"

#include <algorithm>
#include <array>
#include <map>
#include <optional>
#include <string>
#include <utility>

#include "io/error.hpp"

namespace jupiter {

namespace {

using Kind = GrammarElement::Kind;

constexpr std::size_t kMostSteps = 4 * kMostGrammarNodes;

// What holds of rules by what holds of the rules that they mention, found by looking at all of them until nothing
// changes any more.
template <typename Holds>
std::vector<bool> fixpoint(const std::vector<GrammarRule>& rules, const Holds& holds) {
  std::vector<bool> known(rules.size());
  for (bool changed = true; changed;) {
    changed = false;
    for (std::size_t i = 0; i < rules.size(); ++i) {
      if (known[i] || !holds(rules[i].body, known)) continue;
      known[i] = changed = true;
    }
  }
  return known;
}

// Whether the element matches what is asked for, if rules do as given: the empty text, or with `bytes` any text.
bool matches(const GrammarElement& e, const std::vector<bool>& rules, bool bytes) {
  const auto part = [&](const GrammarElement& p) { return matches(p, rules, bytes); };
  switch (e.kind) {
    case Kind::literal:
      return bytes || e.literal.empty();
    case Kind::character:
      return bytes;
    case Kind::rule:
      return rules[e.rule];
    case Kind::sequence:
      return std::all_of(e.parts.begin(), e.parts.end(), part);
    case Kind::choice:
      return std::any_of(e.parts.begin(), e.parts.end(), part);
    case Kind::repetition:
      return e.least == 0 || part(e.parts.front());
  }
  return false;
}

// Whether the element matches the empty text.
bool is_nullable(const GrammarElement& e, const std::vector<bool>& rules) {
  return matches(e, rules, false);
}

// Whether the element matches any text at all.
bool can_end(const GrammarElement& e, const std::vector<bool>& rules) {
  return matches(e, rules, true);
}

// The rules that the element may call before it takes a byte.
void first_calls(const GrammarElement& e, const std::vector<bool>& nullable, std::vector<std::size_t>& out) {
  if (e.kind == Kind::rule) out.push_back(e.rule);
  if (e.kind == Kind::repetition && e.most == 0) return;
  for (const GrammarElement& part : e.parts) {
    first_calls(part, nullable, out);
    if (e.kind == Kind::sequence && !is_nullable(part, nullable)) return;
  }
}

// A rule that may come to itself again without a byte in between, if there is one.
std::optional<std::size_t> left_recursive_rule(const std::vector<GrammarRule>& rules) {
  const std::vector<bool> nullable = fixpoint(rules, is_nullable);
  std::vector<std::vector<std::size_t>> calls(rules.size());
  for (std::size_t i = 0; i < rules.size(); ++i) first_calls(rules[i].body, nullable, calls[i]);
  enum : std::uint8_t { fresh, open, done };
  std::vector<std::uint8_t> seen(rules.size(), fresh);
  for (std::size_t root = 0; root < rules.size(); ++root) {
    if (seen[root] != fresh) continue;
    std::vector<std::pair<std::size_t, std::size_t>> path = {{root, 0}};  // rule, its next call
    seen[root] = open;
    while (!path.empty()) {
      auto& [rule, next] = path.back();
      if (next == calls[rule].size()) {
        seen[rule] = done;
        path.pop_back();
        continue;
      }
      const std::size_t called = calls[rule][next++];
      if (seen[called] == open) return called;
      if (seen[called] == done) continue;
      seen[called] = open;
      path.emplace_back(called, 0);
    }
  }
  return std::nullopt;
}

// The characters low...high, which have encodings of one length, as alternatives of ranges of bytes.
using ByteRanges = std::vector<std::pair<std::uint8_t, std::uint8_t>>;

std::string utf8_bytes(char32_t code, int length) {
  constexpr std::array<char32_t, 5> kLead = {0, 0, 0xC0, 0xE0, 0xF0};
  std::string bytes(static_cast<std::size_t>(length), '\0');
  for (int i = length - 1; i > 0; --i, code >>= 6) bytes[i] = static_cast<char>(0x80 | (code & 0x3F));
  bytes[0] = static_cast<char>(kLead[length] | code);
  return bytes;
}

void split_range(char32_t low, char32_t high, int length, std::vector<ByteRanges>& out) {
  // A range is a product of ranges of bytes where all bytes behind the first difference go from 80 to BF.
  for (int i = 1; i < length; ++i) {
    const char32_t mask = (char32_t{1} << (6 * i)) - 1;
    if ((low & ~mask) == (high & ~mask)) continue;
    if ((low & mask) != 0) {
      split_range(low, low | mask, length, out);
      return split_range((low | mask) + 1, high, length, out);
    }
    if ((high & mask) != mask) {
      split_range(low, (high & ~mask) - 1, length, out);
      return split_range(high & ~mask, high, length, out);
    }
  }
  const std::string from = utf8_bytes(low, length), to = utf8_bytes(high, length);
  ByteRanges ranges;
  for (std::size_t i = 0; i < from.size(); ++i) {
    ranges.emplace_back(static_cast<std::uint8_t>(from[i]), static_cast<std::uint8_t>(to[i]));
  }
  out.push_back(std::move(ranges));
}

std::vector<ByteRanges> byte_ranges(const std::vector<std::pair<char32_t, char32_t>>& characters) {
  constexpr std::array<char32_t, 4> kLast = {0x7F, 0x7FF, 0xFFFF, 0x10FFFF};  // of one to four bytes
  std::vector<ByteRanges> out;
  for (const auto& [low, high] : characters) {
    char32_t begin = 0;
    for (int length = 1; length <= 4; ++length) {
      const char32_t from = std::max(low, begin), to = std::min(high, kLast[length - 1]);
      if (from <= to) split_range(from, to, length, out);
      begin = kLast[length - 1] + 1;
    }
  }
  return out;
}

}  // namespace

class GrammarCompiler {
 public:
  GrammarCompiler(const std::vector<GrammarRule>& rules, std::string_view source) : rules_(rules), source_(source) {}

  Grammar compile() {
    g_.nodes_.emplace_back();  // kEnd
    // Rules call each other, so each begins with a node that is known before its body.
    for (std::size_t i = 0; i < rules_.size(); ++i) add({Grammar::Kind::fork, 0, 0, 0}, {});
    for (std::size_t i = 0; i < rules_.size(); ++i) {
      const std::int32_t body = add(rules_[i].body, Grammar::kEnd);
      set_targets(start_of(i), {body});
      if (rules_[i].name == "root") g_.start_ = start_of(i);
    }
    return std::move(g_);
  }

 private:
  static std::int32_t start_of(std::size_t rule) { return static_cast<std::int32_t>(rule) + 1; }

  std::int32_t add(const Grammar::Node& node, const GrammarPlace& place) {
    if (g_.nodes_.size() >= kMostGrammarNodes) too_large(place);
    g_.nodes_.push_back(node);
    return static_cast<std::int32_t>(g_.nodes_.size()) - 1;
  }
  [[noreturn]] void too_large(const GrammarPlace& place) const {
    fail_grammar(source_, place,
                 "expected a grammar of at most " + std::to_string(kMostGrammarNodes) +
                     " nodes, found a larger one (repetitions are written out)");
  }

  void set_targets(std::int32_t fork, const std::vector<std::int32_t>& targets) {
    Grammar::Node& n = g_.nodes_[fork];
    n.first = static_cast<std::int32_t>(g_.targets_.size());
    n.count = static_cast<std::int32_t>(targets.size());
    g_.targets_.insert(g_.targets_.end(), targets.begin(), targets.end());
  }

  // The node at which the element begins that is followed by `next`.
  std::int32_t add(const GrammarElement& e, std::int32_t next) {
    if (++steps_ > kMostSteps) too_large(e.place);
    switch (e.kind) {
      case Kind::literal:
        for (auto c = e.literal.rbegin(); c != e.literal.rend(); ++c) {
          const auto byte = static_cast<std::uint8_t>(*c);
          next = add_bytes({{byte, byte, next}}, e.place);
        }
        return next;
      case Kind::character:
        return add_character(e, next);
      case Kind::rule:
        return add({Grammar::Kind::call, start_of(e.rule), 0, next}, e.place);
      case Kind::sequence:
        for (auto part = e.parts.rbegin(); part != e.parts.rend(); ++part) next = add(*part, next);
        return next;
      case Kind::choice: {
        std::vector<std::int32_t> targets;
        for (const GrammarElement& part : e.parts) targets.push_back(add(part, next));
        return add_fork(targets, e.place);
      }
      case Kind::repetition:
        return add_repetition(e, next);
    }
    return next;
  }

  std::int32_t add_fork(const std::vector<std::int32_t>& targets, const GrammarPlace& place) {
    const std::int32_t fork = add({Grammar::Kind::fork, 0, 0, 0}, place);
    set_targets(fork, targets);
    return fork;
  }

  std::int32_t add_bytes(const std::vector<Grammar::Edge>& edges, const GrammarPlace& place) {
    const auto first = static_cast<std::int32_t>(g_.edges_.size());
    g_.edges_.insert(g_.edges_.end(), edges.begin(), edges.end());
    return add({Grammar::Kind::bytes, first, static_cast<std::int32_t>(edges.size()), 0}, place);
  }

  // The bytes of a character behind its first ones are shared between the ranges.
  std::int32_t add_character(const GrammarElement& e, std::int32_t next) {
    std::map<ByteRanges, std::int32_t> tails;  // a class may have tens of thousands
    std::vector<Grammar::Edge> edges;
    for (const ByteRanges& ranges : byte_ranges(e.ranges)) {
      std::int32_t at = next;
      for (std::size_t i = ranges.size() - 1; i > 0; --i) {
        const ByteRanges tail(ranges.begin() + static_cast<std::ptrdiff_t>(i), ranges.end());
        const auto known = tails.find(tail);
        at = known != tails.end() ? known->second : add_bytes({{ranges[i].first, ranges[i].second, at}}, e.place);
        if (known == tails.end()) tails.emplace(tail, at);
      }
      edges.push_back({ranges[0].first, ranges[0].second, at});
    }
    return add_bytes(edges, e.place);
  }

  std::int32_t add_repetition(const GrammarElement& e, std::int32_t next) {
    const GrammarElement& part = e.parts.front();
    std::int32_t at = next;
    if (e.most < 0) {
      at = add({Grammar::Kind::fork, 0, 0, 0}, e.place);
      const std::int32_t again = add(part, at);
      set_targets(at, {again, next});
    } else {
      for (std::int64_t i = e.least; i < e.most; ++i) at = add_fork({add(part, at), next}, e.place);
    }
    for (std::int64_t i = 0; i < e.least; ++i) at = add(part, at);
    return at;
  }

  const std::vector<GrammarRule>& rules_;
  std::string_view source_;
  Grammar g_;
  std::size_t steps_ = 0;
};

Grammar Grammar::parse(std::string_view text, std::string_view source) {
  const std::vector<GrammarRule> rules = parse_gbnf(text, source);
  if (const auto rule = left_recursive_rule(rules)) {
    fail_grammar(source, rules[*rule].place,
                 "expected rules that take a byte before they call themselves, found " + shortened(rules[*rule].name) +
                     " (left recursion)");
  }
  const std::vector<bool> ends = fixpoint(rules, can_end);
  for (std::size_t i = 0; i < rules.size(); ++i) {
    if (ends[i]) continue;
    fail_grammar(source, rules[i].place,
                 "expected a rule that can come to an end, found " + shortened(rules[i].name) + ", which calls itself");
  }
  return GrammarCompiler(rules, source).compile();
}

}  // namespace jupiter

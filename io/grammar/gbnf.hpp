// The text of a grammar in GBNF, llama.cpp's notation, read into rules:
//   root ::= "yes" | [a-z]+ ("," item){2,3} .   # a comment
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace jupiter {

constexpr std::size_t kMostGrammarBytes = 256 << 10;
constexpr std::size_t kMostGrammarRules = 5000;
constexpr std::int64_t kMostRepetitions = 100'000;  // of one element
constexpr int kMostGrammarDepth = 100;              // groups inside groups
constexpr int kMostRepetitionSigns = 8;             // behind one element

// Where something stands in the text, both counted from 1.
struct GrammarPlace {
  std::int64_t line = 1;
  std::int64_t column = 1;
};

struct GrammarElement {
  enum class Kind : std::uint8_t { literal, character, rule, sequence, choice, repetition };
  Kind kind = Kind::sequence;
  GrammarPlace place;
  std::string literal;                                // literal: bytes
  std::vector<std::pair<char32_t, char32_t>> ranges;  // character: sorted, disjoint, both ends belong to them
  std::size_t rule = 0;                               // rule: its index
  std::int64_t least = 0, most = 0;                   // repetition; most -1: no limit
  std::vector<GrammarElement> parts;                  // sequence, choice; repetition: one
};

struct GrammarRule {
  std::string name;
  GrammarPlace place;
  bool defined = false;
  GrammarElement body;
};

// UsageError that names `source`, line and column, what was expected and what was found. Every rule that is mentioned
// is defined once, and one of them is called root, but what the rules mean is not looked at.
std::vector<GrammarRule> parse_gbnf(std::string_view text, std::string_view source);

// UsageError at a place of a grammar.
[[noreturn]] void fail_grammar(std::string_view source, const GrammarPlace& place, std::string_view message);

// A text as a literal of GBNF, quotes included.
std::string gbnf_literal(std::string_view text);

}  // namespace jupiter

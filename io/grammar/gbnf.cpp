// A parser by recursive descent.
#include "io/grammar/gbnf.hpp"

#include <algorithm>
#include <map>

#include "io/error.hpp"
#include "io/tokenizer/utf8.hpp"

namespace jupiter {

namespace {

using Kind = GrammarElement::Kind;

constexpr char32_t kLastChar = 0x10FFFF, kFirstSurrogate = 0xD800, kLastSurrogate = 0xDFFF;

bool is_word(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '_';
}

bool is_digit(char c) {
  return c >= '0' && c <= '9';
}

bool is_surrogate(char32_t c) {
  return c >= kFirstSurrogate && c <= kLastSurrogate;
}

int hex_value(char c) {
  if (is_digit(c)) return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

using CharRange = std::pair<char32_t, char32_t>;

// Sorted, without overlaps, without surrogates, which are no characters.
std::vector<CharRange> normalised(std::vector<CharRange> ranges) {
  std::sort(ranges.begin(), ranges.end());
  std::vector<CharRange> merged;
  for (const CharRange& r : ranges) {
    if (!merged.empty() && r.first <= merged.back().second + 1) {
      merged.back().second = std::max(merged.back().second, r.second);
    } else {
      merged.push_back(r);
    }
  }
  std::vector<CharRange> out;
  for (const auto& [low, high] : merged) {
    if (low < kFirstSurrogate) out.emplace_back(low, std::min<char32_t>(high, kFirstSurrogate - 1));
    if (high > kLastSurrogate) out.emplace_back(std::max<char32_t>(low, kLastSurrogate + 1), high);
  }
  return out;
}

// All characters that are not in the ranges, which are normalised.
std::vector<CharRange> complement(const std::vector<CharRange>& ranges) {
  std::vector<CharRange> out;
  char32_t next = 0;
  for (const auto& [low, high] : ranges) {
    if (low > next) out.emplace_back(next, low - 1);
    next = high + 1;
  }
  if (next <= kLastChar) out.emplace_back(next, kLastChar);
  return normalised(std::move(out));
}

class Parser {
 public:
  Parser(std::string_view text, std::string_view source) : text_(text), source_(source) {
    for (std::size_t i = 0; i < text.size(); ++i) {
      if (text[i] == '\n') lines_.push_back(i + 1);
    }
  }

  std::vector<GrammarRule> parse() {
    if (text_.size() > kMostGrammarBytes) {
      fail("expected at most " + std::to_string(kMostGrammarBytes) + " bytes, found " + std::to_string(text_.size()));
    }
    for (skip(true); !ended(); skip(true)) parse_rule();
    for (const GrammarRule& r : rules_) {
      if (!r.defined) fail_grammar(source_, r.place, "expected a rule named " + shortened(r.name) + ", found none");
    }
    if (!names_.contains("root")) fail("expected a rule named root, found none");
    return std::move(rules_);
  }

 private:
  bool ended() const { return at_ == text_.size(); }
  char peek() const { return ended() ? '\0' : text_[at_]; }
  bool looking_at(std::string_view s) const { return text_.substr(at_).starts_with(s); }

  GrammarPlace place() const {
    const auto after = std::upper_bound(lines_.begin(), lines_.end(), at_);
    return {after - lines_.begin(), static_cast<std::int64_t>(at_ - *(after - 1)) + 1};
  }
  [[noreturn]] void fail(const std::string& message) const { fail_grammar(source_, place(), message); }
  [[noreturn]] void fail_expected(const std::string& expected) const {
    fail("expected " + expected + ", found " + (ended() ? "the end" : quoted(text_.substr(at_, 12))));
  }
  static std::string quoted(std::string_view s) { return '"' + shortened(s.substr(0, s.find('\n'))) + '"'; }

  // White space and comments; ends of lines too, where they end nothing.
  void skip(bool lines) {
    for (; !ended(); ++at_) {
      const char c = text_[at_];
      if (c == '#') {
        while (!ended() && text_[at_] != '\n') ++at_;
        if (!lines || ended()) return;
      } else if (c == '\n' || c == '\r') {
        if (!lines) return;
      } else if (c != ' ' && c != '\t') {
        return;
      }
    }
  }

  // Whether the rule goes on in the next line, as it does before "|".
  bool skip_to_choice(bool nested) {
    skip(nested);
    if (peek() == '|') return true;
    const std::size_t before = at_;
    skip(true);
    if (peek() == '|') return true;
    at_ = before;
    return false;
  }

  std::string parse_name() {
    const std::size_t begin = at_;
    while (!ended() && is_word(text_[at_])) ++at_;
    if (at_ == begin) fail_expected("a rule's name");
    return std::string(text_.substr(begin, at_ - begin));
  }

  std::size_t rule_named(const std::string& name) {
    const auto [it, is_new] = names_.emplace(name, rules_.size());
    if (is_new) {
      if (rules_.size() >= kMostGrammarRules) {
        fail("expected at most " + std::to_string(kMostGrammarRules) + " rules, found more");
      }
      rules_.push_back({name, place(), false, {}});
    }
    return it->second;
  }

  void parse_rule() {
    const GrammarPlace start = place();
    const std::string name = parse_name();
    const std::size_t index = rule_named(name);
    if (rules_[index].defined) {
      fail_grammar(source_, start, "expected one rule named " + shortened(name) + ", found another");
    }
    rules_[index].defined = true;
    rules_[index].place = start;
    skip(false);
    if (!looking_at("::=")) fail_expected("::= after a rule's name");
    at_ += 3;
    skip(true);
    GrammarElement body = parse_choice(0);
    rules_[index].body = std::move(body);
    skip(false);
    if (!ended() && peek() != '\n' && peek() != '\r') fail_expected("an element, | or the end of the line");
  }

  GrammarElement parse_choice(int depth) {
    GrammarElement choice;
    choice.kind = Kind::choice;
    choice.place = place();
    choice.parts.push_back(parse_sequence(depth));
    while (skip_to_choice(depth > 0)) {
      ++at_;
      skip(true);
      choice.parts.push_back(parse_sequence(depth));
    }
    return choice.parts.size() == 1 ? std::move(choice.parts.front()) : choice;
  }

  GrammarElement parse_sequence(int depth) {
    GrammarElement sequence;
    sequence.place = place();
    for (skip(depth > 0); begins_element(); skip(depth > 0)) {
      GrammarElement e = parse_element(depth);
      for (int signs = 0; begins_repetition(); ++signs) {
        if (signs == kMostRepetitionSigns) {  // each is a level that functions descend to
          fail("expected at most " + std::to_string(kMostRepetitionSigns) + " repetitions of one element, found more");
        }
        e = parse_repetition(std::move(e));
      }
      sequence.parts.push_back(std::move(e));
    }
    return sequence.parts.size() == 1 ? std::move(sequence.parts.front()) : sequence;
  }

  bool begins_element() const {
    const char c = peek();
    return !ended() && (c == '"' || c == '[' || c == '(' || c == '.' || is_word(c));
  }

  GrammarElement parse_element(int depth) {
    GrammarElement e;
    e.place = place();
    const char c = peek();
    if (c == '"') {
      e.kind = Kind::literal;
      e.literal = parse_literal();
    } else if (c == '[') {
      e.kind = Kind::character;
      e.ranges = parse_class();
    } else if (c == '.') {
      e.kind = Kind::character;
      e.ranges = complement({});
      ++at_;
    } else if (c == '(') {
      if (depth >= kMostGrammarDepth) {
        fail("expected groups nested at most " + std::to_string(kMostGrammarDepth) + " deep, found deeper ones");
      }
      ++at_;
      skip(true);
      e = parse_choice(depth + 1);
      skip(true);
      if (peek() != ')') fail_expected(") at the end of a group");
      ++at_;
    } else {
      e.kind = Kind::rule;
      const GrammarPlace start = e.place;
      e.rule = rule_named_at(parse_name(), start);
    }
    return e;
  }

  std::size_t rule_named_at(const std::string& name, const GrammarPlace& where) {
    const std::size_t before = rules_.size(), index = rule_named(name);
    if (rules_.size() > before) rules_[index].place = where;
    return index;
  }

  bool begins_repetition() const {
    const char c = peek();
    return !ended() && (c == '*' || c == '+' || c == '?' || c == '{');
  }

  std::int64_t parse_count() {
    if (!is_digit(peek())) fail_expected("a number of repetitions");
    std::int64_t n = 0;
    for (; is_digit(peek()); ++at_) {
      n = 10 * n + (peek() - '0');
      if (n > kMostRepetitions) {
        fail("expected at most " + std::to_string(kMostRepetitions) + " repetitions, found more");
      }
    }
    return n;
  }

  GrammarElement parse_repetition(GrammarElement of) {
    GrammarElement e;
    e.kind = Kind::repetition;
    e.place = place();
    const char c = text_[at_++];
    e.least = c == '+' ? 1 : 0;
    e.most = c == '?' ? 1 : -1;
    if (c == '{') {
      skip(true);
      e.least = e.most = parse_count();
      skip(true);
      if (peek() == ',') {
        ++at_;
        skip(true);
        e.most = is_digit(peek()) ? parse_count() : -1;
        skip(true);
      }
      if (peek() != '}') fail_expected("} at the end of a number of repetitions");
      ++at_;
      if (e.most >= 0 && e.most < e.least) {
        fail_grammar(source_, e.place,
                     "expected repetitions from a number to one that is not less, found {" + std::to_string(e.least) +
                         "," + std::to_string(e.most) + "}");
      }
    }
    e.parts.push_back(std::move(of));
    return e;
  }

  // One character of a literal or a class.
  char32_t parse_char() {
    if (peek() == '\\') return parse_escape();
    const Utf8Char c = first_utf8_char(text_.substr(at_));
    if (c.state != Utf8State::valid) fail("expected UTF-8, found other bytes");
    at_ += c.bytes;
    return c.code;
  }

  char32_t parse_hex(int digits) {
    char32_t code = 0;
    for (int i = 0; i < digits; ++i, ++at_) {
      const int value = ended() ? -1 : hex_value(text_[at_]);
      if (value < 0) fail_expected(std::to_string(digits) + " hexadecimal digits");
      code = code << 4 | static_cast<char32_t>(value);
    }
    if (code > kLastChar || is_surrogate(code)) fail("expected a character's number, found another");
    return code;
  }

  char32_t parse_escape() {
    ++at_;
    if (ended()) fail_expected("a character after \\");
    const char c = text_[at_++];
    switch (c) {
      case 'n':
        return U'\n';
      case 'r':
        return U'\r';
      case 't':
        return U'\t';
      case 'x':
        return parse_hex(2);
      case 'u':
        return parse_hex(4);
      case 'U':
        return parse_hex(8);
      default:
        break;
    }
    const bool punctuation =
        c > ' ' && c < 0x7f && !is_digit(c) && hex_value(c) < 0 && !(is_word(c) && c != '-' && c != '_');
    if (!punctuation) {
      --at_;
      fail_expected("an escape: \\n \\r \\t \\\" \\\\ \\[ \\] \\xNN \\uNNNN \\UNNNNNNNN");
    }
    return static_cast<char32_t>(c);
  }

  std::string parse_literal() {
    const GrammarPlace start = place();
    std::string bytes;
    for (++at_; peek() != '"' || ended();) {
      if (ended()) fail_grammar(source_, start, "expected \" at the end of a literal, found none");
      append_utf8(parse_char(), bytes);
    }
    ++at_;
    return bytes;
  }

  std::vector<CharRange> parse_class() {
    const GrammarPlace start = place();
    ++at_;
    const bool negated = peek() == '^';
    if (negated) ++at_;
    std::vector<CharRange> ranges;
    while (peek() != ']' || ended()) {
      if (ended()) fail_grammar(source_, start, "expected ] at the end of a class, found none");
      const char32_t low = parse_char();
      char32_t high = low;
      if (peek() == '-' && at_ + 1 < text_.size() && text_[at_ + 1] != ']') {
        ++at_;
        high = parse_char();
        if (high < low) fail_grammar(source_, start, "expected ranges of rising characters, found a falling one");
      }
      ranges.emplace_back(low, high);
    }
    ++at_;
    if (ranges.empty()) fail_grammar(source_, start, "expected a class of at least one character, found none");
    ranges = normalised(std::move(ranges));
    if (negated) ranges = complement(ranges);
    if (ranges.empty()) fail_grammar(source_, start, "expected a class that leaves some character, found none");
    return ranges;
  }

  std::string_view text_;
  std::string_view source_;
  std::size_t at_ = 0;
  std::vector<std::size_t> lines_ = {0};  // where each begins
  std::vector<GrammarRule> rules_;
  std::map<std::string, std::size_t> names_;
};

}  // namespace

void fail_grammar(std::string_view source, const GrammarPlace& place, std::string_view message) {
  throw UsageError(std::string(source) + ": line " + std::to_string(place.line) + ", column " +
                   std::to_string(place.column) + ": " + std::string(message));
}

std::vector<GrammarRule> parse_gbnf(std::string_view text, std::string_view source) {
  return Parser(text, source).parse();
}

std::string gbnf_literal(std::string_view text) {
  constexpr std::string_view kHex = "0123456789abcdef";
  std::string out = "\"";
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (byte < 0x20 || byte == 0x7f) {
      out += "\\x";
      out += kHex[byte >> 4];
      out += kHex[byte & 15];
    } else {
      out += c;
    }
  }
  return out + '"';
}

}  // namespace jupiter

// Splitting on Unicode classes: L letters, N numbers, white space, everything else ("symbols").
#include "io/tokenizer/pretokenizer.hpp"

#include <utf8proc.h>

#include <algorithm>
#include <cstdint>

#include "io/tokenizer/utf8.hpp"

namespace jupiter {

namespace {

enum class Class : std::uint8_t { letter, number, newline, space, symbol };  // newline: \r and \n only

struct Char {
  std::size_t begin;  // byte offset in the text
  char32_t code;
  Class cls;
  // Of letters, and of marks (whose class is symbol): whether they may stand in the first part of a word of GPT-4o,
  // which is upper-case, and in the second, which is lower-case. Letters without case and marks may stand in both.
  bool upper = false, lower = false;
};

bool is_white_space(char32_t c) {  // Unicode's property White_Space, without \r and \n
  return c == 0x20 || (c >= 0x09 && c <= 0x0C) || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

Class classify(char32_t c) {
  if (c == '\r' || c == '\n') return Class::newline;
  if (is_white_space(c)) return Class::space;
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(c))) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
      return Class::letter;
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_NO:
      return Class::number;
    default:
      return Class::symbol;
  }
}

void set_case(Char& c) {
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(c.code))) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LT:
      c.upper = true;
      break;
    case UTF8PROC_CATEGORY_LL:
      c.lower = true;
      break;
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
      c.upper = c.lower = true;
      break;
    default:
      break;
  }
}

std::vector<Char> classify_text(std::string_view text) {
  std::vector<Char> chars;
  chars.reserve(text.size() + 1);
  for (std::size_t at = 0; at < text.size();) {
    const Utf8Char c = first_utf8_char(text.substr(at));
    const bool valid = c.state == Utf8State::valid;
    chars.push_back({at, c.code, valid ? classify(c.code) : Class::symbol});
    if (valid) set_case(chars.back());
    at += c.bytes;
  }
  return chars;
}

// Each matcher is given characters [i, end), i < end, and returns the end of the word that starts at i.
class Matcher {
 public:
  explicit Matcher(const std::vector<Char>& chars) : chars_(chars) {}

  // 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
  std::size_t gpt2(std::size_t i, std::size_t end) const {
    if (const std::size_t j = contraction(i, end, false)) return j;
    const std::size_t j = after_space(i, end);
    if (j < end && !is_space(j)) return run(j, end, chars_[j].cls);
    return spaces(i, end);
  }

  // (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,D}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+
  // with D = 3 (Llama 3) or 1 (Qwen 2)
  std::size_t llama3(std::size_t i, std::size_t end, std::size_t max_digits) const {
    if (const std::size_t j = contraction(i, end, true)) return j;
    const Class cls = chars_[i].cls;
    if (cls == Class::letter) return run(i, end, cls);
    if (cls == Class::number) return run(i, std::min(end, i + max_digits), cls);
    if (cls != Class::newline && i + 1 < end && chars_[i + 1].cls == Class::letter)
      return run(i + 1, end, Class::letter);
    const std::size_t j = after_space(i, end);
    if (j < end && chars_[j].cls == Class::symbol) return run(run(j, end, Class::symbol), end, Class::newline);
    return lines_or_spaces(i, end);
  }

  // P?U*W+C?|P?U+W*C?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+
  // with P = [^\r\n\p{L}\p{N}], U = upper-case and caseless letters and marks, W = lower-case and the same others,
  // C = (?i:'s|'t|'re|'ve|'m|'ll|'d)
  std::size_t o200k(std::size_t i, std::size_t end) const {
    const Class cls = chars_[i].cls;
    const bool prefix = cls == Class::symbol || cls == Class::space;
    for (const bool lower : {true, false}) {
      for (std::size_t j = prefix ? i + 1 : i;; --j) {
        const std::size_t stop = lower ? word_with_lower(j, end) : word_with_upper(j, end);
        if (stop != 0) return std::max(stop, stop < end ? contraction(stop, end, true) : 0);
        if (j == i) break;
      }
    }
    if (cls == Class::number) return run(i, std::min(end, i + 3), cls);
    std::size_t j = after_space(i, end);
    if (j == end || chars_[j].cls != Class::symbol) return lines_or_spaces(i, end);
    j = run(j, end, Class::symbol);
    while (j < end && (chars_[j].cls == Class::newline || chars_[j].code == '/')) ++j;
    return j;
  }

 private:
  // U*W+ from i on: the end, or 0.
  std::size_t word_with_lower(std::size_t i, std::size_t end) const {
    std::size_t j = i;
    while (j < end && chars_[j].upper) ++j;
    // The second part begins as late as it can.
    while (j >= end || !chars_[j].lower) {
      if (j <= i) return 0;
      --j;
    }
    while (j < end && chars_[j].lower) ++j;
    return j;
  }
  // U+W* from i on: the end, or 0.
  std::size_t word_with_upper(std::size_t i, std::size_t end) const {
    std::size_t j = i;
    while (j < end && chars_[j].upper) ++j;
    if (j == i) return 0;
    while (j < end && chars_[j].lower) ++j;
    return j;
  }
  // \s*[\r\n]+|\s+(?!\S)|\s+
  std::size_t lines_or_spaces(std::size_t i, std::size_t end) const {
    std::size_t after_newline = 0;
    for (std::size_t k = i; k < end && is_space(k); ++k) {
      if (chars_[k].cls == Class::newline) after_newline = k + 1;
    }
    return after_newline != 0 ? after_newline : spaces(i, end);
  }
  bool is_space(std::size_t i) const { return chars_[i].cls == Class::space || chars_[i].cls == Class::newline; }
  // " ?": past a plain space that something follows.
  std::size_t after_space(std::size_t i, std::size_t end) const {
    return chars_[i].code == ' ' && i + 1 < end ? i + 1 : i;
  }
  std::size_t run(std::size_t i, std::size_t end, Class cls) const {
    while (i < end && chars_[i].cls == cls) ++i;
    return i;
  }
  // \s+(?!\S)|\s+: the last space before a word stays with the word, unless it is the only one.
  std::size_t spaces(std::size_t i, std::size_t end) const {
    std::size_t j = i;
    while (j < end && is_space(j)) ++j;
    return j < end && j - i > 1 ? j - 1 : j;
  }
  // The end of 's 't 're 've 'm 'll 'd at i, or 0.
  std::size_t contraction(std::size_t i, std::size_t end, bool any_case) const {
    if (chars_[i].code != '\'' || i + 1 >= end) return 0;
    const char32_t a = fold(chars_[i + 1].code, any_case);
    if (a == 's' || a == 't' || a == 'm' || a == 'd') return i + 2;
    if (i + 2 >= end) return 0;
    const char32_t b = fold(chars_[i + 2].code, any_case);
    return ((a == 'r' || a == 'v') && b == 'e') || (a == 'l' && b == 'l') ? i + 3 : 0;
  }
  static char32_t fold(char32_t c, bool any_case) {
    if (!any_case) return c;
    if (c == 0x17F) return 's';  // long s: Unicode's case folding
    return c >= 'A' && c <= 'Z' ? c + 32 : c;
  }

  const std::vector<Char>& chars_;
};

std::size_t next_word(const Matcher& match, const std::vector<Char>& chars, std::size_t i, std::size_t end,
                      PreTokenizer pre) {
  if (pre == PreTokenizer::llama3) return match.llama3(i, end, 3);
  if (pre == PreTokenizer::qwen2) return match.llama3(i, end, 1);
  if (pre == PreTokenizer::o200k) return match.o200k(i, end);
  if (pre == PreTokenizer::smollm && chars[i].cls == Class::number) return i + 1;
  return match.gpt2(i, end);
}

// smollm cuts out every digit before anything else: what lies between is split on its own.
std::size_t fragment_end(const std::vector<Char>& chars, std::size_t i, PreTokenizer pre) {
  if (pre != PreTokenizer::smollm) return chars.size();
  if (chars[i].cls == Class::number) return i + 1;
  while (i < chars.size() && chars[i].cls != Class::number) ++i;
  return i;
}

}  // namespace

std::vector<std::string_view> split_words(std::string_view text, PreTokenizer pre) {
  std::vector<std::string_view> words;
  if (text.empty()) return words;
  if (pre == PreTokenizer::none) return {text};
  const std::vector<Char> chars = classify_text(text);
  const Matcher match(chars);
  for (std::size_t i = 0; i < chars.size();) {
    const std::size_t end = fragment_end(chars, i, pre);
    while (i < end) {
      const std::size_t next = next_word(match, chars, i, end, pre);
      const std::size_t stop = next < chars.size() ? chars[next].begin : text.size();
      words.push_back(text.substr(chars[i].begin, stop - chars[i].begin));
      i = next;
    }
  }
  return words;
}

}  // namespace jupiter

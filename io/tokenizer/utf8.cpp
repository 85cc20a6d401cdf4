// Decoding after the table of well-formed sequences in the Unicode standard (chapter 3, table 3-7).
#include "io/tokenizer/utf8.hpp"

#include <utf8proc.h>

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <new>

namespace jupiter {

namespace {

struct Lead {
  std::size_t length;       // 0: no lead byte
  std::uint8_t second_low;  // range of the second byte: shuts out overlong forms and surrogates
  std::uint8_t second_high;
};

Lead lead(std::uint8_t b) {
  if (b < 0xC2 || b > 0xF4) return {0, 0, 0};
  if (b < 0xE0) return {2, 0x80, 0xBF};
  if (b < 0xF0) {
    return {3, static_cast<std::uint8_t>(b == 0xE0 ? 0xA0 : 0x80), static_cast<std::uint8_t>(b == 0xED ? 0x9F : 0xBF)};
  }
  return {4, static_cast<std::uint8_t>(b == 0xF0 ? 0x90 : 0x80), static_cast<std::uint8_t>(b == 0xF4 ? 0x8F : 0xBF)};
}

}  // namespace

Utf8Char first_utf8_char(std::string_view text) {
  const auto first = static_cast<std::uint8_t>(text[0]);
  if (first < 0x80) return {Utf8State::valid, 1, first};
  const Lead form = lead(first);
  if (form.length == 0) return {};
  char32_t code = first & (0x7Fu >> form.length);
  for (std::size_t i = 1; i < form.length; ++i) {
    if (i == text.size()) return {Utf8State::incomplete, i, 0xFFFD};
    const auto b = static_cast<std::uint8_t>(text[i]);
    const std::uint8_t low = i == 1 ? form.second_low : 0x80, high = i == 1 ? form.second_high : 0xBF;
    if (b < low || b > high) return {Utf8State::invalid, i, 0xFFFD};
    code = (code << 6) | (b & 0x3Fu);
  }
  return {Utf8State::valid, form.length, code};
}

void append_utf8(char32_t code, std::string& out) {
  const auto put = [&out](char32_t byte) { out += static_cast<char>(byte); };
  if (code < 0x80) {
    put(code);
  } else if (code < 0x800) {
    put(0xC0 | (code >> 6));
    put(0x80 | (code & 0x3F));
  } else if (code < 0x10000) {
    put(0xE0 | (code >> 12));
    put(0x80 | ((code >> 6) & 0x3F));
    put(0x80 | (code & 0x3F));
  } else {
    put(0xF0 | (code >> 18));
    put(0x80 | ((code >> 12) & 0x3F));
    put(0x80 | ((code >> 6) & 0x3F));
    put(0x80 | (code & 0x3F));
  }
}

std::string to_nfc(std::string_view text) {
  if (std::all_of(text.begin(), text.end(), [](char c) { return static_cast<std::uint8_t>(c) < 0x80; })) {
    return std::string(text);
  }
  std::string out;
  while (!text.empty()) {
    std::size_t valid = 0;
    Utf8State state = Utf8State::valid;
    while (valid < text.size()) {
      const Utf8Char c = first_utf8_char(text.substr(valid));
      state = c.state;
      if (state != Utf8State::valid) break;
      valid += c.bytes;
    }
    utf8proc_uint8_t* composed = nullptr;
    const utf8proc_ssize_t size =
        utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(text.data()), static_cast<utf8proc_ssize_t>(valid),
                     &composed, static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
    const std::unique_ptr<utf8proc_uint8_t, decltype(&std::free)> owner(composed, &std::free);
    if (size < 0) throw std::bad_alloc();  // the only fault left: the text is valid
    out.append(reinterpret_cast<const char*>(composed), static_cast<std::size_t>(size));
    if (state != Utf8State::valid) out += text[valid++];
    text.remove_prefix(valid);
  }
  return out;
}

std::string to_valid_utf8(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  while (!text.empty()) {
    const Utf8Char c = first_utf8_char(text);
    append_utf8(c.code, out);
    text.remove_prefix(c.bytes);
  }
  return out;
}

}  // namespace jupiter

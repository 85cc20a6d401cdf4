// UTF-8, one character at a time, for text that may be invalid.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace jupiter {

enum class Utf8State : std::uint8_t {
  valid,
  invalid,     // these bytes can never become a character
  incomplete,  // a valid beginning that ends with the text
};

struct Utf8Char {
  Utf8State state = Utf8State::invalid;
  std::size_t bytes = 1;   // of this character or of its longest valid beginning; at least 1
  char32_t code = 0xFFFD;  // the replacement character unless valid
};

// The first character of `text`, which must not be empty.
Utf8Char first_utf8_char(std::string_view text);

void append_utf8(char32_t code, std::string& out);

// Bytes that are no UTF-8 become U+FFFD, one for each longest valid beginning.
std::string to_valid_utf8(std::string_view text);

// Unicode's composed form (NFC) of the parts that are UTF-8; other bytes stay as they are.
std::string to_nfc(std::string_view text);

}  // namespace jupiter

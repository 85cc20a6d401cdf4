// Text to tokens and back, for both kinds of tokenizer.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <variant>
#include <vector>

#include "io/tokenizer/bpe.hpp"
#include "io/tokenizer/tokenizer_data.hpp"

namespace jupiter {

// A part of a prompt. In `special` parts (templates) the text of a control token becomes that token; in others (what a
// user wrote) it stays text.
struct PromptSegment {
  std::string text;
  bool special = false;
};

// Finds the tokens that are matched as a whole before any merging: control tokens, and "user-defined" ones, which are
// ordinary text that the model has one token for.
class WholeTokenFinder {
 public:
  explicit WholeTokenFinder(const TokenizerData& data);
  struct Match {
    std::size_t begin = 0;
    std::size_t size = 0;  // 0: no match
    TokenId id = -1;
    bool control = false;
  };
  // The first match at or after `from`, the longest one there; control tokens only where control_allowed(begin, size).
  template <typename Allowed>
  Match find(std::string_view text, std::size_t from, const Allowed& control_allowed) const;

 private:
  struct Entry {
    TokenId id;
    bool control;
  };
  std::unordered_map<std::string_view, Entry> tokens_;
  std::vector<std::size_t> lengths_;  // that occur, longest first
  std::array<bool, 256> first_bytes_{};
};

class Tokenizer {
 public:
  // Throws FormatError, naming `source`, where the data do not fit together.
  explicit Tokenizer(TokenizerData data, std::string_view source = "tokenizer");
  Tokenizer(Tokenizer&&) = default;
  Tokenizer& operator=(Tokenizer&&) = default;

  const TokenizerData& data() const { return data_; }
  std::int64_t vocab_size() const { return std::ssize(data_.tokens); }

  // Nothing is added (no bos). Any bytes are accepted; what is not UTF-8 becomes byte tokens.
  std::vector<TokenId> encode(std::string_view text, bool parse_special) const;
  // The segments are one text: words may run across their borders, control tokens may not.
  std::vector<TokenId> encode(std::span<const PromptSegment> segments) const;

  // Valid UTF-8; control tokens give nothing. Same as a StreamDecoder fed with all of them.
  std::string decode(std::span<const TokenId> ids) const;
  // The bytes of one token, maybe part of a character; control tokens: their name, "<|im_end|>". Empty for an id
  // outside the vocabulary.
  std::string_view piece(TokenId id) const;
  bool is_control(TokenId id) const;  // control or unknown: not part of an answer's text
  bool is_end(TokenId id) const;      // ends an answer

 private:
  void encode_fragment(std::string_view text, bool space_prefix, std::vector<TokenId>& out) const;
  template <typename Allowed>
  std::vector<TokenId> encode_text(std::string_view text, const Allowed& control_allowed) const;

  TokenizerData data_;
  std::vector<std::string> pieces_;
  WholeTokenFinder whole_tokens_;
  std::variant<ByteBpe, ScoredBpe> bpe_;
};

// Turns tokens into text as they come, whole characters only. The tokenizer must outlive it.
class StreamDecoder {
 public:
  explicit StreamDecoder(const Tokenizer& tokenizer);
  // The text that this token completes; maybe empty. Bytes that can no longer become a character give U+FFFD.
  std::string push(TokenId id);
  // The rest: U+FFFD for an unfinished character. The decoder is then as new.
  std::string finish();

 private:
  const Tokenizer* tokenizer_;
  std::string pending_;       // an unfinished character
  bool strip_space_ = false;  // the space that encoding put in front is still to come
};

}  // namespace jupiter

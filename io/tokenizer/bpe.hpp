// Byte pair encoding of both kinds: by rank of merges on bytes, and by score of pieces on characters.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "io/tokenizer/tokenizer_data.hpp"

namespace jupiter {

// GPT-2 spells each byte as a visible character. Gives the bytes that `token` spells; false where a character is none
// of the 256.
bool bytes_from_gpt2(std::string_view token, std::string& out);
std::string gpt2_from_bytes(std::string_view bytes);

// Merges ranked pairs inside words. Time O(n log n) in the length of a word.
class ByteBpe {
 public:
  // pieces[id]: the bytes of each token. FormatError, naming `source`, where a merge names a token that does
  // not exist.
  ByteBpe(const TokenizerData& data, const std::vector<std::string>& pieces, std::string_view source);
  void encode(std::string_view text, std::vector<TokenId>& out) const;

 private:
  struct Merge {
    std::uint32_t rank;
    TokenId result;
  };
  static std::uint64_t pair_key(TokenId left, TokenId right);
  TokenId token_of_merge_part(std::string_view spelled) const;
  void encode_word(std::string_view word, std::vector<TokenId>& out) const;

  PreTokenizer pre_;
  bool whole_words_first_;  // Llama 3: a word that is a token is that token, whatever the merges say
  std::array<TokenId, 256> byte_tokens_{};
  std::unordered_map<std::string_view, TokenId> ids_;  // bytes of ordinary tokens; views of pieces
  std::unordered_map<std::uint64_t, Merge> merges_;
};

// Merges neighbours into the best-scored piece until none is left; what has no piece becomes bytes.
class ScoredBpe {
 public:
  explicit ScoredBpe(const TokenizerData& data);
  // `text` has its spaces spelled as U+2581.
  void encode(std::string_view text, std::vector<TokenId>& out) const;

 private:
  struct Piece {
    TokenId id;
    float score;
  };
  const Piece* find(std::string_view text) const;
  void emit(std::string_view symbol, std::vector<TokenId>& out) const;

  std::unordered_map<std::string_view, Piece> pieces_;  // ordinary tokens only: text must never spell a control token
  std::array<TokenId, 256> byte_tokens_{};
  TokenId unknown_;
  std::size_t longest_ = 0;  // bytes
};

// The byte that a token like "<0x0A>" stands for, or -1.
int byte_of_token(std::string_view token);

}  // namespace jupiter

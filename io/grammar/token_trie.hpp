// The texts of a vocabulary's tokens as a tree of bytes, so that all tokens with the same beginning are looked at
// together.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "io/tokenizer/tokenizer.hpp"

namespace jupiter {

class TokenTrie {
 public:
  // A byte behind those of the nodes above it. Nodes stand in depth-first order, so what follows a node is its first
  // child, and `skip` is the next node that does not stand below it.
  struct Node {
    std::uint8_t byte = 0;
    std::uint16_t depth = 0;  // bytes with this one
    std::int32_t skip = 0;
    std::int32_t first_token = 0;  // of the tokens that end here, in tokens()
    std::int32_t tokens = 0;
  };

  // Control, unknown and unused tokens, ends of an answer and tokens without bytes have no place in a text.
  explicit TokenTrie(const Tokenizer& tokenizer);
  // bytes: of each token; empty: it has no place in a text. space_prefix: a space at the beginning of an answer is not
  // shown (TokenizerData::add_space_prefix).
  TokenTrie(const std::vector<std::string>& bytes, bool space_prefix);

  const std::vector<Node>& nodes() const { return nodes_; }
  const std::vector<TokenId>& tokens() const { return tokens_; }
  // Empty where the token has no place in a text, or is none.
  std::string_view bytes(TokenId token) const;
  std::int64_t vocab_size() const { return std::ssize(places_); }
  std::size_t longest() const { return longest_; }  // bytes
  bool has_space_prefix() const { return space_prefix_; }
  // The longest token that `text` begins with, or -1.
  TokenId longest_prefix(std::string_view text) const;

 private:
  std::vector<Node> nodes_;
  std::vector<TokenId> tokens_;
  std::string text_;                                             // of all tokens
  std::vector<std::pair<std::uint32_t, std::uint32_t>> places_;  // of each token's bytes: begin, size
  std::size_t longest_ = 0;
  bool space_prefix_ = false;
};

}  // namespace jupiter

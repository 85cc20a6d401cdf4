// Sorted texts become a tree in one pass.
#include "io/grammar/token_trie.hpp"

#include <algorithm>
#include <numeric>

namespace jupiter {

namespace {

std::vector<std::string> texts_of(const Tokenizer& tokenizer) {
  std::vector<std::string> texts;
  for (TokenId t = 0; t < tokenizer.vocab_size(); ++t) {
    const bool is_text =
        !tokenizer.is_control(t) && !tokenizer.is_end(t) && tokenizer.data().types[t] != TokenType::unused;
    texts.emplace_back(is_text ? tokenizer.piece(t) : std::string_view());
  }
  return texts;
}

}  // namespace

TokenTrie::TokenTrie(const Tokenizer& tokenizer) : TokenTrie(texts_of(tokenizer), tokenizer.data().add_space_prefix) {}

TokenTrie::TokenTrie(const std::vector<std::string>& bytes, bool space_prefix) : space_prefix_(space_prefix) {
  for (const std::string& b : bytes) {
    // No text of a grammar needs a longer token, and depths are kept in 16 bits.
    const std::size_t size = b.size() <= UINT16_MAX ? b.size() : 0;
    places_.emplace_back(static_cast<std::uint32_t>(text_.size()), static_cast<std::uint32_t>(size));
    text_.append(b, 0, size);
    longest_ = std::max(longest_, size);
  }
  std::vector<TokenId> order(bytes.size());
  std::iota(order.begin(), order.end(), TokenId{0});
  std::erase_if(order, [&](TokenId t) { return this->bytes(t).empty(); });
  std::sort(order.begin(), order.end(), [&](TokenId a, TokenId b) {
    const std::string_view x = this->bytes(a), y = this->bytes(b);
    return x != y ? x < y : a < b;
  });
  std::vector<std::int32_t> path;  // nodes of the text before
  const auto leave = [&](std::size_t depth) {
    for (; path.size() > depth; path.pop_back()) nodes_[path.back()].skip = static_cast<std::int32_t>(nodes_.size());
  };
  std::string_view before;
  for (const TokenId t : order) {
    const std::string_view text = this->bytes(t);
    const auto shared = std::mismatch(before.begin(), before.end(), text.begin(), text.end()).second - text.begin();
    leave(static_cast<std::size_t>(shared));
    for (std::size_t i = path.size(); i < text.size(); ++i) {
      path.push_back(static_cast<std::int32_t>(nodes_.size()));
      nodes_.push_back({static_cast<std::uint8_t>(text[i]), static_cast<std::uint16_t>(i + 1), 0, 0, 0});
    }
    Node& end = nodes_[path.back()];
    if (end.tokens++ == 0) end.first_token = static_cast<std::int32_t>(tokens_.size());
    tokens_.push_back(t);
    before = text;
  }
  leave(0);
}

std::string_view TokenTrie::bytes(TokenId token) const {
  if (token < 0 || token >= vocab_size()) return {};
  return std::string_view(text_).substr(places_[token].first, places_[token].second);
}

TokenId TokenTrie::longest_prefix(std::string_view text) const {
  TokenId found = -1;
  std::size_t depth = 0;
  for (std::size_t i = 0; i < nodes_.size() && depth < text.size();) {
    const Node& n = nodes_[i];
    if (n.depth <= depth) break;  // all children were looked at
    if (n.byte != static_cast<std::uint8_t>(text[depth])) {
      i = static_cast<std::size_t>(n.skip);
      continue;
    }
    if (n.tokens > 0) found = tokens_[n.first_token];
    ++depth;
    ++i;
  }
  return found;
}

}  // namespace jupiter

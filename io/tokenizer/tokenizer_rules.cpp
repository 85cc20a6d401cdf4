// Which tokens end an answer, and the consistency of tokenizer data.
#include "io/tokenizer/tokenizer_rules.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <string>

#include "io/error.hpp"

namespace jupiter {

namespace {

constexpr std::string_view kEnd = "<|end|>", kReturn = "<|return|>";
constexpr std::array<std::string_view, 12> kEnds = {
    "<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|eom_id|>", "<|end_of_text|>", "<end_of_turn>", "<|end_of_turn|>",
    kEnd,         "</s>",          "<EOT>",      kReturn,      "<|call|>",
};

void check_id(TokenId id, const TokenizerData& data, std::string_view name, std::string_view source) {
  if (id >= -1 && id < static_cast<TokenId>(data.tokens.size())) return;
  throw FormatError(source, std::string("tokenizer ").append(name), "an id below " + std::to_string(data.tokens.size()),
                    std::to_string(id));
}

void check_count(std::size_t found, const TokenizerData& data, std::string_view name, std::string_view source) {
  if (found == data.tokens.size()) return;
  throw FormatError(source, std::string("tokenizer ").append(name), std::to_string(data.tokens.size()) + " entries",
                    std::to_string(found));
}

}  // namespace

void complete_end_of_turn(TokenizerData& data) {
  if (data.eos >= 0) data.end_of_turn.push_back(data.eos);
  const auto special = [&](std::size_t id) {
    return data.types[id] == TokenType::control || data.types[id] == TokenType::user_defined;
  };
  bool returns = false;  // gpt-oss: its <|end|> ends a part of a reply, <|return|> the reply
  for (std::size_t id = 0; id < data.tokens.size(); ++id) returns |= special(id) && data.tokens[id] == kReturn;
  for (std::size_t id = 0; id < data.tokens.size(); ++id) {
    if (returns && data.tokens[id] == kEnd) continue;
    if (special(id) && std::find(kEnds.begin(), kEnds.end(), data.tokens[id]) != kEnds.end()) {
      data.end_of_turn.push_back(static_cast<TokenId>(id));
    }
  }
  std::sort(data.end_of_turn.begin(), data.end_of_turn.end());
  data.end_of_turn.erase(std::unique(data.end_of_turn.begin(), data.end_of_turn.end()), data.end_of_turn.end());
}

void check(const TokenizerData& data, std::string_view source) {
  if (data.tokens.empty() || data.tokens.size() > (1u << 24)) {
    throw FormatError(source, "tokenizer tokens", "1 to 16777216", std::to_string(data.tokens.size()));
  }
  check_count(data.types.size(), data, "token types", source);
  if (data.kind == TokenizerKind::sentencepiece) check_count(data.scores.size(), data, "scores", source);
  check_id(data.bos, data, "bos", source);
  check_id(data.eos, data, "eos", source);
  check_id(data.unknown, data, "unknown", source);
  for (const TokenId id : data.end_of_turn) check_id(id, data, "end-of-turn token", source);
  for (const float score : data.scores) {
    if (!std::isfinite(score)) throw FormatError(source, "tokenizer scores", "finite numbers", std::to_string(score));
  }
  if (data.add_bos && data.bos < 0) throw FormatError(source, "tokenizer bos", "a token (add_bos is set)", "none");
  for (const TokenType type : data.types) {
    if (type < TokenType::normal || type > TokenType::byte) {
      throw FormatError(source, "tokenizer token type", "1 to 6", std::to_string(static_cast<int>(type)));
    }
  }
}

}  // namespace jupiter

// What GGUF metadata say about the tokenizer. Defaults are llama.cpp's, whose format it is.
#include <algorithm>
#include <array>
#include <limits>

#include "io/error.hpp"
#include "io/formats/gguf.hpp"
#include "io/tokenizer/tokenizer_rules.hpp"

namespace jupiter {

namespace {

PreTokenizer read_pre_tokenizer(const Gguf& file) {
  struct Name {
    std::string_view text;
    PreTokenizer pre;
  };
  static constexpr std::array<Name, 12> kNames = {{
      {"gpt-2", PreTokenizer::gpt2},
      {"default", PreTokenizer::gpt2},
      {"olmo", PreTokenizer::gpt2},
      {"smollm", PreTokenizer::smollm},
      {"refact", PreTokenizer::smollm},  // Granite
      {"starcoder", PreTokenizer::smollm},
      {"llama-bpe", PreTokenizer::llama3},
      {"llama3", PreTokenizer::llama3},
      {"llama-v3", PreTokenizer::llama3},
      {"qwen2", PreTokenizer::qwen2},
      {"deepseek-r1-qwen", PreTokenizer::qwen2},
      {"gpt-4o", PreTokenizer::o200k},
  }};
  const std::string_view text = file.find_string("tokenizer.ggml.pre").value_or("default");
  for (const Name& name : kNames) {
    if (name.text == text) return name.pre;
  }
  throw FormatError(file.file_name(), "metadata tokenizer.ggml.pre",
                    "gpt-2, default, olmo, smollm, refact, starcoder, llama-bpe, qwen2 or gpt-4o",
                    "\"" + std::string(text.substr(0, 80)) + "\"");
}

TokenizerKind read_kind(const Gguf& file) {
  const std::string_view text = file.find_string("tokenizer.ggml.model").value_or("");
  if (text == "gpt2") return TokenizerKind::byte_bpe;
  if (text == "llama") return TokenizerKind::sentencepiece;
  throw FormatError(file.file_name(), "metadata tokenizer.ggml.model", "gpt2 or llama",
                    text.empty() ? "nothing" : "\"" + std::string(text.substr(0, 80)) + "\"");
}

TokenId read_id(const Gguf& file, std::string_view name, TokenId fallback) {
  const auto id = file.find_int("tokenizer.ggml." + std::string(name));
  if (!id) return fallback;
  // check() names ids outside the vocabulary; here only the narrowing is guarded.
  return static_cast<TokenId>(std::clamp<std::int64_t>(*id, -1, std::numeric_limits<TokenId>::max()));
}

void read_vocabulary(const Gguf& file, TokenizerData& data) {
  const auto tokens = file.find_strings("tokenizer.ggml.tokens");
  if (!tokens) throw FormatError(file.file_name(), "metadata tokenizer.ggml.tokens", "an array of strings", "nothing");
  data.tokens.assign(tokens->begin(), tokens->end());
  data.types.assign(data.tokens.size(), TokenType::normal);
  if (const auto types = file.find_ints("tokenizer.ggml.token_type")) {
    data.types.clear();
    for (const std::int64_t type : *types) {
      data.types.push_back(static_cast<TokenType>(std::clamp<std::int64_t>(type, 0, 255)));
    }
  }
  if (data.kind == TokenizerKind::sentencepiece) {
    data.scores = file.find_floats("tokenizer.ggml.scores").value_or(std::vector<float>{});
  } else if (const auto merges = file.find_strings("tokenizer.ggml.merges")) {
    data.merges.assign(merges->begin(), merges->end());
  } else {
    throw FormatError(file.file_name(), "metadata tokenizer.ggml.merges", "an array of strings", "nothing");
  }
}

}  // namespace

TokenizerData Gguf::tokenizer_data() const {
  TokenizerData data;
  data.kind = read_kind(*this);
  const bool scored = data.kind == TokenizerKind::sentencepiece;
  if (!scored) data.pre = read_pre_tokenizer(*this);
  read_vocabulary(*this, data);
  data.bos = read_id(*this, "bos_token_id", scored ? 1 : -1);
  data.eos = read_id(*this, "eos_token_id", scored ? 2 : -1);
  data.unknown = read_id(*this, "unknown_token_id", scored ? 0 : -1);
  for (const std::string_view key : {"eot_token_id", "eom_token_id"}) {
    const TokenId id = read_id(*this, key, -1);
    if (id >= 0) data.end_of_turn.push_back(id);
  }
  const bool bos_by_default = scored || data.pre == PreTokenizer::llama3;
  data.add_bos = find_bool("tokenizer.ggml.add_bos_token").value_or(bos_by_default) && data.bos >= 0;
  data.add_space_prefix = scored && find_bool("tokenizer.ggml.add_space_prefix").value_or(true);
  data.chat_template = find_string("tokenizer.chat_template").value_or("");
  check(data, file_name_);
  complete_end_of_turn(data);
  return data;
}

}  // namespace jupiter

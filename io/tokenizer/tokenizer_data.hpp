// What a tokenizer is made of, as GGUF, Hugging Face and our own shards carry it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace jupiter {

using TokenId = std::int32_t;

enum class TokenizerKind : std::uint8_t {
  byte_bpe = 0,       // byte-level BPE with merges (GPT-2, Llama 3, Qwen, SmolLM)
  sentencepiece = 1,  // scored BPE with byte fallback (Llama 2, TinyLlama, Vicuna, Mistral)
};

// How byte-level BPE cuts text into words before merging.
enum class PreTokenizer : std::uint8_t { none = 0, gpt2 = 1, smollm = 2, llama3 = 3, qwen2 = 4, o200k = 5 };

enum class TokenType : std::uint8_t {  // GGUF's numbers
  normal = 1,
  unknown = 2,
  control = 3,
  user_defined = 4,
  unused = 5,
  byte = 6,
};

struct TokenizerData {
  TokenizerKind kind = TokenizerKind::byte_bpe;
  PreTokenizer pre = PreTokenizer::none;
  std::vector<std::string> tokens;  // [vocab_size], as the source spells them (byte-level BPE: GPT-2's byte alphabet)
  std::vector<float> scores;        // [vocab_size] for sentencepiece, else empty
  std::vector<TokenType> types;     // [vocab_size]
  std::vector<std::string> merges;  // "left right", best first; byte_bpe only
  TokenId bos = -1;                 // -1: none
  TokenId eos = -1;
  TokenId unknown = -1;
  std::vector<TokenId> end_of_turn;  // every token that ends an answer (eos included)
  bool add_bos = false;              // encode() puts bos in front
  bool add_space_prefix = false;     // sentencepiece: a space before the first word, and after each control token
  bool space_prefix_once = false;    // that space only at the start of a text that has none (newer tokenizers)
  std::string chat_template;         // Jinja text of the model; empty: none
};

}  // namespace jupiter

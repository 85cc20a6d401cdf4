// Hugging Face's tokenizer.json, understood as far as TokenizerData can describe it.
#pragma once

#include <optional>
#include <string>

#include "io/json_fields.hpp"
#include "io/tokenizer/tokenizer_data.hpp"

namespace jupiter {

// The JSON files of a model's folder that speak about its tokenizer.
struct HfTokenizerFiles {
  JsonObject tokenizer;                         // tokenizer.json
  std::optional<JsonObject> tokenizer_config;   // tokenizer_config.json
  std::optional<JsonObject> special_tokens;     // special_tokens_map.json
  std::optional<JsonObject> generation_config;  // generation_config.json
  std::optional<JsonObject> config;             // config.json
  std::string chat_template;                    // chat_template.jinja; empty: none
};

// Ids without a token, up to vocab_size, get the names "[PAD0]", ... and type unused.
TokenizerData parse_hf_tokenizer(const HfTokenizerFiles& files, std::int64_t vocab_size);

}  // namespace jupiter

// Rules about tokenizers that GGUF files and Hugging Face folders share.
#pragma once

#include <string_view>

#include "io/tokenizer/tokenizer_data.hpp"

namespace jupiter {

// Adds to end_of_turn the eos token and every special token whose text is known to end an answer ("<|im_end|>",
// "<|eot_id|>", ...): models often name only one of the two that they use. Sorted, without repeats.
void complete_end_of_turn(TokenizerData& data);

// Throws FormatError, naming `source`, where array sizes disagree or an id is outside the vocabulary.
void check(const TokenizerData& data, std::string_view source);

}  // namespace jupiter

// Byte-level BPE merges inside words only; these rules cut text into words. Each rule is the hand-written equivalent of
// the regular expression that the model was trained with (pretokenizer.cpp quotes them).
#pragma once

#include <string_view>
#include <vector>

#include "io/tokenizer/tokenizer_data.hpp"

namespace jupiter {

// The words are views of `text`, in order, without gaps. Bytes that are no UTF-8 count as symbols.
// PreTokenizer::none: the whole text is one word.
std::vector<std::string_view> split_words(std::string_view text, PreTokenizer pre);

}  // namespace jupiter

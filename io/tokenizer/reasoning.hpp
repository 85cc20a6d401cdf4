// Thinking in answers: what a model writes for itself before what it means for the reader.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "io/tokenizer/tokenizer.hpp"

namespace jupiter {

// How a model marks its thinking. tags: <think> ... </think> at the answer's start (Qwen 3, SmolLM3, DeepSeek R1).
// channels: an answer is a row of messages <|channel|>NAME<|message|>...<|end|>, and those of the channel "analysis"
// are thinking (gpt-oss).
enum class ReasoningForm : std::uint8_t { none, tags, channels };
// By the tokens that the vocabulary has.
ReasoningForm reasoning_form(const Tokenizer& tokenizer);

// Takes an answer apart, token by token, as text in whole characters.
class ReasoningReader {
 public:
  struct Piece {
    std::string reasoning;
    std::string content;
  };

  // inside: the prompt has opened the thinking already (ChatTemplate::opens_thinking()). The tokenizer must outlive it.
  ReasoningReader(const Tokenizer& tokenizer, ReasoningForm form, bool inside);

  // What this token completes. Markers, and white space around the thinking, are in neither part.
  Piece push(TokenId id);
  // What was held back, once no more tokens come.
  Piece finish();
  // Tokens of the thinking so far, its markers included.
  std::int64_t reasoning_tokens() const { return reasoning_tokens_; }

 private:
  enum class Where : std::uint8_t { start, thinking, header, answer };
  void read_tags(std::string_view text, bool last, Piece& piece);
  void read_channels(TokenId id, Piece& piece);
  void add_thought(std::string_view text, Piece& piece);
  void add_content(std::string_view text, Piece& piece);

  const Tokenizer* tokenizer_;
  ReasoningForm form_;
  StreamDecoder decoder_;
  Where where_;
  std::string held_;                         // tags: what may be the beginning of a marker; channels: the header so far
  std::string spaces_;                       // behind the thinking so far: part of it where more follows
  bool thought_ = false, answered_ = false;  // something was given of either part
  std::int64_t reasoning_tokens_ = 0;
};

}  // namespace jupiter

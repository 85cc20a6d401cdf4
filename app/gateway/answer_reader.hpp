// One answer as text: its tokens, decoded as whole characters, up to a stop string; its thinking apart.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "app/gateway/backend.hpp"
#include "app/stop_strings.hpp"
#include "io/tokenizer/reasoning.hpp"

namespace jupiter {

struct AnswerPiece {
  std::string reasoning;
  std::string text;
  std::vector<GivenToken> tokens;
};

class AnswerReader {
 public:
  // Everything must outlive it. thinking: the prompt has opened it. An answer that has not ended when its reader does
  // is cancelled.
  AnswerReader(Backend& backend, std::shared_ptr<Generation> generation, const Tokenizer& tokenizer,
               std::vector<std::string> stops, ReasoningForm form = ReasoningForm::none, bool thinking = false);
  ~AnswerReader();
  AnswerReader(AnswerReader&&) = default;

  // What came since; waits for something at most so long.
  AnswerPiece next(std::chrono::milliseconds limit);
  bool finished() const { return finished_; }
  // Once it is finished. error: not empty where it could not be computed.
  const GenerationEnd& end() const { return end_; }
  const char* finish_reason() const { return end_.stopped || stops_.found() ? "stop" : "length"; }
  std::int64_t tokens() const { return tokens_; }
  std::int64_t reasoning_tokens() const { return reader_.reasoning_tokens(); }

 private:
  Backend* backend_;
  std::shared_ptr<Generation> generation_;
  ReasoningReader reader_;
  StopStrings stops_;
  std::int64_t tokens_ = 0;
  bool finished_ = false;
  GenerationEnd end_;
};

}  // namespace jupiter

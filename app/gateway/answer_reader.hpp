// One answer as text: its tokens, decoded as whole characters, up to a stop string.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "app/gateway/backend.hpp"
#include "app/stop_strings.hpp"
#include "io/tokenizer/tokenizer.hpp"

namespace jupiter {

struct AnswerPiece {
  std::string text;
  std::vector<GivenToken> tokens;
};

class AnswerReader {
 public:
  // Everything must outlive it. An answer that has not ended when its reader does is cancelled.
  AnswerReader(Backend& backend, std::shared_ptr<Generation> generation, const Tokenizer& tokenizer,
               std::vector<std::string> stops);
  ~AnswerReader();
  AnswerReader(AnswerReader&&) = default;

  // What came since; waits for something at most so long.
  AnswerPiece next(std::chrono::milliseconds limit);
  bool finished() const { return finished_; }
  // Once it is finished. error: not empty where it could not be computed.
  const GenerationEnd& end() const { return end_; }
  const char* finish_reason() const { return end_.stopped || stops_.found() ? "stop" : "length"; }
  std::int64_t tokens() const { return tokens_; }

 private:
  Backend* backend_;
  std::shared_ptr<Generation> generation_;
  StreamDecoder decoder_;
  StopStrings stops_;
  std::int64_t tokens_ = 0;
  bool finished_ = false;
  GenerationEnd end_;
};

}  // namespace jupiter

#include "app/gateway/answer_reader.hpp"

#include <utility>

namespace jupiter {

AnswerReader::AnswerReader(Backend& backend, std::shared_ptr<Generation> generation, const Tokenizer& tokenizer,
                           std::vector<std::string> stops, ReasoningForm form, bool thinking)
    : backend_(&backend),
      generation_(std::move(generation)),
      reader_(tokenizer, form, thinking),
      stops_(std::move(stops)) {}

AnswerReader::~AnswerReader() {
  if (generation_ && !finished_) backend_->cancel(generation_);
}

AnswerPiece AnswerReader::next(std::chrono::milliseconds limit) {
  AnswerPiece piece;
  if (finished_) return piece;
  for (GivenToken& t : generation_->wait(limit)) {
    if (stops_.found()) break;
    ++tokens_;
    const ReasoningReader::Piece read = reader_.push(t.token);
    piece.reasoning += read.reasoning;
    piece.text += stops_.push(read.content);
    piece.tokens.push_back(std::move(t));
  }
  if (stops_.found()) {
    backend_->cancel(generation_);
    end_.stopped = true;
    finished_ = true;
  } else if (auto end = generation_->end()) {
    end_ = std::move(*end);
    finished_ = true;
    const ReasoningReader::Piece rest = reader_.finish();
    piece.reasoning += rest.reasoning;
    piece.text += stops_.push(rest.content);
    if (!stops_.found()) piece.text += stops_.finish();
  }
  return piece;
}

}  // namespace jupiter

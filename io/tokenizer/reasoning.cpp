#include "io/tokenizer/reasoning.hpp"

#include <algorithm>
#include <utility>

#include "io/begun_marker.hpp"

namespace jupiter {

namespace {

constexpr std::string_view kOpen = "<think>", kClose = "</think>";
constexpr std::string_view kSpace = " \t\r\n";

}  // namespace

ReasoningForm reasoning_form(const Tokenizer& tokenizer) {
  bool open = false, close = false, channel = false, message = false;
  for (const std::string& token : tokenizer.data().tokens) {
    open |= token == kOpen;
    close |= token == kClose;
    channel |= token == "<|channel|>";
    message |= token == "<|message|>";
  }
  return channel && message ? ReasoningForm::channels : open && close ? ReasoningForm::tags : ReasoningForm::none;
}

ReasoningReader::ReasoningReader(const Tokenizer& tokenizer, ReasoningForm form, bool inside)
    : tokenizer_(&tokenizer),
      form_(form),
      decoder_(tokenizer),
      where_(form == ReasoningForm::tags ? (inside ? Where::thinking : Where::start) : Where::answer) {}

ReasoningReader::Piece ReasoningReader::push(TokenId id) {
  Piece piece;
  const bool before = where_ == Where::thinking;
  if (form_ == ReasoningForm::channels) {
    read_channels(id, piece);
  } else {
    const std::string_view own = tokenizer_->piece(id);
    std::string text = decoder_.push(id);
    // Some files call the markers control tokens, which have no text.
    if (form_ == ReasoningForm::tags && tokenizer_->is_control(id) && (own == kOpen || own == kClose)) text = own;
    if (form_ == ReasoningForm::tags) read_tags(text, false, piece);
    if (form_ == ReasoningForm::none) piece.content = std::move(text);
  }
  if (before || where_ == Where::thinking) ++reasoning_tokens_;
  return piece;
}

ReasoningReader::Piece ReasoningReader::finish() {
  Piece piece;
  const std::string rest = decoder_.finish();
  if (form_ == ReasoningForm::tags) {
    read_tags(rest, true, piece);
  } else if (where_ == Where::thinking) {
    add_thought(rest, piece);
  } else if (where_ != Where::header) {
    add_content(rest, piece);
  }
  return piece;
}

void ReasoningReader::add_thought(std::string_view text, Piece& piece) {
  if (!thought_) text.remove_prefix(std::min(text.find_first_not_of(kSpace), text.size()));
  const std::size_t end = text.find_last_not_of(kSpace) + 1;  // 0 where there is nothing else
  if (end > 0) {
    piece.reasoning += std::exchange(spaces_, {});
    piece.reasoning += text.substr(0, end);
    thought_ = true;
  }
  if (thought_) spaces_ += text.substr(end);
}

void ReasoningReader::add_content(std::string_view text, Piece& piece) {
  if (thought_ && !answered_) text.remove_prefix(std::min(text.find_first_not_of(kSpace), text.size()));
  answered_ |= !text.empty();
  piece.content += text;
}

// last: nothing more comes, so that nothing is held back.
void ReasoningReader::read_tags(std::string_view text, bool last, Piece& piece) {
  held_ += text;
  if (where_ == Where::start) {
    // An answer without thinking may begin with any text: it is held back only while it may become the marker.
    const std::size_t first = held_.find_first_not_of(kSpace);
    const std::string_view begin =
        first == std::string::npos ? std::string_view() : std::string_view(held_).substr(first);
    if (begin.starts_with(kOpen)) {
      held_.erase(0, first + kOpen.size());
      where_ = Where::thinking;
    } else if (last || !kOpen.starts_with(begin)) {
      where_ = Where::answer;
    }
  }
  if (where_ == Where::thinking) {
    const std::size_t at = held_.find(kClose);
    const std::size_t end = at != std::string::npos ? at : held_.size() - (last ? 0 : begun_marker(held_, kClose));
    add_thought(std::string_view(held_).substr(0, end), piece);
    held_.erase(0, at != std::string::npos ? at + kClose.size() : end);
    if (at != std::string::npos) {
      thought_ = true;  // even an empty one: white space behind it is not the answer's
      where_ = Where::answer;
    }
  }
  if (where_ == Where::answer) add_content(std::exchange(held_, {}), piece);
}

void ReasoningReader::read_channels(TokenId id, Piece& piece) {
  const std::string text = decoder_.push(id);
  if (where_ == Where::header) {
    held_ += text;
  } else if (where_ == Where::thinking) {
    add_thought(text, piece);
  } else {
    add_content(text, piece);
  }
  if (!tokenizer_->is_control(id)) return;
  const std::string_view marker = tokenizer_->piece(id);
  if (marker == "<|start|>" || marker == "<|channel|>") {
    where_ = Where::header;
    held_.clear();  // a role, if anything
  } else if (marker == "<|message|>") {
    where_ = held_.starts_with("analysis") ? Where::thinking : Where::answer;
    held_.clear();
  } else if (marker == "<|end|>") {
    where_ = Where::header;
  }
}

}  // namespace jupiter

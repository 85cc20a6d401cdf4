// Outline-based decoding: the model writes an outline, then all of its points at once (Ning et al.,
// Skeleton-of-Thought, ICLR 2024; Jupiter, arXiv 2504.08242, section V). It changes the answer, so it is opt-in.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "io/tokenizer/chat_template.hpp"
#include "parallel/pipeline/scheduler.hpp"

namespace jupiter {

// The texts that ask for an outline and for a point; {question}, {index} and {point} are replaced.
struct OutlinePrompts {
  struct Example {
    std::string question;
    std::string outline;  // "1. First point\n2. Second point"
  };
  std::string outline_request;
  std::string point_request;      // what stands before {index} and {point} is computed once for all points
  std::vector<Example> examples;  // turns of the conversation before the outline's own
  static OutlinePrompts standard();
  // Reads a JSON file with outline_request, point_request and perhaps examples. FormatError where a field is missing or
  // wrong.
  static OutlinePrompts read(const std::string& file);
};

struct OutlineOptions {
  OutlinePrompts prompts = OutlinePrompts::standard();
  std::int64_t points_max = 10;
  std::int64_t point_tokens = 96;  // most tokens of a point's text; after half of them it ends with the next sentence
};

// Most positions that the points of an outline with these options take in the cache, beside one context.
std::int64_t outline_cache_tokens(const OutlineOptions& options);

// The points of an outline as a model wrote it, at most points_max of them: its numbered lines, without the explanation
// after a colon. Left out are repeated texts, numbers that do not grow, empty lines, and lines without a number. So the
// points of a text's first lines are the first points of the text.
std::vector<std::string> parse_outline(const std::string& text, std::int64_t points_max);

// A point's text while it is generated: it finds where the text ends, and which part of it is shown.
class PointText {
 public:
  // Returns what can be shown by now. White space waits for what follows it, and becomes one space or one line break.
  std::string push(const std::string& piece);
  // Whether another point or a heading has begun, or a sentence has come for the second time.
  bool ended() const { return ended_; }
  bool at_end_of_sentence() const;

 private:
  enum class Start : std::uint8_t { unknown, elsewhere, text };
  static Start line_start(const std::string& text);
  bool repeats() const;
  std::string held_;  // not shown yet
  std::string shown_;
  bool ended_ = false;
};

struct OutlinePoint {
  std::string point;  // its line of the outline
  std::string text;   // as it is shown: "1. point: text"
  Generated generated;
};

struct OutlineAnswer {
  std::string outline;
  std::vector<OutlinePoint> points;  // empty where no outline came about; then `plain` is the answer
  Generated plain;
  std::string text;
  double outline_s = 0;  // until the outline was complete
  double ttft_s = 0;     // until the first text was shown
  double total_s = 0;
  std::int64_t tokens() const;
};

// What a request needs besides the wording of the prompts.
struct OutlineRequest {
  std::string question;
  std::string system;  // empty means the template's own
  Request request;     // sampling, decoding, end tokens, and the prompt of the plain answer
};

// Answers with an outline, or plainly where none comes about. `show` receives the text in its final order as it grows.
OutlineAnswer answer_with_outline(Scheduler& scheduler, const Tokenizer& tokenizer, const ChatTemplate& chat,
                                  const OutlineOptions& options, const OutlineRequest& request,
                                  const std::function<void(const std::string&)>& show);

}  // namespace jupiter

// Outline-based decoding: the model writes an outline, then all of its points at once (Ning et al.,
// Skeleton-of-Thought, ICLR 2024; Jupiter, INFOCOM 2025, section V). It changes the answer, so it is opt-in.
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
  // A JSON file with outline_request, point_request and perhaps examples; FormatError.
  static OutlinePrompts read(const std::string& file);
};

struct OutlineOptions {
  OutlinePrompts prompts = OutlinePrompts::standard();
  std::int64_t points_max = 10;
  std::int64_t point_tokens = 96;  // of one point's text at most; it ends with a sentence behind half of them
};

// The most that an outline with these options takes of the cache, beside a context: its points.
std::int64_t outline_cache_tokens(const OutlineOptions& options);

// The points of an outline as a model wrote it: numbered lines without the explanation behind a colon; repeated texts,
// numbers that do not grow, empty lines, and what is no numbered line are left out. At most points_max. So the points
// of a text's first lines are the first points of the text.
std::vector<std::string> parse_outline(const std::string& text, std::int64_t points_max);

// A point's text while it is generated: where it ends, and what of it is shown.
class PointText {
 public:
  // What can be shown by now: white space waits for what follows it, and is one space or line break then.
  std::string push(const std::string& piece);
  // Whether another point, a heading or a sentence for the second time has begun.
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
  std::string point;  // of the outline
  std::string text;   // as shown: "1. point: text"
  Generated generated;
};

struct OutlineAnswer {
  std::string outline;
  std::vector<OutlinePoint> points;  // less than two: no outline came about, `plain` is the answer
  Generated plain;
  std::string text;
  double outline_s = 0;  // until the outline was there
  double ttft_s = 0;     // first visible token
  double total_s = 0;
  std::int64_t tokens() const;
};

// Everything but the prompts' wording that a request needs.
struct OutlineRequest {
  std::string question;
  std::string system;  // empty: the template's own
  Request request;     // sampling, decoding, end tokens; prompt: that of the plain answer
};

// Answers with an outline; `show` receives the text in its final order as it grows. Falls back to the plain answer.
OutlineAnswer answer_with_outline(Scheduler& scheduler, const Tokenizer& tokenizer, const ChatTemplate& chat,
                                  const OutlineOptions& options, const OutlineRequest& request,
                                  const std::function<void(const std::string&)>& show);

}  // namespace jupiter

// Outline-based decoding: the model writes an outline, then all of its points at once (Ning et al.,
// Skeleton-of-Thought, ICLR 2024; Jupiter, INFOCOM 2025, section V). It changes the answer, so it is opt-in.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "io/chat_template.hpp"
#include "parallel/scheduler.hpp"

namespace jupiter {

// The texts that ask for an outline and for a point. {question}, {outline}, {index}, {point} are replaced. What stands
// after {outline} in `point_request` should be short: what comes before is computed once for all points.
struct OutlinePrompts {
  std::string outline_request;
  std::string point_request;
  static OutlinePrompts standard();
  // A JSON file with both fields; FormatError.
  static OutlinePrompts read(const std::string& file);
};

struct OutlineOptions {
  OutlinePrompts prompts = OutlinePrompts::standard();
  std::int64_t points_max = 10;
  std::int64_t point_tokens = 96;  // of one point's text
};

// The points of an outline as a model wrote it: numbered lines, in order of their numbers; repeated numbers and texts,
// empty lines, and what is no numbered line are left out. At most points_max.
std::vector<std::string> parse_outline(const std::string& text, std::int64_t points_max);

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

// Outline-based decoding: the model writes an outline, then all of its points at once (Ning et al.,
// Skeleton-of-Thought, ICLR 2024; Jupiter, arXiv 2504.08242, section V). It changes the answer, so it is opt-in.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "parallel/outline/outline_text.hpp"
#include "parallel/pipeline/scheduler.hpp"

namespace jupiter {

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
  OutlineQuestion question;
  Request request;  // sampling, decoding, end tokens, and the prompt of the plain answer
};

// Answers with an outline, or plainly where none comes about. `show` receives the text in its final order as it grows.
OutlineAnswer answer_with_outline(Scheduler& scheduler, const Tokenizer& tokenizer, const ChatTemplate& chat,
                                  const OutlineOptions& options, const OutlineRequest& request,
                                  const std::function<void(const std::string&)>& show);

}  // namespace jupiter

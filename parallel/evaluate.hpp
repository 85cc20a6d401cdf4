// Perplexity of a text, and how far its distributions are from saved ones: windows of tokens flow through the pipeline
// one behind the other, the last stage keeps the sums.
#pragma once

#include <optional>

#include "io/reference_logits.hpp"
#include "parallel/pipeline.hpp"

namespace jupiter {

struct EvalWindow {
  std::int64_t first = 0;  // token of the text
  std::int64_t length = 0;
  std::int64_t scored_from = 1;  // tokens of the window from here on are scored; the first never is
};

// Windows of `window` tokens that begin every `stride` tokens; a token is scored once, with as much context as a window
// gives. The last, shorter one is left out unless it is the only one.
std::vector<EvalWindow> eval_windows(std::int64_t tokens, std::int64_t window, std::int64_t stride);

struct Distribution {  // of values over tokens
  double mean = 0, median = 0, percentile_99 = 0, max = 0;
};

struct EvalResult {
  std::int64_t scored_tokens = 0;
  double mean_nll = 0;    // nats
  double nll_stderr = 0;  // standard error of the mean over tokens
  double perplexity = 0;
  std::vector<double> window_nll;  // sums
  std::optional<Distribution> kl;  // of the reference from this, nats
  double top1_agreement = 0;       // share of tokens whose most likely next token is the reference's
};

// The last stage's side: give sink() to Stage::set_logits_sink, ask for result() after the last frame.
class Evaluator {
 public:
  // reference: compare with it; writer: save there. Either may be null; all must outlive this.
  Evaluator(const KernelTable& kernels, std::vector<TokenId> tokens, std::vector<EvalWindow> windows,
            const ReferenceFile* reference, ReferenceWriter* writer);
  LogitsSink sink();
  EvalResult result() const;

 private:
  void row(std::int64_t position, std::span<const float> logits);
  void compare(std::int64_t token, std::span<const float> logits, double log_sum);
  const KernelTable& kernels_;
  std::vector<TokenId> tokens_;
  std::vector<EvalWindow> windows_;
  const ReferenceFile* reference_;
  ReferenceWriter* writer_;
  std::int64_t window_ = -1;
  std::vector<float> scratch_;
  std::vector<f16_t> narrow_;
  std::vector<double> window_nll_;
  double sum_ = 0, squares_ = 0;
  std::int64_t scored_ = 0, agreed_ = 0;
  std::vector<double> kl_;
};

// Rank 0's side: submits all windows and waits for the last.
void submit_windows(Pipeline& pipeline, const std::vector<TokenId>& tokens, const std::vector<EvalWindow>& windows,
                    const std::function<std::vector<std::int64_t>(std::int64_t)>& chunks,
                    const std::function<void(std::size_t done)>& progress);

}  // namespace jupiter

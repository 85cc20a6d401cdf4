// Scores of tokens under the model: windows of tokens flow through the pipeline one behind the other, the last stage
// keeps what it finds about each token. What the scores mean (perplexity, golden tokens, choices) is the caller's.
#pragma once

#include <optional>

#include "io/model/reference_logits.hpp"
#include "parallel/pipeline/pipeline.hpp"

namespace jupiter {

// A stretch of the tokens that is evaluated as a text of its own. Plain data: it travels between ranks as bytes.
struct EvalWindow {
  std::int64_t first = 0;  // token of the list
  std::int64_t length = 0;
  std::int64_t scored_from = 1;  // tokens of the window from here on are scored; the first never is
  std::int64_t begin = 0;        // tokens before it are those of the window before, which the caches still hold
  std::int64_t scored() const { return length - scored_from; }
};

// Windows of `window` tokens that begin every `stride` tokens; a token is scored once, with as much context as a window
// gives. The last, shorter one is left out unless it is the only one.
std::vector<EvalWindow> eval_windows(std::int64_t tokens, std::int64_t window, std::int64_t stride);
// Lets each window but the first skip what it shares with the one before (choices of one question).
void share_prefixes(const std::vector<TokenId>& tokens, std::vector<EvalWindow>& windows);

// What the model says about one token. Plain data, as above.
struct TokenScore {
  double nll = 0;              // of the token, nats
  double margin = 0;           // logit of the most likely token less that of this one
  double kl = 0;               // of the reference from this, nats; 0 without a reference
  TokenId best = 0;            // most likely
  TokenId reference_best = 0;  // the reference's; 0 without one
};

struct Distribution {  // of values over tokens
  double mean = 0, median = 0, percentile_99 = 0, max = 0;
};
Distribution distribution_of(std::vector<double> values);  // not empty

struct MeanError {
  double mean = 0;
  double error = 0;  // standard error: deviation of the sample over the root of its size; 0 for one value
};
MeanError mean_error(const std::vector<double>& values);

// log(sum(exp(logits))); scratch is overwritten. most: the largest of them.
double log_sum_exp(const KernelTable& kernels, std::span<const float> logits, float most, std::vector<float>& scratch);
float largest(std::span<const float> values);  // not empty

// The last stage's side: give sink() to Stage::set_logits_sink, take scores() after the last frame.
class Evaluator {
 public:
  // reference: compare with it; writer: save there. Either may be null; they have a row for each of the first
  // `text_tokens` tokens. All must outlive this.
  Evaluator(const KernelTable& kernels, const std::vector<TokenId>& tokens, const std::vector<EvalWindow>& windows,
            std::int64_t text_tokens, const ReferenceFile* reference, ReferenceWriter* writer);
  LogitsSink sink();
  // Of all scored tokens, window after window.
  const std::vector<TokenScore>& scores() const { return scores_; }

 private:
  void row(std::int64_t position, std::span<const float> logits);
  void compare(std::int64_t token, std::span<const float> logits, double log_sum, TokenScore& score);
  const KernelTable& kernels_;
  const std::vector<TokenId>& tokens_;
  const std::vector<EvalWindow>& windows_;
  std::int64_t text_tokens_;
  const ReferenceFile* reference_;
  ReferenceWriter* writer_;
  std::size_t window_ = 0;
  std::vector<float> scratch_;
  std::vector<f16_t> narrow_;
  std::vector<TokenScore> scores_;
};

// Rank 0's side: submits all windows and waits for the last. flag: which sink gets the rows before scored tokens.
void submit_windows(Pipeline& pipeline, const std::vector<TokenId>& tokens, const std::vector<EvalWindow>& windows,
                    const std::function<std::vector<std::int64_t>(std::int64_t)>& chunks,
                    const std::function<void(std::size_t done)>& progress, FrameRun::Flags flag = FrameRun::every_row);

}  // namespace jupiter

// Scores of tokens under the model. Windows of tokens flow through the pipeline one after the other, and the last stage
// keeps what it finds about each token. What the scores mean (perplexity, golden tokens, choices) is up to the caller.
#pragma once

#include <optional>

#include "io/model/reference_logits.hpp"
#include "parallel/pipeline/pipeline.hpp"

namespace jupiter {

// A stretch of the tokens that is evaluated as a text of its own. It is plain data, because it travels between ranks.
struct EvalWindow {
  std::int64_t first = 0;  // index of its first token in the list
  std::int64_t length = 0;
  std::int64_t scored_from = 1;  // its tokens from this index on are scored; the first token never is
  std::int64_t begin = 0;  // its tokens before this index are also those of the previous window, so caches hold them
  std::int64_t scored() const { return length - scored_from; }
};

// PeerError where a window that came from another rank is not inside a list of so many tokens.
void check_windows(std::span<const EvalWindow> windows, std::int64_t tokens);

// Windows of `window` tokens that begin every `stride` tokens. Each token is scored once, in the first window that has
// it. A last, shorter window is left out unless it is the only one.
std::vector<EvalWindow> eval_windows(std::int64_t tokens, std::int64_t window, std::int64_t stride);
// Sets `begin` of each window to the number of first tokens that it shares with the previous one (choices of one
// question).
void share_prefixes(const std::vector<TokenId>& tokens, std::vector<EvalWindow>& windows);

// What the model says about one token. Plain data, as EvalWindow.
struct TokenScore {
  double nll = 0;              // negative log-likelihood of the token, nats
  double margin = 0;           // logit of the most likely token minus that of this one
  double kl = 0;               // divergence of the reference from the model, nats; 0 without a reference
  TokenId best = 0;            // the most likely token
  TokenId reference_best = 0;  // the reference's most likely token; 0 without a reference
};

struct Distribution {  // of values over tokens
  double mean = 0, median = 0, percentile_99 = 0, max = 0;
};
Distribution distribution_of(std::vector<double> values);  // not empty

struct MeanError {
  double mean = 0;
  double error = 0;  // standard error, the sample's deviation over the root of its size; 0 for one value
};
MeanError mean_error(const std::vector<double>& values);

// The last stage's side. Give sink() to Stage::set_logits_sink(), and take scores() after the last frame.
class Evaluator {
 public:
  // The model's logits are compared with `reference` and saved to `writer`; either may be null. Both have a row for
  // each of the first `text_tokens` tokens. All arguments must outlive this.
  Evaluator(const KernelTable& kernels, const std::vector<TokenId>& tokens, const std::vector<EvalWindow>& windows,
            std::int64_t text_tokens, const ReferenceFile* reference, ReferenceWriter* writer);
  LogitsSink sink();
  // Scores of all scored tokens, window after window.
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

// Rank 0's side: submits all windows and waits for the last one. flag says which sink gets the rows before scored
// tokens.
void submit_windows(Pipeline& pipeline, const std::vector<TokenId>& tokens, const std::vector<EvalWindow>& windows,
                    const std::function<std::vector<std::int64_t>(std::int64_t)>& chunks,
                    const std::function<void(std::size_t done)>& progress, FrameRun::Flags flag = FrameRun::every_row);

}  // namespace jupiter

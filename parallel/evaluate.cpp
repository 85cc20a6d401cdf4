// Windows share one sequence: each begins at position 0 and makes the stages forget the one before.
#include "parallel/evaluate.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace jupiter {

std::vector<EvalWindow> eval_windows(std::int64_t tokens, std::int64_t window, std::int64_t stride) {
  std::vector<EvalWindow> windows;
  for (std::int64_t first = 0; first + window <= tokens || first == 0; first += stride) {
    const std::int64_t length = std::min(window, tokens - first);
    windows.push_back({first, length, first == 0 ? 1 : std::max<std::int64_t>(1, window - stride)});
    if (length < window) break;
  }
  return windows;
}

Evaluator::Evaluator(const KernelTable& kernels, std::vector<TokenId> tokens, std::vector<EvalWindow> windows,
                     const ReferenceFile* reference, ReferenceWriter* writer)
    : kernels_(kernels),
      tokens_(std::move(tokens)),
      windows_(std::move(windows)),
      reference_(reference),
      writer_(writer),
      window_nll_(windows_.size(), 0.0) {}

LogitsSink Evaluator::sink() {
  return [this](SequenceId, std::int64_t position, std::span<const float> logits) { row(position, logits); };
}

void Evaluator::row(std::int64_t position, std::span<const float> logits) {
  if (position == 0) ++window_;
  const EvalWindow& w = windows_[static_cast<std::size_t>(window_)];
  if (position + 1 < w.scored_from || position + 1 >= w.length) return;  // the row predicts the token after it
  scratch_.resize(logits.size());
  const float most = *std::max_element(logits.begin(), logits.end());
  for (std::size_t i = 0; i < logits.size(); ++i) scratch_[i] = logits[i] - most;
  kernels_.exponential(scratch_.data(), static_cast<std::int64_t>(scratch_.size()), scratch_.data());
  const double log_sum = std::log(std::accumulate(scratch_.begin(), scratch_.end(), 0.0)) + static_cast<double>(most);

  const std::int64_t token = w.first + position;  // the last one that the row saw
  const TokenId next = tokens_[static_cast<std::size_t>(token + 1)];
  const double nll = log_sum - static_cast<double>(logits[static_cast<std::size_t>(next)]);
  if (std::isnan(nll)) throw RunError("eval: the log-likelihood of token " + std::to_string(token + 1) + " is NaN");
  window_nll_[static_cast<std::size_t>(window_)] += nll;
  sum_ += nll;
  squares_ += nll * nll;
  ++scored_;
  if (writer_ != nullptr) {
    narrow_.resize(logits.size());
    for (std::size_t i = 0; i < logits.size(); ++i) narrow_[i] = f32_to_f16(static_cast<float>(logits[i] - log_sum));
    writer_->write(token, narrow_);
  }
  if (reference_ != nullptr) compare(token, logits, log_sum);
}

void Evaluator::compare(std::int64_t token, std::span<const float> logits, double log_sum) {
  const std::span<const f16_t> expected = reference_->row(token);
  for (std::size_t i = 0; i < expected.size(); ++i) scratch_[i] = std::min(f16_to_f32(expected[i]), 0.0f);
  const auto best = std::max_element(scratch_.begin(), scratch_.end()) - scratch_.begin();
  agreed_ += best == std::max_element(logits.begin(), logits.end()) - logits.begin();
  double kl = 0, total = 0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    if (std::isnan(scratch_[i])) throw FormatError("reference", "log_probabilities", "numbers", "NaN");
    const double p = std::exp(static_cast<double>(scratch_[i]));
    total += p;
    kl += p * (static_cast<double>(scratch_[i]) - (static_cast<double>(logits[i]) - log_sum));
  }
  // The stored values are rounded, so they sum to nearly one.
  kl_.push_back(kl / total - std::log(total));
}

EvalResult Evaluator::result() const {
  EvalResult r;
  r.scored_tokens = scored_;
  const auto n = static_cast<double>(std::max<std::int64_t>(scored_, 1));
  r.mean_nll = sum_ / n;
  r.nll_stderr = std::sqrt(std::max(squares_ / n - r.mean_nll * r.mean_nll, 0.0) / n);
  r.perplexity = std::exp(r.mean_nll);
  r.window_nll = window_nll_;
  if (reference_ != nullptr && !kl_.empty()) {
    std::vector<double> sorted = kl_;
    std::sort(sorted.begin(), sorted.end());
    const auto at = [&](double q) {
      return sorted[static_cast<std::size_t>(q * static_cast<double>(sorted.size() - 1))];
    };
    r.kl = Distribution{std::accumulate(kl_.begin(), kl_.end(), 0.0) / n, at(0.5), at(0.99), sorted.back()};
    r.top1_agreement = static_cast<double>(agreed_) / n;
  }
  return r;
}

void submit_windows(Pipeline& pipeline, const std::vector<TokenId>& tokens, const std::vector<EvalWindow>& windows,
                    const std::function<std::vector<std::int64_t>(std::int64_t)>& chunks,
                    const std::function<void(std::size_t)>& progress) {
  const SequenceId sequence = pipeline.open({});
  for (std::size_t w = 0; w < windows.size(); ++w) {
    std::int64_t at = 0;
    for (const std::int64_t rows : chunks(windows[w].length)) {
      Frame f;
      f.runs.push_back(
          {sequence, static_cast<std::int32_t>(at), static_cast<std::int32_t>(rows), FrameRun::every_row, 0, {}});
      const auto first = tokens.begin() + windows[w].first + at;
      f.tokens.assign(first, first + rows);
      pipeline.submit(std::move(f));
      at += rows;
    }
    progress(w + 1);
  }
  while (pipeline.pending_results() > 0) pipeline.next_result();
  pipeline.close(sequence, 0);
  pipeline.closed(sequence);
}

}  // namespace jupiter

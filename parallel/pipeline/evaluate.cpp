// Windows share one sequence: each begins at a position that the one before has passed, and makes the stages forget
// the rest of it.
#include "parallel/pipeline/evaluate.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "kernels/softmax.hpp"

namespace jupiter {

namespace {

// The first of the largest values.
std::size_t index_of_largest(std::span<const float> values, float most) {
  return static_cast<std::size_t>(std::find(values.begin(), values.end(), most) - values.begin());
}

}  // namespace

void check_windows(std::span<const EvalWindow> windows, std::int64_t tokens) {
  for (const EvalWindow& w : windows) {
    const bool inside = w.first >= 0 && w.first <= tokens && w.length >= 0 && w.length <= tokens - w.first;
    const bool in_order = w.scored_from >= 1 && w.scored_from <= std::max<std::int64_t>(w.length, 1);
    if (inside && in_order && w.begin >= 0 && w.begin <= w.length) continue;
    throw PeerError("windows: expected parts of " + std::to_string(tokens) + " tokens, found " +
                    std::to_string(w.length) + " from " + std::to_string(w.first) + " on");
  }
}

std::vector<EvalWindow> eval_windows(std::int64_t tokens, std::int64_t window, std::int64_t stride) {
  std::vector<EvalWindow> windows;
  for (std::int64_t first = 0; first + window <= tokens || first == 0; first += stride) {
    const std::int64_t length = std::min(window, tokens - first);
    windows.push_back({first, length, first == 0 ? 1 : std::max<std::int64_t>(1, window - stride), 0});
    if (length < window) break;
  }
  return windows;
}

void share_prefixes(const std::vector<TokenId>& tokens, std::vector<EvalWindow>& windows) {
  for (std::size_t w = 1; w < windows.size(); ++w) {
    const EvalWindow& before = windows[w - 1];
    EvalWindow& now = windows[w];
    // The row before the first scored token is computed anyway: its logits are the first that count.
    const std::int64_t limit = std::min(before.length, now.scored_from - 1);
    std::int64_t& begin = now.begin;
    for (begin = 0; begin < limit && tokens[before.first + begin] == tokens[now.first + begin];) {
      ++begin;
    }
  }
}

Distribution distribution_of(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const auto n = static_cast<double>(values.size());
  const auto at = [&](double q) { return values[static_cast<std::size_t>(q * (n - 1))]; };
  return {std::accumulate(values.begin(), values.end(), 0.0) / n, at(0.5), at(0.99), values.back()};
}

MeanError mean_error(const std::vector<double>& values) {
  const auto n = static_cast<double>(values.size());
  const double mean = std::accumulate(values.begin(), values.end(), 0.0) / n;
  double squares = 0;
  for (const double v : values) squares += (v - mean) * (v - mean);
  return {mean, values.size() > 1 ? std::sqrt(squares / (n - 1) / n) : 0};
}

Evaluator::Evaluator(const KernelTable& kernels, const std::vector<TokenId>& tokens,
                     const std::vector<EvalWindow>& windows, std::int64_t text_tokens, const ReferenceFile* reference,
                     ReferenceWriter* writer)
    : kernels_(kernels),
      tokens_(tokens),
      windows_(windows),
      text_tokens_(text_tokens),
      reference_(reference),
      writer_(writer) {}

LogitsSink Evaluator::sink() {
  return [this](SequenceId, std::int64_t position, std::span<const float> logits) { row(position, logits); };
}

// The row at `position` predicts the token after it; only rows before scored tokens come here.
void Evaluator::row(std::int64_t position, std::span<const float> logits) {
  const EvalWindow& w = windows_[window_];
  if (position + 2 == w.length) ++window_;
  const float most = largest(logits);
  const double log_sum = log_sum_exp(kernels_, logits, most, scratch_);
  const std::int64_t token = w.first + position;  // the last one that the row saw
  const auto next = static_cast<std::size_t>(tokens_[token + 1]);
  TokenScore score;
  score.nll = log_sum - static_cast<double>(logits[next]);
  if (!std::isfinite(score.nll)) {
    throw RunError("eval: the log-likelihood of token " + std::to_string(token + 1) + " is no number");
  }
  score.best = static_cast<TokenId>(index_of_largest(logits, most));
  score.margin = static_cast<double>(most) - static_cast<double>(logits[next]);
  if (writer_ != nullptr && token < text_tokens_) {
    narrow_.resize(logits.size());
    for (std::size_t i = 0; i < logits.size(); ++i) narrow_[i] = f32_to_f16(static_cast<float>(logits[i] - log_sum));
    writer_->write(token, narrow_);
  }
  if (reference_ != nullptr && token < text_tokens_) compare(token, logits, log_sum, score);
  scores_.push_back(score);
}

void Evaluator::compare(std::int64_t token, std::span<const float> logits, double log_sum, TokenScore& score) {
  const std::span<const f16_t> expected = reference_->row(token);
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const float value = f16_to_f32(expected[i]);
    if (std::isnan(value)) {
      throw FormatError(reference_->name(), "log_probabilities after token " + std::to_string(token), "numbers", "NaN");
    }
    scratch_[i] = std::min(value, 0.0f);
  }
  score.reference_best = static_cast<TokenId>(index_of_largest(scratch_, largest(scratch_)));
  double kl = 0, total = 0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const double p = std::exp(static_cast<double>(scratch_[i]));
    total += p;
    kl += p * (static_cast<double>(scratch_[i]) - (static_cast<double>(logits[i]) - log_sum));
  }
  // The stored values are rounded, so they sum to nearly one.
  score.kl = kl / total - std::log(total);
}

namespace {

// Rows [at, at + rows) of a window. Only those before a scored token pass the head.
Frame window_frame(SequenceId sequence, const std::vector<TokenId>& tokens, const EvalWindow& w, std::int64_t at,
                   std::int64_t rows, FrameRun::Flags flag) {
  Frame f;
  const std::int64_t end = at + rows;
  const auto add = [&](std::int64_t to, std::uint32_t flags) {
    to = std::clamp(to, at, end);
    if (to == at) return;
    f.runs.push_back(FrameRun::consecutive(sequence, at, to - at, flags));
    at = to;
  };
  const auto first = tokens.begin() + w.first + at;
  f.tokens.assign(first, first + rows);
  add(w.scored_from - 1, 0);
  add(w.length - 1, flag);
  add(w.length, 0);
  return f;
}

}  // namespace

void submit_windows(Pipeline& pipeline, const std::vector<TokenId>& tokens, const std::vector<EvalWindow>& windows,
                    const std::function<std::vector<std::int64_t>(std::int64_t)>& chunks,
                    const std::function<void(std::size_t)>& progress, FrameRun::Flags flag) {
  const SequenceId sequence = pipeline.open({});
  for (std::size_t w = 0; w < windows.size(); ++w) {
    std::int64_t at = windows[w].begin;
    for (const std::int64_t rows : chunks(windows[w].length - at)) {
      pipeline.submit(window_frame(sequence, tokens, windows[w], at, rows, flag));
      at += rows;
    }
    progress(w + 1);
  }
  while (pipeline.pending_results() > 0) pipeline.next_result();
  pipeline.close(sequence, {});
  pipeline.closed(sequence);
}

}  // namespace jupiter

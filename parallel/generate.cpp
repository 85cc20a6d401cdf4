// Prefill keeps the pipeline full; plain decoding has one token under way.
#include "parallel/generate.hpp"

#include <algorithm>

namespace jupiter {

Generator::Generator(Pipeline& pipeline, const SamplingOptions& sampling, std::int64_t context_tokens)
    : pipeline_(pipeline), sequence_(pipeline.open(sampling)), context_tokens_(context_tokens) {}

TokenId Generator::prefill(const std::vector<TokenId>& prompt, std::int64_t first,
                           const std::vector<std::int64_t>& chunks) {
  std::int64_t at = first;
  for (const std::int64_t rows : chunks) {
    const bool last = at + rows == static_cast<std::int64_t>(prompt.size());
    Frame frame;
    frame.runs.push_back(
        {sequence_, static_cast<std::int32_t>(at), static_cast<std::int32_t>(rows), last ? FrameRun::sample : 0u});
    frame.tokens.assign(prompt.begin() + at, prompt.begin() + at + rows);
    pipeline_.submit(std::move(frame));
    at += rows;
  }
  while (pipeline_.pending_results() > 1) pipeline_.next_result();
  cached_ = prompt;
  return pipeline_.next_result().at(0).token;
}

TokenId Generator::step(TokenId token) {
  Frame frame;
  frame.runs.push_back({sequence_, static_cast<std::int32_t>(cached_.size()), 1, FrameRun::sample});
  frame.tokens = {token};
  pipeline_.submit(std::move(frame));
  cached_.push_back(token);
  return pipeline_.next_result().at(0).token;
}

Generated Generator::generate(const std::vector<TokenId>& prompt, const GenerateOptions& options,
                              const std::function<bool(TokenId)>& on_token) {
  const auto start = std::chrono::steady_clock::now();
  const auto elapsed = [&] { return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count(); };
  // What earlier turns left in the caches is not computed again; the last token is, for its logits.
  const auto common = std::mismatch(cached_.begin(), cached_.end(), prompt.begin(), prompt.end()).first;
  const auto first = std::min<std::int64_t>(common - cached_.begin(), static_cast<std::int64_t>(prompt.size()) - 1);

  Generated out;
  out.prefilled_tokens = static_cast<std::int64_t>(prompt.size()) - first;
  TokenId token = prefill(prompt, first, options.chunks(out.prefilled_tokens));
  out.ttft_s = elapsed();
  for (;;) {
    out.tokens.push_back(token);
    const auto& ends = options.end_tokens;
    if (std::find(ends.begin(), ends.end(), token) != ends.end() || !on_token(token)) {
      out.stopped = true;
      break;
    }
    if (static_cast<std::int64_t>(out.tokens.size()) == options.max_new_tokens) break;
    if (static_cast<std::int64_t>(cached_.size()) >= context_tokens_) break;
    if (interrupted_by() != ExitCode::ok) break;
    token = step(token);
    ++out.steps;
  }
  out.total_s = elapsed();
  return out;
}

}  // namespace jupiter

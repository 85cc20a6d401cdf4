// One request on the pipeline: the prompt in chunks, then token after token.
#pragma once

#include <functional>

#include "parallel/pipeline.hpp"

namespace jupiter {

struct GenerateOptions {
  std::int64_t max_new_tokens = 0;  // 0: to the end of the turn or of the context
  // Rows of each prefill frame for a prompt of so many tokens; sums to it.
  std::function<std::vector<std::int64_t>(std::int64_t)> chunks;
  std::vector<TokenId> end_tokens;  // empty: end-of-turn tokens do not end the answer
};

struct Generated {
  std::vector<TokenId> tokens;  // an end-of-turn token included
  bool stopped = false;         // by an end token or the caller; otherwise the length ran out
  double ttft_s = 0;            // from the call to the first token
  double total_s = 0;
  std::int64_t prefilled_tokens = 0;  // positions computed, those found in the cache left out
  std::int64_t steps = 0;             // pipeline passes after prefill
};

// A conversation on one sequence: remembers which tokens the stages' caches hold.
class Generator {
 public:
  Generator(Pipeline& pipeline, const SamplingOptions& sampling, std::int64_t context_tokens);

  // Continues after `prompt` (the whole conversation so far; not empty, shorter than the context). on_token is called
  // with each token that is not an end token; false ends the answer.
  Generated generate(const std::vector<TokenId>& prompt, const GenerateOptions& options,
                     const std::function<bool(TokenId)>& on_token);
  // Frees the sequence; the digest of the logits rows of all generated tokens.
  std::uint64_t close() { return pipeline_.close(sequence_); }

 private:
  TokenId prefill(const std::vector<TokenId>& prompt, std::int64_t first, const std::vector<std::int64_t>& chunks);
  TokenId step(TokenId token);
  Pipeline& pipeline_;
  SequenceId sequence_;
  std::int64_t context_tokens_;
  std::vector<TokenId> cached_;  // tokens whose keys and values the stages hold, by position
};

}  // namespace jupiter

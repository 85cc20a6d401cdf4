// From a row of logits to a token: greedy, or drawn from the filtered distribution. The random number is keyed by seed
// and position, so that a token does not depend on how the pipeline came to it.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/kernel_table.hpp"

namespace jupiter {

// Applied in this order (llama.cpp's): penalties, top-k, top-p, min-p, temperature.
struct SamplingOptions {
  float temperature = 0;          // 0: greedy
  std::int32_t top_k = 40;        // 0: all
  float top_p = 0.95f;            // 1: all
  float min_p = 0.05f;            // of the most likely token's probability; 0: all
  float repeat_penalty = 1;       // 1: none
  std::int32_t repeat_last = 64;  // tokens that the penalty looks back at
  std::uint64_t seed = 0;
  float presence_penalty = 0;      // taken from the logit of a token that the penalties look back at
  float frequency_penalty = 0;     // the same for every time that it stands there
  std::int32_t top_logprobs = -1;  // how many log probabilities each token comes with beside its own; -1: none at all
  std::int32_t reserved = 0;       // no gap at the end: it travels as it lies in memory
};

// Whether penalties change logits.
constexpr bool has_penalties(const SamplingOptions& o) {
  return o.repeat_penalty != 1.0f || o.presence_penalty != 0.0f || o.frequency_penalty != 0.0f;
}

struct LogitBias {
  std::int32_t token = 0;
  float bias = 0;  // added to the token's logit
};

// The natural logarithm of a token's probability, before sampling options change it.
struct TokenLogprob {
  std::int32_t token = 0;
  float logprob = 0;
};

struct Candidate {
  std::int32_t token;
  float probability;
};

// Uniform in [0, 1), a function of its arguments only.
double uniform(std::uint64_t seed, std::int64_t position, std::uint32_t draw);

// The distribution that `options` (temperature > 0) leave, most likely first; probabilities sum to 1.
std::vector<Candidate> distribution(const KernelTable& kernels, std::span<const float> logits,
                                    const SamplingOptions& options, std::span<const std::int32_t> history);

// The token at `position`. history: prompt and answer up to here. RunError where a logit is not a number.
std::int32_t sample(const KernelTable& kernels, std::span<const float> logits, const SamplingOptions& options,
                    std::span<const std::int32_t> history, std::int64_t position);

// The logits with biases added; those of tokens outside the vocabulary are left out.
std::vector<float> biased(std::span<const float> logits, std::span<const LogitBias> biases);

// The chosen token, then the `count` most likely ones, best first.
std::vector<TokenLogprob> top_logprobs(const KernelTable& kernels, std::span<const float> logits, std::int32_t chosen,
                                       std::int32_t count);

// Typical acceptance (Cai et al., Medusa, 2024, section 2.3.1): a drafted token may follow where its probability at
// temperature 0.7 exceeds min(0.09, 0.3 exp(-H)), H being the entropy. It changes the text.
class TypicalAcceptance {
 public:
  TypicalAcceptance(const KernelTable& kernels, std::span<const float> logits);
  bool accepts(std::int32_t token) const { return probabilities_[token] > threshold_; }

 private:
  std::vector<float> probabilities_;
  double threshold_ = 0;
};

}  // namespace jupiter

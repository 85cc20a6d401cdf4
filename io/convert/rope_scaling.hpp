// How models stretch their rotary frequencies for longer contexts: factors by which each frequency is divided, and how
// much larger cosines and sines then are. A configuration holds the result, whatever scaling it came from.
#pragma once

#include <cstdint>
#include <vector>

#include "io/model/model_config.hpp"

namespace jupiter {

// Llama 3's: long wavelengths are stretched by `factor`, short ones not at all, those between in proportion.
struct Llama3Scaling {
  double factor = 1, low_freq_factor = 1, high_freq_factor = 4, original_context = 0;
};
std::vector<float> llama3_factors(const Llama3Scaling& scaling, const ModelConfig& config);

// YaRN (Peng et al., 2023): pairs that turn often in the original context keep their frequency (more than beta_fast
// turns), those that turn seldom are stretched by `factor` (less than beta_slow), by a ramp over the pairs in between.
struct YarnScaling {
  double factor = 1, original_context = 0, beta_fast = 32, beta_slow = 1;
  bool truncate = true;  // the ramp begins and ends at whole pairs
};
std::vector<float> yarn_factors(const YarnScaling& scaling, const ModelConfig& config);
// 1 + 0.1 mscale ln(factor)
double yarn_attention_factor(double factor, double mscale = 1);

// LongRoPE (Ding et al., 2024): one set of factors up to the original context, another for longer sequences. A sequence
// must not change its factors as it grows, since its keys are in the cache; so the model's folder has one set. It is
// the short one, and the original context the longest, unless `context` tokens ask for more.
struct LongRope {
  std::vector<float> short_factors, long_factors;
  std::int64_t original_context = 0;
};
void choose_long_rope(const LongRope& rope, std::int64_t context, ModelConfig& config);
// sqrt(1 + ln(context / original) / ln(original)), 1 where the context is not longer.
double long_rope_attention_factor(double context, double original_context);

}  // namespace jupiter

// The formulas of the papers, in double precision.
#include "io/convert/rope_scaling.hpp"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace jupiter {

std::vector<float> llama3_factors(const Llama3Scaling& s, const ModelConfig& c) {
  std::vector<float> factors;
  for (std::int64_t i = 0; i < c.rotary_dim() / 2; ++i) {
    const double exponent = 2.0 * static_cast<double>(i) / static_cast<double>(c.rotary_dim());
    const double turns =
        s.original_context * std::pow(static_cast<double>(c.rope_theta), -exponent) / (2 * std::numbers::pi);
    const double short_share =
        std::min(1.0, std::max(0.0, (turns - s.low_freq_factor) / (s.high_freq_factor - s.low_freq_factor)));
    factors.push_back(static_cast<float>(1.0 / ((1.0 - short_share) / s.factor + short_share)));
  }
  return factors;
}

std::vector<float> yarn_factors(const YarnScaling& s, const ModelConfig& c) {
  const auto dim = static_cast<double>(c.rotary_dim());
  // The pair, as a fraction, that turns so often in the original context.
  const auto pair_of = [&](double turns) {
    return dim * std::log(s.original_context / (turns * 2 * std::numbers::pi)) /
           (2 * std::log(static_cast<double>(c.rope_theta)));
  };
  double low = pair_of(s.beta_fast), high = pair_of(s.beta_slow);
  if (s.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, dim - 1);
  if (low == high) high += 0.001;
  std::vector<float> factors;
  for (std::int64_t i = 0; i < c.rotary_dim() / 2; ++i) {
    const double stretched = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
    factors.push_back(static_cast<float>(1.0 / (stretched / s.factor + (1.0 - stretched))));
  }
  return factors;
}

double yarn_attention_factor(double factor, double mscale) {
  return factor <= 1 ? 1 : 0.1 * mscale * std::log(factor) + 1;
}

void choose_long_rope(const LongRope& rope, std::int64_t context, ModelConfig& c) {
  const bool long_one = context > rope.original_context;
  c.rope_factors = long_one ? rope.long_factors : rope.short_factors;
  if (!long_one) c.max_seq_len = std::min(c.max_seq_len, rope.original_context);
}

double long_rope_attention_factor(double context, double original_context) {
  const double scale = context / original_context;
  return scale <= 1 ? 1 : std::sqrt(1 + std::log(scale) / std::log(original_context));
}

}  // namespace jupiter

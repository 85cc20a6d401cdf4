// Names and limits of the model configuration.
#include "io/model/model_config.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>

#include "io/enum_names.hpp"
#include "io/error.hpp"

namespace jupiter {

namespace {
constexpr std::array<std::string_view, 13> kArchitectures = {"llama", "qwen2",      "qwen3",   "gemma2",   "gemma3",
                                                             "phi3",  "granite",    "smollm3", "qwen2moe", "qwen3moe",
                                                             "olmoe", "granitemoe", "gpt-oss"};
constexpr std::array<std::string_view, 3> kActivations = {"silu", "gelu", "bounded_silu"};
constexpr std::array<std::string_view, 3> kPrecisions = {"f16", "bf16", "f32"};

void check_range(std::string_view source, std::string_view field, std::int64_t value, std::int64_t low,
                 std::int64_t high) {
  if (value >= low && value <= high) return;
  throw FormatError(source, field, std::to_string(low) + " to " + std::to_string(high), std::to_string(value));
}

void check_positive(std::string_view source, std::string_view field, float value) {
  if (value > 0 && std::isfinite(value)) return;
  throw FormatError(source, field, "a positive number", std::to_string(value));
}

// 0 stands for "none".
void check_not_negative(std::string_view source, std::string_view field, float value) {
  if (value >= 0 && std::isfinite(value)) return;
  throw FormatError(source, field, "0 or a positive number", std::to_string(value));
}

void check_layers(std::string_view source, std::string_view field, const std::vector<std::int64_t>& layers,
                  std::int64_t n_layers) {
  std::int64_t next = 0;
  for (const std::int64_t layer : layers) {
    check_range(source, field, layer, next, n_layers - 1);
    next = layer + 1;
  }
}

void check_rope(const ModelConfig& c, std::string_view source) {
  check_positive(source, "rope_theta", c.rope_theta);
  check_not_negative(source, "sliding_rope_theta", c.sliding_rope_theta);
  check_positive(source, "rope_attention_factor", c.rope_attention_factor);
  check_range(source, "rope_dim", c.rope_dim, 0, c.head_dim);
  check_layers(source, "no_rope_layers", c.no_rope_layers, c.n_layers);
  const std::int64_t pairs = c.rotary_dim() / 2;
  if (c.rotary_dim() % 2 != 0) throw FormatError(source, "rope_dim", "an even number", std::to_string(c.rope_dim));
  if (!c.rope_factors.empty() && std::ssize(c.rope_factors) != pairs) {
    throw FormatError(source, "rope_factors", std::to_string(pairs) + " values", std::to_string(c.rope_factors.size()));
  }
  for (const float factor : c.rope_factors) {
    if (!(factor > 0) || !std::isfinite(factor)) {
      throw FormatError(source, "rope_factors", "positive numbers", std::to_string(factor));
    }
  }
}

void check_experts(const ModelConfig& c, std::string_view source) {
  check_range(source, "n_experts", c.n_experts, 0, 4096);
  if (c.n_experts == 0) {
    check_range(source, "n_experts_used", c.n_experts_used, 0, 0);
    check_range(source, "expert_hidden_dim", c.expert_hidden_dim, 0, 0);
    if (c.expert_bias) throw FormatError(source, "expert_bias", "false, as there are no experts", "true");
    return;
  }
  check_range(source, "n_experts_used", c.n_experts_used, 1, c.n_experts);
  check_range(source, "expert_hidden_dim", c.expert_hidden_dim, 1, 1 << 22);
  // One dataset holds the experts one after the other, each in whole panels of 16 rows.
  for (const auto& [field, value] : {std::pair("expert_hidden_dim", c.expert_hidden_dim), std::pair("dim", c.dim)}) {
    if (value % 16 != 0) throw FormatError(source, field, "a multiple of 16 (experts)", std::to_string(value));
  }
}

void check_scales(const ModelConfig& c, std::string_view source) {
  check_positive(source, "embedding_scale", c.embedding_scale);
  check_not_negative(source, "attention_scale", c.attention_scale);
  check_positive(source, "residual_scale", c.residual_scale);
  check_positive(source, "logit_scale", c.logit_scale);
  check_not_negative(source, "attention_softcap", c.attention_softcap);
  check_not_negative(source, "logit_softcap", c.logit_softcap);
}
}  // namespace

std::string_view name(Architecture a) {
  return kArchitectures[index_of(a)];
}
std::optional<Architecture> architecture_from_name(std::string_view text) {
  return enum_from_name<Architecture>(kArchitectures, text);
}
std::string architecture_names() {
  std::string names;
  for (const std::string_view name : kArchitectures) names.append(names.empty() ? "" : ", ").append(name);
  return names;
}
std::string_view name(Activation a) {
  return kActivations[index_of(a)];
}
std::optional<Activation> activation_from_name(std::string_view text) {
  return enum_from_name<Activation>(kActivations, text);
}
std::string_view name(Precision p) {
  return kPrecisions[index_of(p)];
}
std::optional<Precision> precision_from_name(std::string_view text) {
  return enum_from_name<Precision>(kPrecisions, text);
}

LayerKind ModelConfig::layer_kind(std::int64_t layer) const {
  const auto has = [layer](const std::vector<std::int64_t>& layers) {
    return std::binary_search(layers.begin(), layers.end(), layer);
  };
  const bool slides = sliding_window > 0 && !has(full_attention_layers);
  LayerKind kind;
  kind.window = slides ? sliding_window : 0;
  if (slides && sliding_rope_theta > 0) kind.rope = LayerKind::Rope::sliding;
  if (has(no_rope_layers)) kind.rope = LayerKind::Rope::none;
  return kind;
}

void set_gpt_oss(ModelConfig& c) {
  c.qkv_bias = c.attention_output_bias = c.attention_sinks = c.expert_bias = true;
  c.activation = Activation::bounded_silu;
  c.residual = Precision::bf16;
}

void check(const ModelConfig& c, std::string_view source) {
  // Far above any model that exists, and small enough that products of two fit 64 bits with room.
  check_range(source, "dim", c.dim, 1, 1 << 20);
  check_range(source, "hidden_dim", c.hidden_dim, c.n_experts > 0 ? 0 : 1, 1 << 22);
  check_range(source, "n_layers", c.n_layers, 1, 4096);
  check_range(source, "n_heads", c.n_heads, 1, 4096);
  check_range(source, "n_kv_heads", c.n_kv_heads, 1, c.n_heads);
  check_range(source, "head_dim", c.head_dim, 2, 1024);
  check_range(source, "vocab_size", c.vocab_size, 1, 1 << 24);
  check_range(source, "max_seq_len", c.max_seq_len, 1, 1 << 28);
  check_range(source, "sliding_window", c.sliding_window, 0, 1 << 28);
  if (c.n_heads % c.n_kv_heads != 0) {
    throw FormatError(source, "n_kv_heads", "a divisor of n_heads " + std::to_string(c.n_heads),
                      std::to_string(c.n_kv_heads));
  }
  if (c.head_dim % 2 != 0) throw FormatError(source, "head_dim", "an even number", std::to_string(c.head_dim));
  if (!(c.norm_eps > 0) || !(c.norm_eps < 1)) {
    throw FormatError(source, "norm_eps", "between 0 and 1", std::to_string(c.norm_eps));
  }
  check_layers(source, "full_attention_layers", c.full_attention_layers, c.n_layers);
  if (c.sliding_window == 0 && (!c.full_attention_layers.empty() || c.sliding_rope_theta != 0)) {
    throw FormatError(source, "sliding_window", "a window, as settings of its layers are there", "0");
  }
  check_experts(c, source);
  check_rope(c, source);
  check_scales(c, source);
}

}  // namespace jupiter

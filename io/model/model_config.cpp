// Names and limits of the model configuration.
#include "io/model/model_config.hpp"

#include <array>
#include <cmath>

#include "io/enum_names.hpp"
#include "io/error.hpp"

namespace jupiter {

namespace {
constexpr std::array<std::string_view, 3> kArchitectures = {"llama", "qwen2", "qwen3"};
constexpr std::array<std::string_view, 3> kPrecisions = {"f16", "bf16", "f32"};

void check_range(std::string_view source, std::string_view field, std::int64_t value, std::int64_t low,
                 std::int64_t high) {
  if (value >= low && value <= high) return;
  throw FormatError(source, field, std::to_string(low) + " to " + std::to_string(high), std::to_string(value));
}
}  // namespace

std::string_view name(Architecture a) {
  return kArchitectures[index_of(a)];
}
std::optional<Architecture> architecture_from_name(std::string_view text) {
  return enum_from_name<Architecture>(kArchitectures, text);
}
std::string_view name(Precision p) {
  return kPrecisions[index_of(p)];
}
std::optional<Precision> precision_from_name(std::string_view text) {
  return enum_from_name<Precision>(kPrecisions, text);
}

void check(const ModelConfig& c, std::string_view source) {
  // Far above any model that exists, and small enough that products of two fit 64 bits with room.
  check_range(source, "dim", c.dim, 1, 1 << 20);
  check_range(source, "hidden_dim", c.hidden_dim, 1, 1 << 22);
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
  if (!(c.rope_theta > 0) || !std::isfinite(c.rope_theta)) {
    throw FormatError(source, "rope_theta", "a positive number", std::to_string(c.rope_theta));
  }
  if (!(c.norm_eps > 0) || !(c.norm_eps < 1)) {
    throw FormatError(source, "norm_eps", "between 0 and 1", std::to_string(c.norm_eps));
  }
  if (!c.rope_factors.empty() && std::ssize(c.rope_factors) != c.head_dim / 2) {
    throw FormatError(source, "rope_factors", std::to_string(c.head_dim / 2) + " values",
                      std::to_string(c.rope_factors.size()));
  }
  for (const float factor : c.rope_factors) {
    if (!(factor > 0) || !std::isfinite(factor)) {
      throw FormatError(source, "rope_factors", "positive numbers", std::to_string(factor));
    }
  }
}

}  // namespace jupiter

// Shape of a model in the field's standard names; checked once, then trusted.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace jupiter {

enum class Architecture : std::uint8_t { llama, qwen2, qwen3 };
std::string_view name(Architecture architecture);
std::optional<Architecture> architecture_from_name(std::string_view text);

// Precision of the residual at layer boundaries and on the wire.
enum class Precision : std::uint8_t { f16 = 0, bf16 = 1, f32 = 2 };
std::string_view name(Precision precision);
std::optional<Precision> precision_from_name(std::string_view text);
constexpr std::int64_t bytes_of(Precision p) {
  return p == Precision::f32 ? 4 : 2;
}

struct ModelConfig {
  Architecture architecture = Architecture::llama;
  std::string model_name;
  std::int64_t dim = 0;         // residual width
  std::int64_t hidden_dim = 0;  // SwiGLU width
  std::int64_t n_layers = 0;
  std::int64_t n_heads = 0;
  std::int64_t n_kv_heads = 0;  // divides n_heads (grouped-query attention)
  std::int64_t head_dim = 0;
  std::int64_t vocab_size = 0;
  std::int64_t max_seq_len = 0;     // tokens
  std::int64_t sliding_window = 0;  // tokens each position sees, itself included; 0: all
  float rope_theta = 10000.0f;
  // Each rotary frequency is divided by its factor (Llama 3's and linear scaling); empty: no scaling. [head_dim/2]
  std::vector<float> rope_factors;
  float norm_eps = 1e-5f;
  bool tied_embeddings = false;  // the output head is the embedding
  bool qkv_bias = false;         // qwen2
  bool qk_norm = false;          // qwen3: RMSNorm over each head of q and k
  Precision residual = Precision::f16;

  std::int64_t q_dim() const { return n_heads * head_dim; }
  std::int64_t kv_dim() const { return n_kv_heads * head_dim; }
};

// Throws FormatError, naming `source`, where a value is out of range or two disagree.
void check(const ModelConfig& config, std::string_view source);

}  // namespace jupiter

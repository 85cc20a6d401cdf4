// Shape of a model in the field's standard names; checked once, then trusted.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace jupiter {

enum class Architecture : std::uint8_t {
  llama,
  qwen2,
  qwen3,
  gemma2,
  gemma3,
  phi3,
  granite,
  smollm3,
  qwen2moe,
  qwen3moe,
  olmoe,
  granitemoe,
  gpt_oss
};
constexpr bool is_gemma(Architecture a) {
  return a == Architecture::gemma2 || a == Architecture::gemma3;
}
std::string_view name(Architecture architecture);
std::optional<Architecture> architecture_from_name(std::string_view text);
std::string architecture_names();  // "llama, qwen2, ...": for messages

// Of the gate in the feed-forward part: SwiGLU, GeGLU with GELU in its tanh form, or gpt-oss's SwiGLU, which bounds its
// inputs and counts one more for `up` (kernels/README.md).
enum class Activation : std::uint8_t { silu, gelu, bounded_silu };
std::string_view name(Activation activation);
std::optional<Activation> activation_from_name(std::string_view text);

// Precision of the residual at layer boundaries and on the wire.
enum class Precision : std::uint8_t { f16 = 0, bf16 = 1, f32 = 2 };
std::string_view name(Precision precision);
std::optional<Precision> precision_from_name(std::string_view text);
constexpr std::int64_t bytes_of(Precision p) {
  return p == Precision::f32 ? 4 : 2;
}

// What a layer does that others of the model may not.
struct LayerKind {
  enum class Rope : std::uint8_t { none, global, sliding };
  std::int64_t window = 0;  // positions that a row attends to, its own included; 0: all up to its own
  Rope rope = Rope::global;
};

struct ModelConfig {
  Architecture architecture = Architecture::llama;
  std::string model_name;
  std::int64_t dim = 0;  // residual width
  std::int64_t hidden_dim =
      0;  // width of the feed-forward part; beside experts: of the one that all tokens share, or 0
  std::int64_t n_layers = 0;
  std::int64_t n_heads = 0;
  std::int64_t n_kv_heads = 0;  // divides n_heads (grouped-query attention)
  std::int64_t head_dim = 0;
  std::int64_t vocab_size = 0;
  std::int64_t max_seq_len = 0;     // tokens
  std::int64_t sliding_window = 0;  // tokens each position sees, itself included; 0: all
  float rope_theta = 10000.0f;
  // Each rotary frequency is divided by its factor (linear, Llama 3's, YaRN's and LongRoPE's scaling); empty: no
  // scaling. [rotary_dim/2]
  std::vector<float> rope_factors;
  float norm_eps = 1e-5f;
  bool tied_embeddings = false;  // the output head is the embedding
  bool qkv_bias = false;         // qwen2
  bool qk_norm = false;          // RMSNorm over each head of q and k
  Precision residual = Precision::f16;

  // What follows has a neutral value, with which manifests leave it out.
  std::vector<std::int64_t> full_attention_layers;  // that see all positions in spite of sliding_window; ascending
  std::vector<std::int64_t> no_rope_layers;         // ascending
  float sliding_rope_theta = 0;     // of layers with a window, whose frequencies have no factors; 0: as all others
  float rope_attention_factor = 1;  // of cosines and sines (YaRN, LongRoPE)
  std::int64_t rope_dim = 0;        // elements of each head that are rotated, from the first on; 0: all
  bool post_norms = false;          // RMSNorm of what attention and feed-forward add to the residual
  Activation activation = Activation::silu;
  float embedding_scale = 1;
  float attention_scale = 0;  // of scores; 0: 1 / sqrt(head_dim)
  float residual_scale = 1;   // of what attention and feed-forward add to the residual
  float logit_scale = 1;
  float attention_softcap = 0;  // scores become cap * tanh(score / cap); 0: no cap
  float logit_softcap = 0;

  // Mixture of experts: feed-forward parts of which each token uses some, as its router ranks them.
  std::int64_t n_experts = 0;  // of a layer; 0: none
  std::int64_t n_experts_used = 0;
  std::int64_t expert_hidden_dim = 0;      // width of one
  bool normalised_expert_weights = false;  // those of the experts used sum up to 1
  bool shared_expert_gate = false;         // a sigmoid weighs the feed-forward part of width hidden_dim
  bool qk_norm_whole = false;              // with qk_norm: over all heads together

  bool attention_sinks = false;  // a learned score for each head joins its softmax, and no value
  bool attention_output_bias = false;
  bool expert_bias = false;  // of the router and of all matrices of the experts

  std::int64_t q_dim() const { return n_heads * head_dim; }
  std::int64_t kv_dim() const { return n_kv_heads * head_dim; }
  std::int64_t rotary_dim() const { return rope_dim > 0 ? rope_dim : head_dim; }
  LayerKind layer_kind(std::int64_t layer) const;
  // Multiply-adds with weights that a token costs in one layer.
  std::int64_t layer_multiplies() const {
    const std::int64_t attention = 2 * dim * (q_dim() + kv_dim()), router = dim * n_experts;
    return attention + router + 3 * dim * (hidden_dim + n_experts_used * expert_hidden_dim);
  }
};

// What every gpt-oss has in common: biases, attention sinks, its activation, and a residual beyond f16's range.
void set_gpt_oss(ModelConfig& config);

// Throws FormatError, naming `source`, where a value is out of range or two disagree.
void check(const ModelConfig& config, std::string_view source);

}  // namespace jupiter

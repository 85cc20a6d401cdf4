// What GGUF metadata say about the model. Defaults are llama.cpp's, whose format it is.
#include <cmath>
#include <functional>

#include "io/convert/rope_scaling.hpp"
#include "io/error.hpp"
#include "io/formats/gguf.hpp"

namespace jupiter {

namespace {

// Reads "ARCH.key" entries of one file.
class Fields {
 public:
  Fields(const Gguf& file, std::string_view prefix) : file_(file), prefix_(prefix) {}

  std::string key(std::string_view field) const { return prefix_ + "." + std::string(field); }
  std::int64_t required_int(std::string_view field) const {
    if (const auto value = file_.find_int(key(field))) return *value;
    throw FormatError(file_.file_name(), "metadata " + key(field), "an integer", "nothing");
  }
  std::int64_t int_or(std::string_view field, std::int64_t fallback) const {
    return file_.find_int(key(field)).value_or(fallback);
  }
  double number_or(std::string_view field, double fallback) const {
    return file_.find_number(key(field)).value_or(fallback);
  }
  // For what we do not implement: an absent or neutral value passes.
  void expect(std::string_view field, std::int64_t only) const {
    const std::int64_t found = int_or(field, only);
    if (found != only) fail(field, std::to_string(only), found);
  }
  [[noreturn]] void fail(std::string_view field, const std::string& expected, std::int64_t found) const {
    throw FormatError(file_.file_name(), "metadata " + key(field), expected, std::to_string(found));
  }

 private:
  const Gguf& file_;
  std::string prefix_;
};

Architecture read_architecture(const Gguf& file) {
  const auto text = file.find_string("general.architecture");
  const auto found = text ? architecture_from_name(*text) : std::nullopt;
  if (found) return *found;
  throw FormatError(file.file_name() + ": metadata general.architecture: expected one of " + architecture_names() +
                    ", found " + (text ? "\"" + std::string(text->substr(0, 80)) + "\"" : "nothing"));
}

// ---- rotary embedding

std::vector<float> read_factors(const Gguf& file, const std::string& name, std::int64_t pairs) {
  const StoredTensor* tensor = file.find_tensor(name);
  if (tensor == nullptr) throw FormatError(file.file_name(), "tensor " + name, "rotary factors", "nothing");
  if (tensor->type != GgufType::f32 || tensor->shape.size() != 1 || tensor->cols() != pairs) {
    throw FormatError(file.file_name(), "tensor " + name, "F32 [" + std::to_string(pairs) + "]",
                      gguf_type_name(tensor->type) + " [" + std::to_string(tensor->cols()) + ", ...]");
  }
  std::vector<float> factors(pairs);
  dequantize_gguf_row(tensor->type, tensor->data, tensor->cols(), factors.data());
  return factors;
}

void read_yarn(const Gguf& file, const Fields& fields, ModelConfig& c) {
  YarnScaling s;
  s.factor = fields.number_or("rope.scaling.factor", 0);
  s.original_context = fields.number_or("rope.scaling.original_context_length", static_cast<double>(c.max_seq_len));
  s.beta_fast = fields.number_or("rope.scaling.yarn_beta_fast", 32);
  s.beta_slow = fields.number_or("rope.scaling.yarn_beta_slow", 1);
  s.truncate = c.architecture != Architecture::gpt_oss;  // as its configuration says; GGUF has no word for it
  if (!(s.factor > 0) || !(s.original_context > 0) || !(s.beta_slow > 0) || !(s.beta_fast > s.beta_slow)) {
    throw FormatError(file.file_name(), "metadata " + fields.key("rope.scaling.factor"),
                      "a positive factor and original context, and 0 < yarn_beta_slow < yarn_beta_fast",
                      std::to_string(s.factor));
  }
  c.rope_factors = yarn_factors(s, c);
  c.rope_attention_factor =
      static_cast<float>(yarn_attention_factor(s.factor) * fields.number_or("rope.scaling.attn_factor", 1));
}

void read_long_rope(const Gguf& file, const Fields& fields, std::int64_t context, ModelConfig& c) {
  const std::int64_t pairs = c.rotary_dim() / 2, original = fields.required_int("rope.scaling.original_context_length");
  if (original < 2) {
    throw FormatError(file.file_name(), "metadata " + fields.key("rope.scaling.original_context_length"), "2 or more",
                      std::to_string(original));
  }
  c.rope_attention_factor = static_cast<float>(fields.number_or("rope.scaling.attn_factor", 1));
  choose_long_rope({read_factors(file, "rope_factors_short.weight", pairs),
                    read_factors(file, "rope_factors_long.weight", pairs), original},
                   context, c);
}

// Linear scaling divides every frequency alike, Llama 3's and LongRoPE's come as tensors of divisors.
void read_rope_scaling(const Gguf& file, const Fields& fields, std::int64_t context, ModelConfig& c) {
  const std::string type_key = fields.key("rope.scaling.type");
  const std::string_view type = file.find_string(type_key).value_or("linear");
  if (type == "yarn") return read_yarn(file, fields, c);
  if (type == "longrope" || file.find_tensor("rope_factors_long.weight") != nullptr) {
    return read_long_rope(file, fields, context, c);
  }
  if (type != "none" && type != "linear") {
    throw FormatError(file.file_name(), "metadata " + type_key, "none, linear, yarn or longrope",
                      std::string(type.substr(0, 80)));
  }
  double factor = fields.number_or("rope.scaling.factor", fields.number_or("rope.scale_linear", 0));
  if (factor == 0 || type == "none") factor = 1;
  const bool divisors = file.find_tensor("rope_freqs.weight") != nullptr;
  if (!divisors && factor == 1) return;
  c.rope_factors.assign(c.rotary_dim() / 2, static_cast<float>(factor));
  if (!divisors) return;
  const std::vector<float> more = read_factors(file, "rope_freqs.weight", c.rotary_dim() / 2);
  std::transform(more.begin(), more.end(), c.rope_factors.begin(), c.rope_factors.begin(), std::multiplies<>());
}

void read_heads(const Gguf& file, const Fields& fields, ModelConfig& c) {
  c.n_heads = fields.required_int("attention.head_count");
  c.n_kv_heads = fields.int_or("attention.head_count_kv", c.n_heads);
  if (c.n_heads < 1 || c.dim < 1) {
    throw FormatError(file.file_name(), "metadata " + fields.key("attention.head_count"), "a positive number",
                      std::to_string(c.n_heads));
  }
  c.head_dim = fields.int_or("attention.key_length", c.dim / c.n_heads);
  fields.expect("attention.value_length", c.head_dim);
  if (c.architecture == Architecture::phi3) {
    const std::int64_t rotary = fields.int_or("rope.dimension_count", c.head_dim);
    c.rope_dim = rotary == c.head_dim ? 0 : rotary;
  } else {
    fields.expect("rope.dimension_count", c.head_dim);
  }
}

// ---- what an architecture does that the file does not say, or in keys of its own

// Layers (counted from 1) that a turn ends with: they see all positions, or do not rotate.
std::vector<std::int64_t> last_of_turns(std::int64_t turn, std::int64_t n_layers) {
  std::vector<std::int64_t> layers;
  for (std::int64_t layer = turn - 1; layer < n_layers; layer += turn) layers.push_back(layer);
  return layers;
}

void read_gemma(const Fields& fields, ModelConfig& c) {
  const bool third = c.architecture == Architecture::gemma3;
  c.post_norms = true;
  c.activation = Activation::gelu;
  c.qk_norm = third;
  c.residual = Precision::bf16;  // its residual exceeds f16's range
  c.embedding_scale = std::sqrt(static_cast<float>(c.dim));
  // The 27B models divide scores by the root of dim / n_heads; the file does not say so.
  if (c.n_layers == (third ? 62 : 46)) {
    const std::int64_t width = c.dim / c.n_heads;
    c.attention_scale = 1.0f / std::sqrt(static_cast<float>(width));
  }
  c.attention_softcap = static_cast<float>(fields.number_or("attn_logit_softcapping", third ? 0 : 50));
  c.logit_softcap = static_cast<float>(fields.number_or("final_logit_softcapping", third ? 0 : 30));
  if (c.sliding_window == 0) return;
  const std::int64_t turn = fields.int_or("attention.sliding_window_pattern", third ? 6 : 2);
  if (turn < 1) fields.fail("attention.sliding_window_pattern", "1 or more", turn);
  c.full_attention_layers = last_of_turns(turn, c.n_layers);
  if (third) c.sliding_rope_theta = static_cast<float>(fields.number_or("rope.freq_base_swa", 10000));
}

void read_granite(const Fields& fields, ModelConfig& c) {
  const auto scale = [&](const char* key) { return static_cast<float>(fields.number_or(key, 1)); };
  c.embedding_scale = scale("embedding_scale");
  c.attention_scale = static_cast<float>(fields.number_or("attention.scale", 0));
  c.residual_scale = scale("residual_scale");
  c.logit_scale = 1.0f / scale("logit_scale");
}

// Moves the feed-forward part to the experts.
void read_experts(const Fields& fields, ModelConfig& c) {
  c.n_experts = fields.int_or("expert_count", 0);
  if (c.n_experts == 0) return;
  c.n_experts_used = fields.required_int("expert_used_count");
  const bool gpt_oss = c.architecture == Architecture::gpt_oss;
  fields.expect("expert_gating_func", gpt_oss ? 3 : 1);  // softmax of those used, or of all
  fields.expect("leading_dense_block_count", 0);
  c.expert_hidden_dim = fields.int_or("expert_feed_forward_length", c.hidden_dim);
  c.hidden_dim = 0;
  c.normalised_expert_weights = c.architecture != Architecture::qwen2moe && c.architecture != Architecture::olmoe;
  if (c.architecture == Architecture::qwen2moe) {
    c.hidden_dim =
        fields.int_or("expert_shared_feed_forward_length", 0);  // 0: as wide as the experts that a token uses
    c.shared_expert_gate = true;
  }
}

// Gemma 2's files need not name their window, Gemma 3's and gpt-oss's must; of other architectures only those with the
// key have one.
std::int64_t read_window(const Fields& fields, Architecture a) {
  if (a == Architecture::gemma3 || a == Architecture::gpt_oss) return fields.required_int("attention.sliding_window");
  return fields.int_or("attention.sliding_window", a == Architecture::gemma2 ? 4096 : 0);
}

}  // namespace

ModelConfig Gguf::config(std::int64_t context) const {
  ModelConfig c;
  c.architecture = read_architecture(*this);
  const Fields fields(*this, name(c.architecture));
  c.model_name = find_string("general.name").value_or(find_string("general.basename").value_or(""));
  c.dim = fields.required_int("embedding_length");
  c.hidden_dim = fields.required_int("feed_forward_length");
  c.n_layers = fields.required_int("block_count");
  c.max_seq_len = fields.required_int("context_length");
  c.sliding_window = read_window(fields, c.architecture);
  read_heads(*this, fields, c);
  c.rope_theta = static_cast<float>(fields.number_or("rope.freq_base", 10000));
  const auto eps = find_number(fields.key("attention.layer_norm_rms_epsilon"));
  if (!eps)
    throw FormatError(file_name_, "metadata " + fields.key("attention.layer_norm_rms_epsilon"), "a number", "nothing");
  c.norm_eps = static_cast<float>(*eps);
  const StoredTensor* embed = find_tensor("token_embd.weight");
  if (embed == nullptr) throw FormatError(file_name_, "tensor token_embd.weight", "the embedding", "nothing");
  c.vocab_size = embed->rows();
  c.tied_embeddings = find_tensor("output.weight") == nullptr;
  c.qkv_bias = find_tensor("blk.0.attn_q.bias") != nullptr;
  c.qk_norm_whole = c.architecture == Architecture::olmoe;
  c.qk_norm = c.qk_norm_whole || c.architecture == Architecture::qwen3 || c.architecture == Architecture::qwen3moe;
  read_experts(fields, c);
  check(c, file_name_);  // the numbers of layers and experts are about to be trusted
  if (c.shared_expert_gate && c.hidden_dim == 0) c.hidden_dim = c.n_experts_used * c.expert_hidden_dim;
  if (is_gemma(c.architecture)) read_gemma(fields, c);
  if (c.architecture == Architecture::granite || c.architecture == Architecture::granitemoe) read_granite(fields, c);
  if (c.architecture == Architecture::gpt_oss) {
    set_gpt_oss(c);
    c.full_attention_layers = last_of_turns(2, c.n_layers);
  }
  if (c.architecture == Architecture::smollm3) c.no_rope_layers = last_of_turns(4, c.n_layers);
  read_rope_scaling(*this, fields, context, c);
  check(c, file_name_);
  return c;
}

}  // namespace jupiter

// What GGUF metadata say about the model and its tokenizer. Defaults are llama.cpp's, whose format it is.
#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "io/error.hpp"
#include "io/formats/gguf.hpp"
#include "io/tokenizer/tokenizer_rules.hpp"

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
    if (found != only) {
      throw FormatError(file_.file_name(), "metadata " + key(field), std::to_string(only), std::to_string(found));
    }
  }

 private:
  const Gguf& file_;
  std::string prefix_;
};

Architecture read_architecture(const Gguf& file) {
  const auto text = file.find_string("general.architecture");
  const auto found = text ? architecture_from_name(*text) : std::nullopt;
  if (found) return *found;
  throw FormatError(file.file_name(), "metadata general.architecture", "llama, qwen2 or qwen3",
                    text ? "\"" + std::string(text->substr(0, 80)) + "\"" : "nothing");
}

// Linear scaling divides every frequency alike, Llama 3's comes as a tensor of divisors.
std::vector<float> read_rope_factors(const Gguf& file, const Fields& fields, std::int64_t head_dim) {
  const std::string type_key = fields.key("rope.scaling.type");
  const std::string_view type = file.find_string(type_key).value_or("linear");
  if (type != "none" && type != "linear") {
    throw FormatError(file.file_name(), "metadata " + type_key, "none or linear", std::string(type.substr(0, 80)));
  }
  double factor = fields.number_or("rope.scaling.factor", fields.number_or("rope.scale_linear", 0));
  if (factor == 0 || type == "none") factor = 1;
  const StoredTensor* tensor = file.find_tensor("rope_freqs.weight");
  if (tensor == nullptr && factor == 1) return {};
  std::vector<float> factors(head_dim / 2, static_cast<float>(factor));
  if (tensor == nullptr) return factors;
  if (tensor->type != GgufType::f32 || tensor->shape.size() != 1 || tensor->cols() != head_dim / 2) {
    throw FormatError(file.file_name(), "tensor rope_freqs.weight", "F32 [" + std::to_string(head_dim / 2) + "]",
                      gguf_type_name(tensor->type) + " [" + std::to_string(tensor->cols()) + ", ...]");
  }
  std::vector<float> divisors(factors.size());
  dequantize_gguf_row(tensor->type, tensor->data, tensor->cols(), divisors.data());
  std::transform(factors.begin(), factors.end(), divisors.begin(), factors.begin(), std::multiplies<>());
  return factors;
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
  fields.expect("rope.dimension_count", c.head_dim);
}

PreTokenizer read_pre_tokenizer(const Gguf& file) {
  struct Name {
    std::string_view text;
    PreTokenizer pre;
  };
  static constexpr std::array<Name, 8> kNames = {{
      {"gpt-2", PreTokenizer::gpt2},
      {"default", PreTokenizer::gpt2},
      {"smollm", PreTokenizer::smollm},
      {"llama-bpe", PreTokenizer::llama3},
      {"llama3", PreTokenizer::llama3},
      {"llama-v3", PreTokenizer::llama3},
      {"qwen2", PreTokenizer::qwen2},
      {"deepseek-r1-qwen", PreTokenizer::qwen2},
  }};
  const std::string_view text = file.find_string("tokenizer.ggml.pre").value_or("default");
  for (const Name& name : kNames) {
    if (name.text == text) return name.pre;
  }
  throw FormatError(file.file_name(), "metadata tokenizer.ggml.pre", "gpt-2, default, smollm, llama-bpe or qwen2",
                    "\"" + std::string(text.substr(0, 80)) + "\"");
}

TokenizerKind read_kind(const Gguf& file) {
  const std::string_view text = file.find_string("tokenizer.ggml.model").value_or("");
  if (text == "gpt2") return TokenizerKind::byte_bpe;
  if (text == "llama") return TokenizerKind::sentencepiece;
  throw FormatError(file.file_name(), "metadata tokenizer.ggml.model", "gpt2 or llama",
                    text.empty() ? "nothing" : "\"" + std::string(text.substr(0, 80)) + "\"");
}

TokenId read_id(const Gguf& file, std::string_view name, TokenId fallback) {
  const auto id = file.find_int("tokenizer.ggml." + std::string(name));
  if (!id) return fallback;
  // check() names ids outside the vocabulary; here only the narrowing is guarded.
  return static_cast<TokenId>(std::clamp<std::int64_t>(*id, -1, std::numeric_limits<TokenId>::max()));
}

void read_vocabulary(const Gguf& file, TokenizerData& data) {
  const auto tokens = file.find_strings("tokenizer.ggml.tokens");
  if (!tokens) throw FormatError(file.file_name(), "metadata tokenizer.ggml.tokens", "an array of strings", "nothing");
  data.tokens.assign(tokens->begin(), tokens->end());
  data.types.assign(data.tokens.size(), TokenType::normal);
  if (const auto types = file.find_ints("tokenizer.ggml.token_type")) {
    data.types.clear();
    for (const std::int64_t type : *types) {
      data.types.push_back(static_cast<TokenType>(std::clamp<std::int64_t>(type, 0, 255)));
    }
  }
  if (data.kind == TokenizerKind::sentencepiece) {
    data.scores = file.find_floats("tokenizer.ggml.scores").value_or(std::vector<float>{});
  } else if (const auto merges = file.find_strings("tokenizer.ggml.merges")) {
    data.merges.assign(merges->begin(), merges->end());
  } else {
    throw FormatError(file.file_name(), "metadata tokenizer.ggml.merges", "an array of strings", "nothing");
  }
}

}  // namespace

ModelConfig Gguf::config() const {
  ModelConfig c;
  c.architecture = read_architecture(*this);
  const Fields fields(*this, name(c.architecture));
  c.model_name = find_string("general.name").value_or(find_string("general.basename").value_or(""));
  c.dim = fields.required_int("embedding_length");
  c.hidden_dim = fields.required_int("feed_forward_length");
  c.n_layers = fields.required_int("block_count");
  c.max_seq_len = fields.required_int("context_length");
  c.sliding_window = fields.int_or("attention.sliding_window", 0);
  fields.expect("expert_count", 0);
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
  c.qk_norm = c.architecture == Architecture::qwen3;
  check(c, file_name_);
  c.rope_factors = read_rope_factors(*this, fields, c.head_dim);
  check(c, file_name_);
  return c;
}

TokenizerData Gguf::tokenizer_data() const {
  TokenizerData data;
  data.kind = read_kind(*this);
  const bool scored = data.kind == TokenizerKind::sentencepiece;
  if (!scored) data.pre = read_pre_tokenizer(*this);
  read_vocabulary(*this, data);
  data.bos = read_id(*this, "bos_token_id", scored ? 1 : -1);
  data.eos = read_id(*this, "eos_token_id", scored ? 2 : -1);
  data.unknown = read_id(*this, "unknown_token_id", scored ? 0 : -1);
  for (const std::string_view key : {"eot_token_id", "eom_token_id"}) {
    const TokenId id = read_id(*this, key, -1);
    if (id >= 0) data.end_of_turn.push_back(id);
  }
  const bool bos_by_default = scored || data.pre == PreTokenizer::llama3;
  data.add_bos = find_bool("tokenizer.ggml.add_bos_token").value_or(bos_by_default) && data.bos >= 0;
  data.add_space_prefix = scored && find_bool("tokenizer.ggml.add_space_prefix").value_or(true);
  data.chat_template = find_string("tokenizer.chat_template").value_or("");
  check(data, file_name_);
  complete_end_of_turn(data);
  return data;
}

}  // namespace jupiter

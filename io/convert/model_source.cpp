// The table of tensor names and shapes, and reading of rows in canonical order.
#include "io/convert/model_source.hpp"

#include <cassert>
#include <filesystem>
#include <utility>

#include "io/convert/gguf_source.hpp"
#include "io/convert/hf_source.hpp"
#include "io/error.hpp"
#include "io/mapped_file.hpp"
#include "io/tokenizer/tokenizer.hpp"

namespace jupiter {

namespace {

// Stored place of canonical row r: a head's halves (first, second) are stored as pairs.
std::int64_t stored_row(const SourceTensor& t, std::int64_t r) {
  const std::int64_t d = t.interleaved_head_dim;
  if (d == 0) return r;
  const std::int64_t head = r / d, within = r % d;
  return head * d + 2 * (within % (d / 2)) + within / (d / 2);
}

void add_layer_specs(const ModelConfig& c, std::int64_t layer, std::vector<TensorSpec>& specs) {
  const std::string number = std::to_string(layer);
  const auto add = [&](const char* canonical, const std::string& gguf, const std::string& hf, std::int64_t rows,
                       std::int64_t cols, bool rotary = false) {
    specs.push_back({"layers." + number + "." + canonical, "blk." + number + "." + gguf,
                     "model.layers." + number + "." + hf, rows, cols, rotary});
  };
  add("attn_norm", "attn_norm.weight", "input_layernorm.weight", 0, c.dim);
  add("wq", "attn_q.weight", "self_attn.q_proj.weight", c.q_dim(), c.dim, true);
  add("wk", "attn_k.weight", "self_attn.k_proj.weight", c.kv_dim(), c.dim, true);
  add("wv", "attn_v.weight", "self_attn.v_proj.weight", c.kv_dim(), c.dim);
  if (c.qkv_bias) {
    add("bq", "attn_q.bias", "self_attn.q_proj.bias", 0, c.q_dim(), true);
    add("bk", "attn_k.bias", "self_attn.k_proj.bias", 0, c.kv_dim(), true);
    add("bv", "attn_v.bias", "self_attn.v_proj.bias", 0, c.kv_dim());
  }
  if (c.qk_norm) {
    add("q_norm", "attn_q_norm.weight", "self_attn.q_norm.weight", 0, c.head_dim);
    add("k_norm", "attn_k_norm.weight", "self_attn.k_norm.weight", 0, c.head_dim);
  }
  add("wo", "attn_output.weight", "self_attn.o_proj.weight", c.dim, c.q_dim());
  add("ffn_norm", "ffn_norm.weight", "post_attention_layernorm.weight", 0, c.dim);
  add("w_gate", "ffn_gate.weight", "mlp.gate_proj.weight", c.hidden_dim, c.dim);
  add("w_up", "ffn_up.weight", "mlp.up_proj.weight", c.hidden_dim, c.dim);
  add("w_down", "ffn_down.weight", "mlp.down_proj.weight", c.dim, c.hidden_dim);
}

}  // namespace

std::vector<TensorSpec> tensor_specs(const ModelConfig& c) {
  std::vector<TensorSpec> specs;
  specs.push_back({"embed", "token_embd.weight", "model.embed_tokens.weight", c.vocab_size, c.dim});
  for (std::int64_t layer = 0; layer < c.n_layers; ++layer) add_layer_specs(c, layer, specs);
  specs.push_back({"output_norm", "output_norm.weight", "model.norm.weight", 0, c.dim});
  if (!c.tied_embeddings) specs.push_back({"output", "output.weight", "lm_head.weight", c.vocab_size, c.dim});
  return specs;
}

namespace {

std::string shape_text(const std::vector<std::int64_t>& columns_first) {
  std::string text = "[";
  for (auto size = columns_first.rbegin(); size != columns_first.rend(); ++size) {
    text += (text.size() > 1 ? ", " : "") + std::to_string(*size);
  }
  return text + "]";
}

}  // namespace

SourceTensor source_tensor(const StoredTensor& stored, const TensorSpec& spec, const ModelConfig& config,
                           bool interleaved, std::string_view file) {
  std::vector<std::int64_t> expected = {spec.cols};
  if (spec.rows != 0) expected.push_back(spec.rows);
  if (stored.shape != expected) {
    throw FormatError(file, "tensor " + std::string(stored.name), "shape " + shape_text(expected),
                      shape_text(stored.shape));
  }
  SourceTensor t;
  t.name = spec.canonical;
  t.format = packed_format(stored.type).value();
  t.rows = stored.rows();
  t.cols = stored.cols();
  t.stored = stored.type;
  t.data = stored.data;
  if (spec.rotary && interleaved) t.interleaved_head_dim = config.head_dim;
  return t;
}

void refuse_tensor(std::string_view name, std::string_view file) {
  throw FormatError(file, "tensors", "those that its architecture has", "also " + std::string(name.substr(0, 80)));
}

ModelSource::ModelSource(std::string file, ModelConfig config, TokenizerData tokenizer,
                         std::vector<SourceTensor> tensors, std::shared_ptr<const void> keep)
    : file_(std::move(file)), config_(std::move(config)), tokenizer_(std::move(tokenizer)), keep_(std::move(keep)) {
  for (SourceTensor& t : tensors) {
    std::string key = t.name;
    tensors_.emplace(std::move(key), std::move(t));
  }
  for (const TensorSpec& spec : tensor_specs(config_)) tensor(spec.canonical);
}

const SourceTensor& ModelSource::tensor(std::string_view name) const {
  const auto it = tensors_.find(name);
  if (it == tensors_.end()) throw FormatError(file_, "tensor " + std::string(name), "its weights", "nothing");
  return it->second;
}

const std::byte* ModelSource::row_bytes(const SourceTensor& t, std::int64_t row) const {
  assert(row >= 0 && row < t.rows);
  return t.data + static_cast<std::size_t>(t.rows == 1 ? row : stored_row(t, row)) * t.row_bytes();
}

void ModelSource::read_row(const SourceTensor& t, std::int64_t row, QuantizedRow& out) const {
  read_gguf_row(t.stored, row_bytes(t, row), t.cols, out);
}

void ModelSource::read_row_f32(const SourceTensor& t, std::int64_t row, float* out) const {
  dequantize_gguf_row(t.stored, row_bytes(t, row), t.cols, out);
}

std::vector<float> ModelSource::read_vector(std::string_view name) const {
  const SourceTensor& t = tensor(name);
  assert(t.rows == 1);
  std::vector<float> stored(t.cols);
  read_row_f32(t, 0, stored.data());
  std::vector<float> out(stored.size());
  for (std::int64_t i = 0; i < t.cols; ++i) out[i] = stored[stored_row(t, i)];
  return out;
}

void ModelSource::release(const SourceTensor& t) const {
  release_mapped_pages(t.data, t.bytes());
}

std::unique_ptr<ModelSource> open_model_source(const std::string& path) {
  auto source = std::filesystem::is_directory(path) ? open_hf_source(path) : open_gguf_source(path);
  const Tokenizer tokenizer(source->tokenizer(), path);  // a broken one is to be found now, not when the model runs
  return source;
}

}  // namespace jupiter

// Mapping of a stage's shards into typed views.
#include "io/model/model_files.hpp"

#include "io/error.hpp"

namespace jupiter {

namespace {
LayerWeights view_layer(const ShardFile& f, const ModelConfig& c, std::int64_t layer) {
  LayerWeights w;
  w.kind = c.layer_kind(layer);
  w.attn_norm = f.vector("attn_norm", c.dim).data();
  w.wq = f.matrix("wq", c.q_dim(), c.dim);
  w.wk = f.matrix("wk", c.kv_dim(), c.dim);
  w.wv = f.matrix("wv", c.kv_dim(), c.dim);
  w.wo = f.matrix("wo", c.dim, c.q_dim());
  if (c.qkv_bias) {
    w.bq = f.vector("bq", c.q_dim()).data();
    w.bk = f.vector("bk", c.kv_dim()).data();
    w.bv = f.vector("bv", c.kv_dim()).data();
  }
  if (c.attention_output_bias) w.bo = f.vector("bo", c.dim).data();
  if (c.attention_sinks) w.sinks = f.vector("sinks", c.n_heads).data();
  if (c.qk_norm) {
    w.q_norm = f.vector("q_norm", c.qk_norm_whole ? c.q_dim() : c.head_dim).data();
    w.k_norm = f.vector("k_norm", c.qk_norm_whole ? c.kv_dim() : c.head_dim).data();
  }
  if (c.post_norms) {
    w.attn_post_norm = f.vector("attn_post_norm", c.dim).data();
    w.ffn_post_norm = f.vector("ffn_post_norm", c.dim).data();
  }
  w.ffn_norm = f.vector("ffn_norm", c.dim).data();
  if (c.hidden_dim > 0) {
    w.w_gate = f.matrix("w_gate", c.hidden_dim, c.dim);
    w.w_up = f.matrix("w_up", c.hidden_dim, c.dim);
    w.w_down = f.matrix("w_down", c.dim, c.hidden_dim);
  }
  if (c.n_experts > 0) {
    w.router = f.matrix("router", c.n_experts, c.dim);
    w.w_gate_experts = f.matrix("w_gate_experts", c.n_experts * c.expert_hidden_dim, c.dim);
    w.w_up_experts = f.matrix("w_up_experts", c.n_experts * c.expert_hidden_dim, c.dim);
    w.w_down_experts = f.matrix("w_down_experts", c.n_experts * c.dim, c.expert_hidden_dim);
  }
  if (c.expert_bias) {
    w.router_bias = f.vector("router_bias", c.n_experts).data();
    w.b_gate_experts = f.vector("b_gate_experts", c.n_experts * c.expert_hidden_dim).data();
    w.b_up_experts = f.vector("b_up_experts", c.n_experts * c.expert_hidden_dim).data();
    w.b_down_experts = f.vector("b_down_experts", c.n_experts * c.dim).data();
  }
  if (c.shared_expert_gate) w.shared_router = f.matrix("shared_router", 1, c.dim);
  return w;
}
}  // namespace

LayerWeights slice_layer(const LayerWeights& whole, const ModelConfig& c, const TensorSlice& slice) {
  LayerWeights w = whole;
  const auto cut = [&](PackedMatrix& m, const char* name) {
    const IndexRange r = rows_of(c, slice, name, m.rows);
    m = m.slice(r.first, r.last);
  };
  if (c.qkv_bias) {
    w.bq += rows_of(c, slice, "wq", 0).first;
    w.bk += rows_of(c, slice, "wk", 0).first;
    w.bv += rows_of(c, slice, "wv", 0).first;
  }
  if (c.attention_output_bias) w.bo += rows_of(c, slice, "wo", 0).first;
  if (c.attention_sinks) w.sinks += slice.heads.first;
  cut(w.wq, "wq");
  cut(w.wk, "wk");
  cut(w.wv, "wv");
  cut(w.wo, "wo");
  if (c.hidden_dim > 0) {
    cut(w.w_gate, "w_gate");
    cut(w.w_up, "w_up");
    cut(w.w_down, "w_down");
  }
  return w;
}

const ShardFile& ModelFiles::open(const std::filesystem::path& folder, const Manifest& manifest,
                                  const std::string& name, bool verify) {
  const FileInfo& info = manifest.file(name);
  for (const auto& file : files_) {
    if (file->name() == (folder / name).string()) return *file;  // a tied head on the rank of the embedding
  }
  files_.push_back(std::make_unique<ShardFile>(folder, info, verify));
  return *files_.back();
}

ModelFiles::ModelFiles(const std::filesystem::path& folder, const Manifest& manifest, const ModelPart& part,
                       bool verify)
    : part_(part) {
  const ModelConfig& c = manifest.config;
  const TensorSlice slice = part.rows(c);
  if (part.embedding) {
    embedding_ = open(folder, manifest, embed_file_name(), verify).matrix("embed", c.vocab_size, c.dim);
  }
  for (std::int64_t i = part.first_layer; i < part.last_layer; ++i) {
    const LayerWeights layer = view_layer(open(folder, manifest, layer_file_name(i), verify), c, i);
    layers_.push_back(part.slice ? slice_layer(layer, c, slice) : layer);
  }
  if (part.reads_output_head()) {
    const ShardFile& output = open(folder, manifest, output_file_name(), verify);
    output_head_.norm = output.vector("output_norm", c.dim).data();
    whole_output_ = c.tied_embeddings
                        ? open(folder, manifest, embed_file_name(), verify).matrix("embed", c.vocab_size, c.dim)
                        : output.matrix("output", c.vocab_size, c.dim);
    output_head_.output = whole_output_.slice(slice.vocabulary.first, slice.vocabulary.last);
  }
  weight_bytes_ = jupiter::weight_bytes(manifest, part);
}

TokenizerData load_tokenizer(const std::filesystem::path& folder, const Manifest& manifest, bool verify) {
  const ShardFile file(folder, manifest.file(tokenizer_file_name()), verify);
  return read_tokenizer(file, manifest.config.vocab_size);
}

}  // namespace jupiter

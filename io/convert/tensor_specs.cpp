// Which tensors a model has, and what both kinds of source call them.
#include "io/convert/model_source.hpp"

namespace jupiter {

namespace {

// Lists the tensors of one layer.
class LayerSpecs {
 public:
  LayerSpecs(const ModelConfig& config, std::int64_t layer, std::vector<TensorSpec>& specs)
      : c_(config), number_(std::to_string(layer)), specs_(specs) {}

  void attention() {
    vector("attn_norm", "attn_norm.weight", "input_layernorm.weight", c_.dim);
    if (c_.architecture == Architecture::phi3) {
      const std::int64_t all = c_.q_dim() + 2 * c_.kv_dim();
      part("wq", "attn_qkv.weight", "self_attn.qkv_proj.weight", 0, c_.q_dim(), all);
      part("wk", "attn_qkv.weight", "self_attn.qkv_proj.weight", c_.q_dim(), c_.kv_dim(), all);
      part("wv", "attn_qkv.weight", "self_attn.qkv_proj.weight", c_.q_dim() + c_.kv_dim(), c_.kv_dim(), all);
    } else {
      matrix("wq", "attn_q.weight", "self_attn.q_proj.weight", c_.q_dim(), c_.dim).rotary = true;
      matrix("wk", "attn_k.weight", "self_attn.k_proj.weight", c_.kv_dim(), c_.dim).rotary = true;
      matrix("wv", "attn_v.weight", "self_attn.v_proj.weight", c_.kv_dim(), c_.dim);
    }
    if (c_.qkv_bias) {
      vector("bq", "attn_q.bias", "self_attn.q_proj.bias", c_.q_dim()).rotary = true;
      vector("bk", "attn_k.bias", "self_attn.k_proj.bias", c_.kv_dim()).rotary = true;
      vector("bv", "attn_v.bias", "self_attn.v_proj.bias", c_.kv_dim());
    }
    if (c_.qk_norm) {
      const bool whole = c_.qk_norm_whole;
      vector("q_norm", "attn_q_norm.weight", "self_attn.q_norm.weight", whole ? c_.q_dim() : c_.head_dim);
      vector("k_norm", "attn_k_norm.weight", "self_attn.k_norm.weight", whole ? c_.kv_dim() : c_.head_dim);
    }
    matrix("wo", "attn_output.weight", "self_attn.o_proj.weight", c_.dim, c_.q_dim());
    if (c_.attention_output_bias) vector("bo", "attn_output.bias", "self_attn.o_proj.bias", c_.dim);
    if (c_.attention_sinks) vector("sinks", "attn_sinks.weight", "self_attn.sinks", c_.n_heads);
    if (c_.post_norms) {
      vector("attn_post_norm", "post_attention_norm.weight", "post_attention_layernorm.weight", c_.dim);
    }
  }

  void feed_forward() {
    const char* norm = c_.post_norms ? "pre_feedforward_layernorm.weight" : "post_attention_layernorm.weight";
    const bool gpt_oss = c_.architecture == Architecture::gpt_oss;
    vector("ffn_norm", gpt_oss ? "post_attention_norm.weight" : "ffn_norm.weight", norm, c_.dim);
    if (c_.architecture == Architecture::phi3) {
      part("w_gate", "ffn_up.weight", "mlp.gate_up_proj.weight", 0, c_.hidden_dim, 2 * c_.hidden_dim);
      part("w_up", "ffn_up.weight", "mlp.gate_up_proj.weight", c_.hidden_dim, c_.hidden_dim, 2 * c_.hidden_dim);
      matrix("w_down", "ffn_down.weight", "mlp.down_proj.weight", c_.dim, c_.hidden_dim);
    } else if (c_.n_experts == 0) {
      matrix("w_gate", "ffn_gate.weight", "mlp.gate_proj.weight", c_.hidden_dim, c_.dim);
      matrix("w_up", "ffn_up.weight", "mlp.up_proj.weight", c_.hidden_dim, c_.dim);
      matrix("w_down", "ffn_down.weight", "mlp.down_proj.weight", c_.dim, c_.hidden_dim);
    } else if (gpt_oss) {
      biased_experts();
    } else {
      experts();
    }
    if (c_.post_norms) {
      vector("ffn_post_norm", "post_ffw_norm.weight", "post_feedforward_layernorm.weight", c_.dim);
    }
  }

 private:
  TensorSpec& matrix(const char* canonical, const char* gguf, const std::string& hf, std::int64_t rows,
                     std::int64_t cols) {
    return specs_.emplace_back(TensorSpec{"layers." + number_ + "." + canonical,
                                          {"blk." + number_ + "." + gguf},
                                          {"model.layers." + number_ + "." + hf},
                                          rows,
                                          cols});
  }
  TensorSpec& vector(const char* canonical, const char* gguf, const char* hf, std::int64_t size) {
    return matrix(canonical, gguf, hf, 0, size);
  }
  void experts() {
    if (c_.architecture == Architecture::granitemoe) {
      matrix("router", "ffn_gate_inp.weight", "block_sparse_moe.router.layer.weight", c_.n_experts, c_.dim);
      const char* input = "block_sparse_moe.input_linear.weight";  // gate and up of each expert
      const std::int64_t both = 2 * c_.expert_hidden_dim;
      of_experts("w_gate_experts", "ffn_gate_exps.weight", input, c_.expert_hidden_dim, c_.dim)
          .hugging_face.stored_rows = both;
      TensorSpec& up = of_experts("w_up_experts", "ffn_up_exps.weight", input, c_.expert_hidden_dim, c_.dim);
      up.hugging_face.first_row = c_.expert_hidden_dim;
      up.hugging_face.stored_rows = both;
      of_experts("w_down_experts", "ffn_down_exps.weight", "block_sparse_moe.output_linear.weight", c_.dim,
                 c_.expert_hidden_dim);
      return;
    }
    const bool mixtral = c_.architecture == Architecture::llama;
    const std::string at = mixtral ? "block_sparse_moe." : "mlp.", of = at + "experts.{}.";
    const auto name = [&](const char* usual, const char* of_mixtral) { return of + (mixtral ? of_mixtral : usual); };
    matrix("router", "ffn_gate_inp.weight", at + "gate.weight", c_.n_experts, c_.dim);
    of_experts("w_gate_experts", "ffn_gate_exps.weight", name("gate_proj.weight", "w1.weight"), c_.expert_hidden_dim,
               c_.dim);
    of_experts("w_up_experts", "ffn_up_exps.weight", name("up_proj.weight", "w3.weight"), c_.expert_hidden_dim, c_.dim);
    of_experts("w_down_experts", "ffn_down_exps.weight", name("down_proj.weight", "w2.weight"), c_.dim,
               c_.expert_hidden_dim);
    if (c_.hidden_dim == 0) return;
    matrix("w_gate", "ffn_gate_shexp.weight", "mlp.shared_expert.gate_proj.weight", c_.hidden_dim, c_.dim);
    matrix("w_up", "ffn_up_shexp.weight", "mlp.shared_expert.up_proj.weight", c_.hidden_dim, c_.dim);
    matrix("w_down", "ffn_down_shexp.weight", "mlp.shared_expert.down_proj.weight", c_.dim, c_.hidden_dim);
    matrix("shared_router", "ffn_gate_inp_shexp.weight", "mlp.shared_expert_gate.weight", 1, c_.dim);
  }
  // gpt-oss: gate and up are every other row of one tensor in Hugging Face's folders, where matrices of floats lie
  // transposed; as MXFP4 they are in two tensors of other names (io/convert/hf_source.cpp).
  void biased_experts() {
    const std::int64_t hidden = c_.expert_hidden_dim;
    matrix("router", "ffn_gate_inp.weight", "mlp.router.weight", c_.n_experts, c_.dim);
    vector("router_bias", "ffn_gate_inp.bias", "mlp.router.bias", c_.n_experts);
    const auto half = [&](TensorSpec& spec, std::int64_t first) {
      spec.hugging_face.first_row = first;
      spec.hugging_face.row_step = 2;
      spec.hugging_face.stored_rows = 2 * hidden;
    };
    const char *both = "mlp.experts.gate_up_proj", *both_bias = "mlp.experts.gate_up_proj_bias";
    half(transposed(of_experts("w_gate_experts", "ffn_gate_exps.weight", both, hidden, c_.dim)), 0);
    half(transposed(of_experts("w_up_experts", "ffn_up_exps.weight", both, hidden, c_.dim)), 1);
    transposed(of_experts("w_down_experts", "ffn_down_exps.weight", "mlp.experts.down_proj", c_.dim, hidden));
    half(list_of_experts("b_gate_experts", "ffn_gate_exps.bias", both_bias, hidden), 0);
    half(list_of_experts("b_up_experts", "ffn_up_exps.bias", both_bias, hidden), 1);
    list_of_experts("b_down_experts", "ffn_down_exps.bias", "mlp.experts.down_proj_bias", c_.dim);
  }
  static TensorSpec& transposed(TensorSpec& spec) {
    spec.hugging_face.transposed = true;
    return spec;
  }
  // A vector with `size` elements for each expert.
  TensorSpec& list_of_experts(const char* canonical, const char* gguf, const char* hf, std::int64_t size) {
    TensorSpec& spec = vector(canonical, gguf, hf, c_.n_experts * size);
    spec.parts = c_.n_experts;
    return spec;
  }
  // rows and cols of one expert.
  TensorSpec& of_experts(const char* canonical, const char* gguf, const std::string& hf, std::int64_t rows,
                         std::int64_t cols) {
    TensorSpec& spec = matrix(canonical, gguf, hf, c_.n_experts * rows, cols);
    spec.parts = c_.n_experts;
    return spec;
  }
  // Rows [first, first + rows) of a stored matrix of `all` rows.
  void part(const char* canonical, const char* gguf, const char* hf, std::int64_t first, std::int64_t rows,
            std::int64_t all) {
    TensorSpec& spec = matrix(canonical, gguf, hf, rows, c_.dim);
    for (StoredPlace* place : {&spec.gguf, &spec.hugging_face}) {
      place->first_row = first;
      place->stored_rows = all;
    }
  }

  const ModelConfig& c_;
  std::string number_;
  std::vector<TensorSpec>& specs_;
};

}  // namespace

std::vector<TensorSpec> tensor_specs(const ModelConfig& c) {
  std::vector<TensorSpec> specs;
  specs.push_back({"embed", {"token_embd.weight"}, {"model.embed_tokens.weight"}, c.vocab_size, c.dim});
  for (std::int64_t layer = 0; layer < c.n_layers; ++layer) {
    LayerSpecs of_layer(c, layer, specs);
    of_layer.attention();
    of_layer.feed_forward();
  }
  specs.push_back({"output_norm", {"output_norm.weight"}, {"model.norm.weight"}, 0, c.dim});
  if (!c.tied_embeddings) specs.push_back({"output", {"output.weight"}, {"lm_head.weight"}, c.vocab_size, c.dim});
  if (c.architecture == Architecture::gemma2 || c.architecture == Architecture::gemma3) {
    for (TensorSpec& spec : specs) spec.stored_less_one = spec.rows == 0;  // all its vectors are norms
  }
  return specs;
}

}  // namespace jupiter

// Views of a model's weights as the forward pass reads them. Whoever maps the shards (io/model/model_files.hpp) owns
// the bytes.
#pragma once

#include "io/model/model_config.hpp"
#include "io/model/packed.hpp"

namespace jupiter {

// One transformer layer. Absent parts are null (vectors) or have no data (matrices).
struct LayerWeights {
  LayerKind kind;
  const float* attn_norm = nullptr;           // [dim]
  PackedMatrix wq;                            // [q_dim][dim], rows in half-split rotary order
  PackedMatrix wk, wv;                        // [kv_dim][dim]
  PackedMatrix wo;                            // [dim][q_dim]
  const float* bq = nullptr;                  // [q_dim]
  const float* bk = nullptr;                  // [kv_dim]
  const float* bv = nullptr;                  // [kv_dim]
  const float* bo = nullptr;                  // [dim]
  const float* sinks = nullptr;               // [n_heads]
  const float* q_norm = nullptr;              // [head_dim]
  const float* k_norm = nullptr;              // [head_dim]
  const float* attn_post_norm = nullptr;      // [dim]
  const float* ffn_norm = nullptr;            // [dim]
  PackedMatrix w_gate, w_up;                  // [hidden_dim][dim]
  PackedMatrix w_down;                        // [dim][hidden_dim]
  PackedMatrix router;                        // [n_experts][dim], f32
  PackedMatrix w_gate_experts, w_up_experts;  // [n_experts * expert_hidden_dim][dim], one expert after the other
  PackedMatrix w_down_experts;                // [n_experts * dim][expert_hidden_dim]
  PackedMatrix shared_router;                 // [1][dim], f32
  const float* router_bias = nullptr;         // [n_experts]
  const float* b_gate_experts = nullptr;      // [n_experts * expert_hidden_dim], as all of w_up_experts' rows
  const float* b_up_experts = nullptr;        // [n_experts * expert_hidden_dim]
  const float* b_down_experts = nullptr;      // [n_experts * dim]
  const float* ffn_post_norm = nullptr;       // [dim]
};

struct OutputHeadWeights {
  const float* norm = nullptr;  // [dim]
  PackedMatrix output;          // [vocab_size][dim]; the embedding where they are tied
};

}  // namespace jupiter

// The feed-forward part of a layer: its gate, and the mixture of experts. A router ranks the experts for each row, and
// a row is the sum of those that it ranks first. Rows that use the same expert are computed together.
#pragma once

#include <vector>

#include "io/model/weights.hpp"
#include "kernels/linear.hpp"
#include "kernels/tensor_group.hpp"

namespace jupiter {

// gate = activation(gate) * up
void gate_rows(const Runtime& rt, Activation activation, MatrixView<float> gate, MatrixView<const float> up);

// Which experts the rows of a batch use. Entry i * used + r is the choice of row i that its router ranks r-th.
struct Routing {
  // Entries of one expert, in the order of the rows.
  struct Group {
    std::int64_t expert = 0;
    std::int64_t first = 0;  // of the places below
    std::int64_t rows = 0;
  };
  std::vector<std::int64_t> expert;  // by entry
  std::vector<float> weight;         // by entry
  std::vector<std::int64_t> place;   // by entry: its row among those of all groups
  std::vector<Group> groups;         // by rising expert; those without rows are left out
};

// The `used` experts with the largest logits, the largest first and equal ones by rising index; their weights are the
// softmax over all experts or, normalised, over those used. logits: [rows][n_experts].
Routing route(const KernelTable& kernels, MatrixView<const float> logits, std::int64_t used, bool normalised);

// Work space, made once for the largest batch; empty for models without experts.
class ExpertScratch {
 public:
  ExpertScratch(const ModelConfig& config, const TensorSlice& slice, std::int64_t max_rows);
  std::size_t bytes() const;

  Buffer<float> logits;         // [rows][n_experts]
  Buffer<float> shared_weight;  // [rows]
  Buffer<float> grouped;        // [rows * used][dim], by place; then what the experts give
  Buffer<float> hidden;         // [rows * used][expert_hidden_dim]
  Buffer<float> up;             // [rows * used][rows of the slice]
  QuantizedBuffer integers;     // of grouped or hidden
};

// branch += sum of the experts of each row, in the order of its router's ranking; only this board's columns
// (feed_forward_out) of it. normed: [rows][dim].
void add_experts(const Runtime& rt, const ModelConfig& config, const TensorGroup& group, const LayerWeights& weights,
                 MatrixView<const float> normed, MatrixView<float> branch, ExpertScratch& scratch);

// branch's rows times the sigmoid of what the gate of the shared expert makes of `normed`.
void weigh_shared_expert(const Runtime& rt, const LayerWeights& weights, MatrixView<const float> normed,
                         MatrixView<float> branch, ExpertScratch& scratch);

}  // namespace jupiter

// Grouped-query attention of a batch of rows over the KV cache.
#pragma once

#include <algorithm>
#include <vector>

#include "io/model/tensor_slice.hpp"
#include "kernels/runtime.hpp"
#include "kernels/token_tree.hpp"

namespace jupiter {

// Rows of a batch that belong to one sequence: either consecutive positions, or rows of its tree. Their keys and values
// are in the cache already.
struct RowRun {
  const Sequence* sequence = nullptr;
  std::int64_t first_position = 0;
  std::int64_t rows = 0;
  std::vector<TreeRow> tree = {};  // [rows], or empty for consecutive positions

  std::int64_t position(std::int64_t i) const { return tree.empty() ? first_position + i : tree[i].position; }
  Slot slot(std::int64_t i) const { return tree.empty() ? sequence->home(first_position + i) : tree[i].slot; }
};

// The heads of one board. A board alone has all of them; in a tensor group a key-value head may have a part of its
// group of query heads.
struct AttentionShape {
  IndexRange heads;        // query heads, numbered as in the model
  IndexRange kv_heads;     // that the cache holds
  std::int64_t group = 1;  // query heads of the model that share a key-value head
  std::int64_t head_dim = 0;
  std::int64_t window = 0;  // positions that a row attends to, its own included; 0: all up to its own
  float scale = 1;          // of scores
  float softcap = 0;        // of scores; 0: none
  // [heads.size()], of this board's heads: a score that takes part in the softmax of every row, without a value
  // (gpt-oss; Xiao et al. 2023). Null: none.
  const float* sinks = nullptr;

  // The query heads of key-value head h of this board (from 0 on), counted from this board's first one.
  IndexRange heads_of(std::int64_t h) const {
    const std::int64_t of_model = (kv_heads.first + h) * group;
    const std::int64_t first = std::clamp(of_model, heads.first, heads.last);
    return {first - heads.first, std::clamp(of_model + group, first, heads.last) - heads.first};
  }
};
AttentionShape attention_shape(const ModelConfig& config, const TensorSlice& slice, const LayerKind& kind = {},
                               const float* sinks = nullptr);

// Per-thread work space, made once for the longest tile.
class AttentionScratch {
 public:
  AttentionScratch(const AttentionShape& shape, int threads);

  static constexpr std::int64_t kTilePositions = 16;  // rows of a run that share each loaded block

  struct PerThread {
    Buffer<float> keys, values;          // a block as f32
    Buffer<float> own_keys, own_values;  // the same block with the slots of one tree row's own path
    Buffer<float> queries, outputs;      // [tile rows][head_dim]
    Buffer<float> max, sums;             // [tile rows], [tile rows][16]
    Buffer<std::int32_t> first, end;     // [tile rows]: visible lanes
  };
  PerThread& of(int thread) { return threads_[thread]; }
  std::size_t bytes() const;

 private:
  std::vector<PerThread> threads_;
};

// q, out: [rows of all runs][heads.size() * head_dim]. A row at position p attends to positions max(0, p - window + 1)
// .. p; of positions that are not committed it takes those of its own path through the tree. The bits of the result
// depend neither on how rows are batched nor on threads (kernels/README.md).
void attend(const Runtime& rt, const KvCache& cache, std::int64_t layer, const std::vector<RowRun>& runs,
            const AttentionShape& shape, MatrixView<const float> q, MatrixView<float> out, AttentionScratch& scratch);

}  // namespace jupiter

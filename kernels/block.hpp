// The transformer block and the two ends of the model: embedding lookup and output head.
#pragma once

#include <vector>

#include "io/model/weights.hpp"
#include "kernels/attention.hpp"
#include "kernels/feed_forward.hpp"
#include "kernels/linear.hpp"
#include "kernels/rope.hpp"

namespace jupiter {

// Work space of a forward pass, made once for the largest batch. It has about rows * (3 dim + 2 hidden + ...) floats.
// What the boards of a group gather is as wide as in the model, the rest as wide as the slice.
class BlockScratch {
 public:
  BlockScratch(const ModelConfig& config, const TensorSlice& slice, std::int64_t max_rows, int threads);
  std::int64_t max_rows() const { return max_rows_; }
  std::size_t bytes() const;

  MatrixView<float> view(Buffer<float>& buffer, std::int64_t rows, std::int64_t cols) const {
    return {buffer.data(), rows, cols};
  }
  Buffer<float> normed, q, k, v, attended, projected, gate, up;
  LinearInput input;
  AttentionScratch attention;
  ExpertScratch experts;

 private:
  std::int64_t max_rows_;
};

struct BlockContext {
  const Runtime& rt;
  const ModelConfig& config;
  KvCache& cache;
  RopeTables& rope;  // extended to all positions of the batch
  BlockScratch& scratch;
  const TensorGroup& group;
};

// One layer over the residual x [rows of all runs][dim], in place, rounded to config.residual at the end. `layer` is
// the layer's index in this stage's cache. In a group every board has all of x, computes the rows of its slice, and
// gathers what the others computed. RunError where a value leaves the range of the residual or of the cache.
void forward_block(const BlockContext& context, const LayerWeights& weights, std::int64_t layer,
                   const std::vector<RowRun>& runs, MatrixView<float> x);

// x[i] = embedding of tokens[i], rounded to config.residual. The ids are below vocab_size.
void embed(const BlockContext& context, const PackedMatrix& embedding, std::span<const std::int32_t> tokens,
           MatrixView<float> x);

// Returns x[rows[i]] after the final norm. It lies in the scratch until the next use of that.
MatrixView<const float> final_norm(const BlockContext& context, const OutputHeadWeights& weights,
                                   MatrixView<const float> x, std::span<const std::int64_t> rows);
// logits[i] = output head of final_norm(x[rows[i]]), [rows of the weights]. Returns the rows after the final norm, as
// final_norm() does.
MatrixView<const float> forward_output_head(const BlockContext& context, const OutputHeadWeights& weights,
                                            MatrixView<const float> x, std::span<const std::int64_t> rows,
                                            MatrixView<float> logits);

}  // namespace jupiter

// Draft heads at work: small networks that draft from the hidden row which decided the newest token.
// io/model/draft_heads.hpp has their formulas, parallel/train their training.
#pragma once

#include <functional>

#include "io/model/draft_file.hpp"
#include "kernels/linear.hpp"
#include "parallel/draft/neural_drafter.hpp"

namespace jupiter {

// A matrix that is packed for products with single rows: as q8, or as f32 where its columns are no multiple of a group.
class PackedRows {
 public:
  // fill(row, out) writes one row of `cols` values.
  PackedRows(std::int64_t rows, std::int64_t cols, const std::function<void(std::int64_t row, float* out)>& fill);
  const PackedMatrix& matrix() const { return matrix_; }

 private:
  Buffer<std::byte> bytes_;
  PackedMatrix matrix_;
};

// output: the model's output head, [vocab_size][dim]. It must outlive what is made, as must what `rt` refers to.
std::unique_ptr<NeuralDrafterFactory> sequential_head_drafters(const Runtime& rt, const SequentialHead& head,
                                                               const PackedMatrix& output);
std::unique_ptr<NeuralDrafterFactory> medusa_head_drafters(const Runtime& rt, const MedusaHeads& heads,
                                                           std::int64_t dim);

}  // namespace jupiter

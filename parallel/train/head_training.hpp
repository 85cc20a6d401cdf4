// Training of a sequential draft head: loss, gradient and AdamW, on one rank. Products go through the row-invariant
// f32 kernels, random numbers are keyed by step and position: the same on any number of threads.
#pragma once

#include <array>
#include <span>
#include <vector>

#include "io/model/draft_heads.hpp"
#include "kernels/linear.hpp"

namespace jupiter {

inline constexpr std::int64_t kHeadDepths = 3;  // steps that a head is unrolled in training

// Stretches of answers. Row r: the model's hidden row, the token that it decided, and that token's row of the output
// head. A span of n starts has n + kHeadDepths rows: those behind say what is right further down.
struct HeadBatch {
  struct Span {
    std::int64_t first_row = 0;
    std::int64_t starts = 0;
    std::int64_t number = 0;  // of its first start in the whole batch, whoever computes it: random numbers hang on it
  };
  std::vector<Span> spans;
  std::int64_t dim = 0;
  std::vector<float> hidden;          // [rows][dim]
  std::vector<float> embedded;        // [rows][dim]
  std::vector<std::int32_t> decided;  // [rows]: index in the draft vocabulary; -1: not in it
};

// What a batch says about a head; sums, so that those of ranks can be added.
struct HeadScore {
  double loss = 0;  // cross entropy, nats, over `counted`
  double counted = 0;
  std::array<double, kHeadDepths> right{}, tried{};
  void add(const HeadScore& other);
};

struct HeadTrainingOptions {
  double rate = 1.5e-3;  // highest; rises over warm_up steps, then falls as a cosine
  double warm_up = 50;
  double dropout = 0.1;  // of the hidden units
  double decay = 0.01;   // of weights, not of b1 and gain
  std::int64_t steps = 0;
  std::uint64_t seed = 1;
};

// Weights to begin with: a head that keeps the state as it is. gain: mean size of the model's hidden rows.
std::vector<float> initial_head(const HeadShape& shape, float gain, std::uint64_t seed);

class HeadTrainer {
 public:
  // output: [draft vocabulary][dim], rows of the model's output head; they are never changed.
  HeadTrainer(const Runtime& rt, const HeadShape& shape, std::vector<float> output, const HeadTrainingOptions& options);

  // Adds the batch's gradient to gradient(). Targets are the model's own distributions after the rows that follow.
  HeadScore learn(const HeadBatch& batch, std::span<const float> weights, std::int64_t step);
  // The same without dropout and gradient.
  HeadScore score(const HeadBatch& batch, std::span<const float> weights);
  // Of the sum of all losses.
  std::vector<float>& gradient() { return gradient_; }
  // One step of AdamW with gradient() / counted, which is then zero. training.steps rises by one.
  void update(HeadTraining& training, double counted);
  double rate(std::int64_t step) const;

 private:
  struct Depth;
  void prepare(const HeadBatch& batch, std::span<const float> weights);
  void forward(const HeadBatch& batch, std::int64_t depth, Depth& d);
  void keep_units(std::int64_t step, std::int64_t depth, Depth& d) const;
  HeadScore compare(const HeadBatch& batch, std::int64_t depth, Depth& d, bool learning);
  void backward(const Depth& d, std::vector<float>& state_gradient);
  HeadScore pass(const HeadBatch& batch, std::span<const float> weights, std::int64_t step, bool learning);
  // out = x w^T
  void product(const float* x, std::int64_t rows, std::int64_t cols, const Buffer<float>& w, std::int64_t w_rows,
               float* out);

  const Runtime rt_;
  HeadShape shape_;
  std::int64_t vocab_;
  HeadTrainingOptions options_;
  LinearInput input_;
  Buffer<float> output_, output_turned_;  // [vocab][dim], [dim][vocab]; rows padded to 16
  Buffer<float> w1_, w1_turned_, w2_, w2_turned_;
  std::vector<float> b1_, gain_;
  std::vector<std::int64_t> rows_;     // row of each start
  std::vector<std::int64_t> numbers_;  // its number
  std::vector<float> teacher_;         // [rows][vocab]: what the model expects after a row
  std::vector<float> logits_;          // [starts][vocab]
  std::vector<float> gradient_;
};

}  // namespace jupiter

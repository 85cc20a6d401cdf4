// Training of a sequential draft head on one rank: loss, gradient and AdamW. Random numbers are keyed by step and
// position. Matrix products are OpenBLAS's, so the bits of a training depend on processor and threads.
#pragma once

#include <array>
#include <span>
#include <vector>

#include "io/model/draft_heads.hpp"
#include "kernels/runtime.hpp"

namespace jupiter {

inline constexpr std::int64_t kDraftHeadDepths = 3;  // number of steps for which a head is unrolled in training

// Stretches of answers. Row r holds the model's hidden row, the token that this row decided, and that token's row of
// the output head. A span of n starts has n + kDraftHeadDepths rows, because the head predicts so many tokens beyond
// each start.
struct DraftHeadBatch {
  struct Span {
    std::int64_t first_row = 0;
    std::int64_t starts = 0;
    // Number of the span's first start in the whole batch, whichever rank computes it. It keys the random numbers.
    std::int64_t number = 0;
  };
  std::vector<Span> spans;
  std::int64_t dim = 0;
  std::vector<float> hidden;          // [rows][dim]
  std::vector<float> embedded;        // [rows][dim]
  std::vector<std::int32_t> decided;  // [rows]: index in the draft vocabulary, -1 where the token is not in it
};

// What a batch says about a head. All fields are sums, so that the ranks' scores can be added.
struct DraftHeadScore {
  double loss = 0;  // cross entropy in nats, summed over `counted` predictions
  double counted = 0;
  std::array<double, kDraftHeadDepths> right{}, tried{};
  void add(const DraftHeadScore& other);
};

struct DraftHeadTrainingOptions {
  double rate = 1.5e-3;  // highest learning rate; it rises over warm_up steps, then falls as a cosine
  double warm_up = 50;
  double dropout = 0.1;  // probability that a hidden unit is left out
  double decay = 0.01;   // weight decay of w1 and w2; b1 and gain have none
  std::int64_t steps = 0;
  std::uint64_t seed = 1;
};

// The weights to begin with, those of a head that keeps the state as it is. gain is the root mean square of the
// model's hidden rows.
std::vector<float> initial_draft_head(const DraftHeadShape& shape, float gain, std::uint64_t seed);

class DraftHeadTrainer {
 public:
  // output: [draft vocabulary][dim], rows of the model's output head, which training does not change.
  DraftHeadTrainer(const Runtime& rt, const DraftHeadShape& shape, std::vector<float> output,
                   const DraftHeadTrainingOptions& options);

  // Adds the batch's gradient to gradient(). The targets are the model's own distributions after the rows that follow.
  // `step` keys the random numbers of dropout.
  DraftHeadScore learn(const DraftHeadBatch& batch, std::span<const float> weights, std::int64_t step);
  // The same without dropout and gradient.
  DraftHeadScore score(const DraftHeadBatch& batch, std::span<const float> weights);
  // The gradient of the sum of all losses since the last update().
  std::vector<float>& gradient() { return gradient_; }
  // Takes one step of AdamW with gradient() / counted, sets gradient() to zero, and raises training.steps by one.
  void update(DraftHeadTraining& training, double counted);
  double rate(std::int64_t step) const;

 private:
  struct Depth;
  void prepare(const DraftHeadBatch& batch, std::span<const float> weights);
  void forward(const DraftHeadBatch& batch, std::int64_t depth, Depth& d);
  void draw_dropout_mask(std::int64_t step, std::int64_t depth, Depth& d) const;
  DraftHeadScore compare(const DraftHeadBatch& batch, std::int64_t depth, Depth& d, bool learning);
  DraftHeadScore compare_row(std::int32_t right, std::int64_t depth, std::span<const float> expected,
                             std::span<float> logits) const;
  void backward(const Depth& d, std::vector<float>& state_gradient);
  DraftHeadScore pass(const DraftHeadBatch& batch, std::span<const float> weights, std::int64_t step, bool learning);
  std::int64_t starts() const { return std::ssize(rows_); }

  const Runtime rt_;
  DraftHeadShape shape_;
  std::int64_t vocab_;
  DraftHeadTrainingOptions options_;
  std::vector<float> output_;        // [vocab][dim]
  MatrixView<const float> w1_, w2_;  // [units][2 dim], [dim][units]: the weights of this batch
  std::span<const float> b1_, gain_;
  std::vector<std::int64_t> rows_;     // row of each start in the batch
  std::vector<std::int64_t> numbers_;  // number of each start
  std::vector<float> teacher_;         // [rows][vocab]: what the model expects after a row
  std::vector<float> logits_;          // [starts][vocab]
  std::vector<float> gradient_;
};

}  // namespace jupiter

// The mixture of experts against plain loops over one row and one expert at a time: the same bits, whatever rows stand
// beside a row, on every table of kernels and any number of threads.
#include "kernels/feed_forward.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "kernel_testing.hpp"

namespace jupiter {
namespace {

using testing::Floats;
using testing::Random;
using testing::Weights;

constexpr std::int64_t kDim = 64, kHidden = 96, kExperts = 7, kUsed = 3;

ModelConfig config(bool normalised) {
  ModelConfig c;
  c.dim = kDim;
  c.n_heads = 2;
  c.n_kv_heads = 1;
  c.head_dim = 32;
  c.vocab_size = 64;
  c.n_experts = kExperts;
  c.n_experts_used = kUsed;
  c.expert_hidden_dim = kHidden;
  c.normalised_expert_weights = normalised;
  return c;
}

struct Layer {
  Layer(Format format, std::uint64_t seed)
      : router(Format::f32, kExperts, kDim, seed),
        gate(format, kExperts * kHidden, kDim, seed + 1),
        up(format, kExperts * kHidden, kDim, seed + 2),
        down(format, kExperts * kDim, kHidden, seed + 3) {
    weights.router = router.matrix();
    weights.w_gate_experts = gate.matrix();
    weights.w_up_experts = up.matrix();
    weights.w_down_experts = down.matrix();
  }
  Weights router, gate, up, down;
  LayerWeights weights;
};

// One row times the rows of one expert, with the reference kernels.
std::vector<float> expert_product(const PackedMatrix& all, std::int64_t expert, std::vector<float> x) {
  const std::int64_t rows = all.rows / kExperts;
  const PackedMatrix w = all.slice(expert * rows, (expert + 1) * rows);
  std::vector<float> out(static_cast<std::size_t>(rows));
  const MatrixView<const float> in(x.data(), 1, w.cols);
  if (is_float(w.format)) {
    reference_kernels().matmul_float(w, {0, w.panels()}, in, {out.data(), 1, rows});
  } else {
    QuantizedBuffer buffer(1, w.cols);
    reference_kernels().quantize_rows(in, buffer.view(1, w.cols));
    reference_kernels().matmul_quantized(w, {0, w.panels()}, buffer.view(1, w.cols), {out.data(), 1, rows});
  }
  return out;
}

// What add_experts() is to do, for one row.
void add_experts_plainly(const Layer& layer, bool normalised, const float* x, float* sum) {
  const KernelTable& k = reference_kernels();
  const std::vector<float> in(x, x + kDim);
  std::vector<float> logits(kExperts);
  k.matmul_float(layer.router.matrix(), {0, 1}, {in.data(), 1, kDim}, {logits.data(), 1, kExperts});
  std::vector<std::int64_t> ranked(kExperts);
  for (std::size_t e = 0; e < ranked.size(); ++e) ranked[e] = static_cast<std::int64_t>(e);
  std::stable_sort(ranked.begin(), ranked.end(), [&](auto a, auto b) { return logits[a] > logits[b]; });
  std::vector<float> powers(logits);
  for (float& p : powers) p -= logits[ranked[0]];
  k.exponential(powers.data(), kExperts, powers.data());
  ranked.resize(kUsed);
  float total = 0;
  for (std::int64_t e = 0; e < kExperts && !normalised; ++e) total += powers[e];
  for (const std::int64_t e : ranked) total += normalised ? powers[e] : 0.0f;
  for (const std::int64_t e : ranked) {
    std::vector<float> gate = expert_product(layer.gate.matrix(), e, in);
    const std::vector<float> up = expert_product(layer.up.matrix(), e, in);
    k.swiglu(gate.data(), up.data(), kHidden, gate.data());
    const std::vector<float> out = expert_product(layer.down.matrix(), e, gate);
    for (std::int64_t i = 0; i < kDim; ++i) sum[i] += powers[e] / total * out[i];
  }
}

TEST(Experts, HaveTheBitsOfOneRowAndOneExpertAtATime) {
  for (const Format format : {Format::f32, Format::bf16, Format::q4, Format::q8}) {
    const Layer layer(format, 5);
    for (const bool normalised : {false, true}) {
      const ModelConfig c = config(normalised);
      for (const std::int64_t rows : {1, 2, 19, 40}) {
        Random random(static_cast<std::uint64_t>(rows));
        const Floats x(random, rows * kDim, 0, -2.0f, 2.0f), before(random, rows * kDim, 0, -1.0f, 1.0f);
        Floats expected(rows * kDim, 0);
        std::copy_n(before.data(), rows * kDim, expected.data());
        for (std::int64_t i = 0; i < rows; ++i) {
          add_experts_plainly(layer, normalised, x.data() + i * kDim, expected.data() + i * kDim);
        }
        for (const KernelTable* table : available_kernels()) {
          for (const int threads : {1, 3}) {
            ThreadPool pool({.threads = threads, .share_cores = true});
            const TensorGroup alone(c);
            ExpertScratch scratch(c, alone.mine(), rows);
            Floats found(rows * kDim, 0);
            std::copy_n(before.data(), rows * kDim, found.data());
            add_experts({*table, pool}, c, alone, layer.weights, {x.data(), rows, kDim}, {found.data(), rows, kDim},
                        scratch);
            EXPECT_TRUE(testing::same_bits(expected, found)) << table->name << " " << rows << " " << threads;
          }
        }
      }
    }
  }
}

TEST(Experts, AreRankedByLogitAndThenByIndex) {
  const std::vector<float> logits = {1, 3, 3, -2, 3, 0,  // a row with equal ones
                                     5, 4, 3, 2,  1, 0};
  const Routing all = route(reference_kernels(), {logits.data(), 2, 6}, 3, false);
  EXPECT_EQ(all.expert, (std::vector<std::int64_t>{1, 2, 4, 0, 1, 2}));
  EXPECT_EQ(all.weight[0], all.weight[2]);
  double total = 0;
  for (int e = 0; e < 6; ++e) total += std::exp(static_cast<double>(logits[6 + e]) - 5);
  EXPECT_NEAR(all.weight[4], std::exp(-1.0) / total, 1e-6);
  const Routing used = route(reference_kernels(), {logits.data(), 2, 6}, 3, true);
  EXPECT_NEAR(used.weight[0], 1.0 / 3, 1e-6);
  EXPECT_NEAR(used.weight[3] + used.weight[4] + used.weight[5], 1.0, 1e-6);
  // By expert, then by row: expert 0 has the second row, expert 1 both.
  EXPECT_EQ(all.place, (std::vector<std::int64_t>{1, 3, 5, 0, 2, 4}));
  ASSERT_EQ(all.groups.size(), 4u);
  EXPECT_EQ(all.groups[1].expert, 1);
  EXPECT_EQ(all.groups[1].first, 1);
  EXPECT_EQ(all.groups[1].rows, 2);
}

}  // namespace
}  // namespace jupiter

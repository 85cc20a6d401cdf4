// Forward and backward pass of the head, written out. The gradient of the state travels from the last depth to the
// first. io/model/draft_heads.hpp has the formula of a step.
#include "parallel/train/draft_head_training.hpp"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "kernels/sampler.hpp"
#include "kernels/softmax.hpp"

namespace jupiter {

namespace {

constexpr float kNormEps = 1e-6f;
constexpr double kBeta1 = 0.9, kBeta2 = 0.98, kAdamEps = 1e-8;
constexpr double kClipNorm = 1.0;    // a gradient with a larger norm is scaled down to this norm
constexpr double kFinalRate = 0.05;  // share of the highest rate that is left at the end of the cosine

std::int64_t padded(std::int64_t rows) {
  return (rows + kPanelRows - 1) / kPanelRows * kPanelRows;
}

Buffer<float> padded_matrix(std::int64_t rows, std::int64_t cols) {
  return Buffer<float>(padded(rows) * cols);
}

// out [cols][rows] = in [rows][cols]
void transpose(const Runtime& rt, const float* in, std::int64_t rows, std::int64_t cols, Buffer<float>& out) {
  constexpr std::int64_t tile = 32;
  for_rows(rt, (cols + tile - 1) / tile, 1, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t c0 = first * tile; c0 < std::min(cols, last * tile); c0 += tile) {
      for (std::int64_t r0 = 0; r0 < rows; r0 += tile) {
        for (std::int64_t c = c0; c < std::min(cols, c0 + tile); ++c) {
          float* to = out.data() + c * rows;
          for (std::int64_t r = r0; r < std::min(rows, r0 + tile); ++r) to[r] = in[r * cols + c];
        }
      }
    }
  });
}

// y = x / rms(x) with rms(x) = sqrt(mean(x^2) + eps). Returns 1 / rms(x).
float rms_normalise(const float* x, std::int64_t n, float* y) {
  double sum = 0;
  for (std::int64_t i = 0; i < n; ++i) sum += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  const auto inverse = static_cast<float>(1 / std::sqrt(sum / static_cast<double>(n) + static_cast<double>(kNormEps)));
  for (std::int64_t i = 0; i < n; ++i) y[i] = x[i] * inverse;
  return inverse;
}

// The gradient dx of y = rms_normalise(x) from dy; inverse is 1 / rms(x):
//   dx = (dy - y mean(dy y)) / rms(x)
void rms_normalise_backward(const float* y, float inverse, const float* dy, std::int64_t n, float* dx) {
  double dot = 0;
  for (std::int64_t i = 0; i < n; ++i) dot += static_cast<double>(dy[i]) * static_cast<double>(y[i]);
  const auto mean = static_cast<float>(dot / static_cast<double>(n));
  for (std::int64_t i = 0; i < n; ++i) dx[i] = (dy[i] - y[i] * mean) * inverse;
}

// Turns logits into probabilities in place. Returns the logarithm of the sum of their exponentials.
double softmax(const KernelTable& kernels, float* x, std::int64_t n) {
  const std::span<float> row(x, static_cast<std::size_t>(n));
  const float most = largest(row);
  const double sum = exponentials(kernels, row, most, row);
  const auto inverse = static_cast<float>(1 / sum);
  for (std::int64_t i = 0; i < n; ++i) x[i] *= inverse;
  return static_cast<double>(most) + std::log(sum);
}

}  // namespace

// What the backward pass needs of one step of the unrolled head. n is the number of starts.
struct DraftHeadTrainer::Depth {
  std::vector<float> in;                   // [n][2 dim]: rms_normalise(previous state), rms_normalise(embedded)
  std::vector<float> pre_activation;       // [n][units]: w1 in + b1
  std::vector<float> dropout_mask;         // [n][units]: 0 or 1 / (1 - dropout); empty without dropout
  std::vector<float> units;                // [n][units]: silu(pre_activation) * dropout_mask
  std::vector<float> sum;                  // [n][dim]: rms_normalise(rms_normalise(previous state) + w2 units)
  std::vector<float> state;                // [n][dim]: gain * sum
  std::vector<float> state_gradient;       // [n][dim], of this depth's loss alone
  std::vector<float> in_scale, sum_scale;  // [n]: 1 / rms of the previous state, and of the sum before normalising
};

void DraftHeadScore::add(const DraftHeadScore& other) {
  loss += other.loss;
  counted += other.counted;
  for (std::size_t i = 0; i < right.size(); ++i) {
    right[i] += other.right[i];
    tried[i] += other.tried[i];
  }
}

std::vector<float> initial_draft_head(const DraftHeadShape& s, float gain, std::uint64_t seed) {
  std::vector<float> weights(s.size());
  const double limit = std::sqrt(3.0 / static_cast<double>(2 * s.dim));  // of a uniform: the variance keeps its size
  for (std::int64_t i = 0; i < s.w1(); ++i) {
    weights[i] = static_cast<float>(limit * (2 * uniform(seed, i, 0) - 1));
  }
  // w2 is zero: the head begins as what it must improve on.
  std::fill(weights.begin() + s.gain_at(), weights.end(), gain);
  return weights;
}

DraftHeadTrainer::DraftHeadTrainer(const Runtime& rt, const DraftHeadShape& shape, std::vector<float> output,
                                   const DraftHeadTrainingOptions& options)
    : rt_(rt),
      shape_(shape),
      vocab_(std::ssize(output) / shape.dim),
      options_(options),
      input_(1, kGroupCols),
      output_(padded_matrix(vocab_, shape.dim)),
      output_transposed_(padded_matrix(shape.dim, vocab_)),
      w1_(padded_matrix(shape.units, 2 * shape.dim)),
      w1_transposed_(padded_matrix(2 * shape.dim, shape.units)),
      w2_(padded_matrix(shape.dim, shape.units)),
      w2_transposed_(padded_matrix(shape.units, shape.dim)),
      gradient_(shape.size()) {
  std::copy(output.begin(), output.end(), output_.begin());
  transpose(rt_, output_.data(), vocab_, shape_.dim, output_transposed_);
}

void DraftHeadTrainer::product(const float* x, std::int64_t rows, std::int64_t cols, const Buffer<float>& w,
                               std::int64_t w_rows, float* out) {
  if (rows == 0) return;
  const PackedMatrix matrix{Format::f32, w_rows, cols, reinterpret_cast<const std::byte*>(w.data())};
  multiply(rt_, input_, MatrixView<const float>(x, rows, cols), std::array{Product{matrix, {out, rows, w_rows}}});
}

// Prepares the weights as the products read them, the list of starts, and what the model expects after each row.
void DraftHeadTrainer::prepare(const DraftHeadBatch& batch, std::span<const float> weights) {
  const float* w = weights.data();
  std::copy(w, w + shape_.w1(), w1_.begin());
  b1_.assign(w + shape_.b1_at(), w + shape_.w2_at());
  std::copy(w + shape_.w2_at(), w + shape_.gain_at(), w2_.begin());
  gain_.assign(w + shape_.gain_at(), w + shape_.size());
  transpose(rt_, w1_.data(), shape_.units, 2 * shape_.dim, w1_transposed_);
  transpose(rt_, w2_.data(), shape_.dim, shape_.units, w2_transposed_);
  rows_.clear();
  numbers_.clear();
  for (const DraftHeadBatch::Span& s : batch.spans) {
    for (std::int64_t i = 0; i < s.starts; ++i) {
      rows_.push_back(s.first_row + i);
      numbers_.push_back(s.number + i);
    }
  }
  const auto rows = std::ssize(batch.decided);
  teacher_.resize(rows * vocab_);
  product(batch.hidden.data(), rows, shape_.dim, output_, vocab_, teacher_.data());
  for_rows(rt_, rows, 4, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t r = first; r < last; ++r) softmax(rt_.kernels, teacher_.data() + r * vocab_, vocab_);
  });
}

// On entry d.in's first half holds the previous state, which is not normalised yet.
void DraftHeadTrainer::forward(const DraftHeadBatch& batch, std::int64_t depth, Depth& d) {
  const std::int64_t dim = shape_.dim, units = shape_.units, n = std::ssize(rows_);
  const auto size = [&](std::int64_t cols) { return static_cast<std::size_t>(n * cols); };
  d.pre_activation.resize(size(units));
  d.sum.resize(size(dim));
  d.state.resize(size(dim));
  d.in_scale.resize(size(1));
  d.sum_scale.resize(size(1));
  for_rows(rt_, n, 4, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t i = first; i < last; ++i) {
      float* in = d.in.data() + i * 2 * dim;
      d.in_scale[i] = rms_normalise(in, dim, in);
      rms_normalise(batch.embedded.data() + (rows_[i] + depth) * dim, dim, in + dim);
    }
  });
  product(d.in.data(), n, 2 * dim, w1_, units, d.pre_activation.data());
  d.units.resize(size(units));
  for_rows(rt_, n, 4, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t i = first; i < last; ++i) {
      float* x = d.pre_activation.data() + i * units;
      float* out = d.units.data() + i * units;
      for (std::int64_t u = 0; u < units; ++u) {
        x[u] += b1_[u];
        out[u] = x[u] / (1 + std::exp(-x[u]));  // silu
        if (!d.dropout_mask.empty()) out[u] *= d.dropout_mask[i * units + u];
      }
    }
  });
  product(d.units.data(), n, units, w2_, dim, d.sum.data());
  for_rows(rt_, n, 4, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t i = first; i < last; ++i) {
      float* sum = d.sum.data() + i * dim;
      float* state = d.state.data() + i * dim;
      for (std::int64_t k = 0; k < dim; ++k) sum[k] += d.in[i * 2 * dim + k];
      d.sum_scale[i] = rms_normalise(sum, dim, sum);
      for (std::int64_t k = 0; k < dim; ++k) state[k] = sum[k] * gain_[k];
    }
  });
}

void DraftHeadTrainer::draw_dropout_mask(std::int64_t step, std::int64_t depth, Depth& d) const {
  if (options_.dropout <= 0) return;
  const std::int64_t units = shape_.units, n = std::ssize(rows_);
  d.dropout_mask.resize(n * units);
  const auto factor = static_cast<float>(1 / (1 - options_.dropout));
  const std::uint64_t seed = options_.seed + 0x9e3779b97f4a7c15ull * static_cast<std::uint64_t>(step + 1);
  for_rows(rt_, n, 4, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t i = first; i < last; ++i) {
      const std::int64_t key = numbers_[i] * kDraftHeadDepths + depth;
      for (std::int64_t u = 0; u < units; ++u) {
        const bool dropped = uniform(seed, key, static_cast<std::uint32_t>(u)) < options_.dropout;
        d.dropout_mask[i * units + u] = dropped ? 0 : factor;
      }
    }
  });
}

// Loss and hits of a depth. While learning it also fills d.state_gradient.
DraftHeadScore DraftHeadTrainer::compare(const DraftHeadBatch& batch, std::int64_t depth, Depth& d, bool learning) {
  const auto n = std::ssize(rows_);
  logits_.resize(n * vocab_);
  product(d.state.data(), n, shape_.dim, output_, vocab_, logits_.data());
  std::vector<DraftHeadScore> scores(n);
  for_rows(rt_, n, 4, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t i = first; i < last; ++i) {
      DraftHeadScore& score = scores[i];
      float* row = logits_.data() + i * vocab_;
      const std::int64_t next = rows_[i] + depth + 1;
      const std::int32_t right = batch.decided[next];
      const float* expected = teacher_.data() + next * vocab_;
      score.tried[depth] = 1;
      if (right < 0) {  // the draft vocabulary has no answer
        std::fill(row, row + vocab_, 0.0f);
        continue;
      }
      double dot = 0;
      for (std::int64_t v = 0; v < vocab_; ++v) dot += static_cast<double>(expected[v]) * static_cast<double>(row[v]);
      score.right[depth] = std::max_element(row, row + vocab_) == row + right ? 1 : 0;
      score.loss = softmax(rt_.kernels, row, vocab_) - dot;
      score.counted = 1;
      for (std::int64_t v = 0; v < vocab_; ++v) row[v] -= expected[v];
    }
  });
  DraftHeadScore sum;
  for (const DraftHeadScore& s : scores) sum.add(s);
  if (!learning) return sum;
  d.state_gradient.resize(n * shape_.dim);
  product(logits_.data(), n, vocab_, output_transposed_, shape_.dim, d.state_gradient.data());
  return sum;
}

// state_gradient holds on entry what the later depths' losses say about this depth's state (empty at the last depth),
// and on return the gradient of the previous state.
void DraftHeadTrainer::backward(const Depth& d, std::vector<float>& state_gradient) {
  const std::int64_t dim = shape_.dim, units = shape_.units, n = std::ssize(rows_);
  const auto size = [&](std::int64_t cols) { return static_cast<std::size_t>(n * cols); };
  if (state_gradient.empty()) state_gradient.assign(size(dim), 0);
  for (std::size_t i = 0; i < size(dim); ++i) state_gradient[i] += d.state_gradient[i];
  float* gain = gradient_.data() + shape_.gain_at();
  for (std::int64_t i = 0; i < n; ++i) {
    for (std::int64_t k = 0; k < dim; ++k) {
      const auto at = static_cast<std::size_t>(i * dim + k);
      gain[k] += state_gradient[at] * d.sum[at];
    }
  }
  std::vector<float> sums(size(dim));  // of rms_normalise(state) + w2 units
  for_rows(rt_, n, 4, [&](std::int64_t first, std::int64_t last) {
    std::vector<float> scaled(dim);
    for (std::int64_t i = first; i < last; ++i) {
      for (std::int64_t k = 0; k < dim; ++k) {
        scaled[k] = state_gradient[i * dim + k] * gain_[k];
      }
      rms_normalise_backward(d.sum.data() + i * dim, d.sum_scale[i], scaled.data(), dim, sums.data() + i * dim);
    }
  });
  std::vector<float> hidden(size(units));
  product(sums.data(), n, dim, w2_transposed_, units, hidden.data());
  for_rows(rt_, n, 4, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t at = first * units; at < last * units; ++at) {
      const auto i = static_cast<std::size_t>(at);
      const float x = d.pre_activation[i], s = 1 / (1 + std::exp(-x));
      hidden[i] *= s * (1 + x * (1 - s)) * (d.dropout_mask.empty() ? 1 : d.dropout_mask[i]);
    }
  });
  // Gradients of matrices: sums over starts, so both factors are transposed.
  Buffer<float> a = padded_matrix(2 * dim, n), b = padded_matrix(units, n), c = padded_matrix(dim, n);
  transpose(rt_, d.in.data(), n, 2 * dim, a);
  transpose(rt_, hidden.data(), n, units, b);
  transpose(rt_, sums.data(), n, dim, c);
  std::vector<float> w1(shape_.w1()), w2(static_cast<std::size_t>(shape_.w2()));
  product(b.data(), units, n, a, 2 * dim, w1.data());
  for (std::size_t i = 0; i < w1.size(); ++i) gradient_[i] += w1[i];
  float* b1 = gradient_.data() + shape_.b1_at();
  for (std::int64_t i = 0; i < n; ++i) {
    for (std::int64_t u = 0; u < units; ++u) b1[u] += hidden[i * units + u];
  }
  transpose(rt_, d.units.data(), n, units, b);
  product(c.data(), dim, n, b, units, w2.data());
  for (std::size_t i = 0; i < w2.size(); ++i) gradient_[static_cast<std::size_t>(shape_.w2_at()) + i] += w2[i];
  // The previous state has two ways into the loss: through the sum, and through the units.
  std::vector<float> in(size(2 * dim));
  product(hidden.data(), n, units, w1_transposed_, 2 * dim, in.data());
  for_rows(rt_, n, 4, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t i = first; i < last; ++i) {
      float* of_unit = in.data() + i * 2 * dim;
      for (std::int64_t k = 0; k < dim; ++k) of_unit[k] += sums[i * dim + k];
      rms_normalise_backward(d.in.data() + i * 2 * dim, d.in_scale[i], of_unit, dim, state_gradient.data() + i * dim);
    }
  });
}

DraftHeadScore DraftHeadTrainer::pass(const DraftHeadBatch& batch, std::span<const float> weights, std::int64_t step,
                                      bool learning) {
  prepare(batch, weights);
  DraftHeadScore score;
  const std::int64_t dim = shape_.dim, n = std::ssize(rows_);
  if (n == 0) return score;
  std::vector<Depth> depths(kDraftHeadDepths);
  for (std::int64_t depth = 0; depth < kDraftHeadDepths; ++depth) {
    Depth& d = depths[depth];
    d.in.resize(n * 2 * dim);
    for (std::int64_t i = 0; i < n; ++i) {
      const float* previous =
          depth == 0 ? batch.hidden.data() + rows_[i] * dim : depths[depth - 1].state.data() + i * dim;
      std::copy(previous, previous + dim, d.in.data() + i * 2 * dim);
    }
    if (learning) draw_dropout_mask(step, depth, d);
    forward(batch, depth, d);
    score.add(compare(batch, depth, d, learning));
  }
  if (!learning) return score;
  std::vector<float> state_gradient;
  for (std::int64_t depth = kDraftHeadDepths; depth-- > 0;) {
    backward(depths[depth], state_gradient);
  }
  return score;
}

DraftHeadScore DraftHeadTrainer::learn(const DraftHeadBatch& batch, std::span<const float> weights, std::int64_t step) {
  return pass(batch, weights, step, true);
}

DraftHeadScore DraftHeadTrainer::score(const DraftHeadBatch& batch, std::span<const float> weights) {
  return pass(batch, weights, 0, false);
}

double DraftHeadTrainer::rate(std::int64_t step) const {
  const double at = static_cast<double>(step), warm = std::max(options_.warm_up, 1.0);
  if (at < warm) return options_.rate * (at + 1) / warm;
  const double part = std::min(1.0, (at - warm) / std::max(1.0, static_cast<double>(options_.steps) - warm));
  return options_.rate * (kFinalRate + (1 - kFinalRate) * (1 + std::cos(std::numbers::pi * part)) / 2);
}

void DraftHeadTrainer::update(DraftHeadTraining& t, double counted) {
  double squares = 0;
  const double scale = 1 / std::max(counted, 1.0);
  for (const float g : gradient_) squares += static_cast<double>(g) * static_cast<double>(g) * scale * scale;
  const double clip = scale * std::min(1.0, kClipNorm / std::max(std::sqrt(squares), 1e-12));
  const double now = rate(t.steps);
  ++t.steps;
  const double correct1 = 1 - std::pow(kBeta1, static_cast<double>(t.steps));
  const double correct2 = 1 - std::pow(kBeta2, static_cast<double>(t.steps));
  const auto decays = [&](std::int64_t i) {
    return i < shape_.b1_at() || (i >= shape_.w2_at() && i < shape_.gain_at());
  };
  for (std::int64_t i = 0; i < shape_.size(); ++i) {
    const auto at = static_cast<std::size_t>(i);
    const double g = static_cast<double>(gradient_[at]) * clip;
    t.first[at] = static_cast<float>(kBeta1 * static_cast<double>(t.first[at]) + (1 - kBeta1) * g);
    t.second[at] = static_cast<float>(kBeta2 * static_cast<double>(t.second[at]) + (1 - kBeta2) * g * g);
    const double move = static_cast<double>(t.first[at]) / correct1 /
                        (std::sqrt(static_cast<double>(t.second[at]) / correct2) + kAdamEps);
    const double weight = static_cast<double>(t.weights[at]);
    t.weights[at] = static_cast<float>(weight - now * (move + (decays(i) ? options_.decay * weight : 0)));
  }
  std::fill(gradient_.begin(), gradient_.end(), 0.0f);
}

}  // namespace jupiter

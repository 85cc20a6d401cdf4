// Forward and backward pass of the head, written out; the state's gradient travels from the last depth to the first.
#include "parallel/train/head_training.hpp"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "kernels/sampler.hpp"

namespace jupiter {

namespace {

constexpr float kUnitEps = 1e-6f;
constexpr double kBeta1 = 0.9, kBeta2 = 0.98, kAdamEps = 1e-8;
constexpr double kMostNorm = 1.0;   // a longer gradient is shortened
constexpr double kLastRate = 0.05;  // of the highest, at the end of the cosine

std::int64_t padded(std::int64_t rows) {
  return (rows + kPanelRows - 1) / kPanelRows * kPanelRows;
}

Buffer<float> padded_matrix(std::int64_t rows, std::int64_t cols) {
  return Buffer<float>(static_cast<std::size_t>(padded(rows) * cols));
}

// out [cols][rows] = in [rows][cols]
void turn(const Runtime& rt, const float* in, std::int64_t rows, std::int64_t cols, Buffer<float>& out) {
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

// y = unit(x); returns 1 / rms.
float unit(const float* x, std::int64_t n, float* y) {
  double sum = 0;
  for (std::int64_t i = 0; i < n; ++i) sum += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  const auto inverse = static_cast<float>(1 / std::sqrt(sum / static_cast<double>(n) + static_cast<double>(kUnitEps)));
  for (std::int64_t i = 0; i < n; ++i) y[i] = x[i] * inverse;
  return inverse;
}

// dx of y = unit(x) from dy.
void unit_backward(const float* y, float inverse, const float* dy, std::int64_t n, float* dx) {
  double dot = 0;
  for (std::int64_t i = 0; i < n; ++i) dot += static_cast<double>(dy[i]) * static_cast<double>(y[i]);
  const auto mean = static_cast<float>(dot / static_cast<double>(n));
  for (std::int64_t i = 0; i < n; ++i) dx[i] = (dy[i] - y[i] * mean) * inverse;
}

// In place: logits become probabilities. Returns the logarithm of their sum before that.
double softmax(const KernelTable& kernels, float* x, std::int64_t n) {
  const float most = *std::max_element(x, x + n);
  for (std::int64_t i = 0; i < n; ++i) x[i] -= most;
  kernels.exponential(x, n, x);
  double sum = 0;
  for (std::int64_t i = 0; i < n; ++i) sum += static_cast<double>(x[i]);
  const auto inverse = static_cast<float>(1 / sum);
  for (std::int64_t i = 0; i < n; ++i) x[i] *= inverse;
  return static_cast<double>(most) + std::log(sum);
}

}  // namespace

// One step of the unrolled head, kept for the way back. n: starts.
struct HeadTrainer::Depth {
  std::vector<float> in;                   // [n][2 dim]: unit(state), unit(embedded)
  std::vector<float> before;               // [n][units]: w1 in + b1
  std::vector<float> units;                // [n][units]: silu, dropout applied
  std::vector<float> kept;                 // [n][units]: factor of dropout; empty: none
  std::vector<float> sum;                  // [n][dim]: unit(unit(state) + w2 units)
  std::vector<float> state;                // [n][dim]: gain * sum
  std::vector<float> state_gradient;       // [n][dim], of this depth's loss
  std::vector<float> in_scale, sum_scale;  // [n]: 1 / rms of the state before, and of the sum
};

void HeadScore::add(const HeadScore& other) {
  loss += other.loss;
  counted += other.counted;
  for (std::size_t i = 0; i < right.size(); ++i) {
    right[i] += other.right[i];
    tried[i] += other.tried[i];
  }
}

std::vector<float> initial_head(const HeadShape& s, float gain, std::uint64_t seed) {
  std::vector<float> weights(static_cast<std::size_t>(s.size()));
  const double limit = std::sqrt(3.0 / static_cast<double>(2 * s.dim));  // of a uniform: the variance keeps its size
  for (std::int64_t i = 0; i < s.w1(); ++i) {
    weights[static_cast<std::size_t>(i)] = static_cast<float>(limit * (2 * uniform(seed, i, 0) - 1));
  }
  // w2 is zero: the head begins as what it must improve on.
  std::fill(weights.begin() + s.gain_at(), weights.end(), gain);
  return weights;
}

HeadTrainer::HeadTrainer(const Runtime& rt, const HeadShape& shape, std::vector<float> output,
                         const HeadTrainingOptions& options)
    : rt_(rt),
      shape_(shape),
      vocab_(static_cast<std::int64_t>(output.size()) / shape.dim),
      options_(options),
      input_(1, kGroupCols),
      output_(padded_matrix(vocab_, shape.dim)),
      output_turned_(padded_matrix(shape.dim, vocab_)),
      w1_(padded_matrix(shape.units, 2 * shape.dim)),
      w1_turned_(padded_matrix(2 * shape.dim, shape.units)),
      w2_(padded_matrix(shape.dim, shape.units)),
      w2_turned_(padded_matrix(shape.units, shape.dim)),
      gradient_(static_cast<std::size_t>(shape.size())) {
  std::copy(output.begin(), output.end(), output_.begin());
  turn(rt_, output_.data(), vocab_, shape_.dim, output_turned_);
}

void HeadTrainer::product(const float* x, std::int64_t rows, std::int64_t cols, const Buffer<float>& w,
                          std::int64_t w_rows, float* out) {
  if (rows == 0) return;
  const PackedMatrix matrix{Format::f32, w_rows, cols, reinterpret_cast<const std::byte*>(w.data())};
  multiply(rt_, input_, MatrixView<const float>(x, rows, cols), std::array{Product{matrix, {out, rows, w_rows}}});
}

// Weights as the products read them, the list of starts, and what the model expects after each row.
void HeadTrainer::prepare(const HeadBatch& batch, std::span<const float> weights) {
  const float* w = weights.data();
  std::copy(w, w + shape_.w1(), w1_.begin());
  b1_.assign(w + shape_.b1_at(), w + shape_.w2_at());
  std::copy(w + shape_.w2_at(), w + shape_.gain_at(), w2_.begin());
  gain_.assign(w + shape_.gain_at(), w + shape_.size());
  turn(rt_, w1_.data(), shape_.units, 2 * shape_.dim, w1_turned_);
  turn(rt_, w2_.data(), shape_.dim, shape_.units, w2_turned_);
  rows_.clear();
  numbers_.clear();
  for (const HeadBatch::Span& s : batch.spans) {
    for (std::int64_t i = 0; i < s.starts; ++i) {
      rows_.push_back(s.first_row + i);
      numbers_.push_back(s.number + i);
    }
  }
  const auto rows = static_cast<std::int64_t>(batch.decided.size());
  teacher_.resize(static_cast<std::size_t>(rows * vocab_));
  product(batch.hidden.data(), rows, shape_.dim, output_, vocab_, teacher_.data());
  for_rows(rt_, rows, 4, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t r = first; r < last; ++r) softmax(rt_.kernels, teacher_.data() + r * vocab_, vocab_);
  });
}

// d.in's first half holds the state before on entry (not yet unit).
void HeadTrainer::forward(const HeadBatch& batch, std::int64_t depth, Depth& d) {
  const std::int64_t dim = shape_.dim, units = shape_.units, n = static_cast<std::int64_t>(rows_.size());
  const auto size = [&](std::int64_t cols) { return static_cast<std::size_t>(n * cols); };
  d.before.resize(size(units));
  d.sum.resize(size(dim));
  d.state.resize(size(dim));
  d.in_scale.resize(size(1));
  d.sum_scale.resize(size(1));
  for_rows(rt_, n, 4, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t i = first; i < last; ++i) {
      float* in = d.in.data() + i * 2 * dim;
      d.in_scale[static_cast<std::size_t>(i)] = unit(in, dim, in);
      unit(batch.embedded.data() + (rows_[static_cast<std::size_t>(i)] + depth) * dim, dim, in + dim);
    }
  });
  product(d.in.data(), n, 2 * dim, w1_, units, d.before.data());
  d.units.resize(size(units));
  for_rows(rt_, n, 4, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t i = first; i < last; ++i) {
      float* before = d.before.data() + i * units;
      float* out = d.units.data() + i * units;
      for (std::int64_t u = 0; u < units; ++u) {
        before[u] += b1_[static_cast<std::size_t>(u)];
        out[u] = before[u] / (1 + std::exp(-before[u]));
        if (!d.kept.empty()) out[u] *= d.kept[static_cast<std::size_t>(i * units + u)];
      }
    }
  });
  product(d.units.data(), n, units, w2_, dim, d.sum.data());
  for_rows(rt_, n, 4, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t i = first; i < last; ++i) {
      float* sum = d.sum.data() + i * dim;
      float* state = d.state.data() + i * dim;
      for (std::int64_t k = 0; k < dim; ++k) sum[k] += d.in[static_cast<std::size_t>(i * 2 * dim + k)];
      d.sum_scale[static_cast<std::size_t>(i)] = unit(sum, dim, sum);
      for (std::int64_t k = 0; k < dim; ++k) state[k] = sum[k] * gain_[static_cast<std::size_t>(k)];
    }
  });
}

void HeadTrainer::keep_units(std::int64_t step, std::int64_t depth, Depth& d) const {
  if (options_.dropout <= 0) return;
  const std::int64_t units = shape_.units, n = static_cast<std::int64_t>(rows_.size());
  d.kept.resize(static_cast<std::size_t>(n * units));
  const auto factor = static_cast<float>(1 / (1 - options_.dropout));
  const std::uint64_t seed = options_.seed + 0x9e3779b97f4a7c15ull * static_cast<std::uint64_t>(step + 1);
  for_rows(rt_, n, 4, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t i = first; i < last; ++i) {
      const std::int64_t key = numbers_[static_cast<std::size_t>(i)] * kHeadDepths + depth;
      for (std::int64_t u = 0; u < units; ++u) {
        const bool dropped = uniform(seed, key, static_cast<std::uint32_t>(u)) < options_.dropout;
        d.kept[static_cast<std::size_t>(i * units + u)] = dropped ? 0 : factor;
      }
    }
  });
}

// Loss and hits of a depth; learning: also d.state_gradient.
HeadScore HeadTrainer::compare(const HeadBatch& batch, std::int64_t depth, Depth& d, bool learning) {
  const auto n = static_cast<std::int64_t>(rows_.size());
  logits_.resize(static_cast<std::size_t>(n * vocab_));
  product(d.state.data(), n, shape_.dim, output_, vocab_, logits_.data());
  std::vector<HeadScore> scores(static_cast<std::size_t>(n));
  for_rows(rt_, n, 4, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t i = first; i < last; ++i) {
      HeadScore& score = scores[static_cast<std::size_t>(i)];
      float* row = logits_.data() + i * vocab_;
      const std::int64_t next = rows_[static_cast<std::size_t>(i)] + depth + 1;
      const std::int32_t right = batch.decided[static_cast<std::size_t>(next)];
      const float* expected = teacher_.data() + next * vocab_;
      score.tried[static_cast<std::size_t>(depth)] = 1;
      if (right < 0) {  // the draft vocabulary has no answer
        std::fill(row, row + vocab_, 0.0f);
        continue;
      }
      double dot = 0;
      for (std::int64_t v = 0; v < vocab_; ++v) dot += static_cast<double>(expected[v]) * static_cast<double>(row[v]);
      score.right[static_cast<std::size_t>(depth)] = std::max_element(row, row + vocab_) == row + right ? 1 : 0;
      score.loss = softmax(rt_.kernels, row, vocab_) - dot;
      score.counted = 1;
      for (std::int64_t v = 0; v < vocab_; ++v) row[v] -= expected[v];
    }
  });
  HeadScore sum;
  for (const HeadScore& s : scores) sum.add(s);
  if (!learning) return sum;
  d.state_gradient.resize(static_cast<std::size_t>(n * shape_.dim));
  product(logits_.data(), n, vocab_, output_turned_, shape_.dim, d.state_gradient.data());
  return sum;
}

// state_gradient: of this depth's state on entry (of later depths; empty: none), of the state before on return.
void HeadTrainer::backward(const Depth& d, std::vector<float>& state_gradient) {
  const std::int64_t dim = shape_.dim, units = shape_.units, n = static_cast<std::int64_t>(rows_.size());
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
  std::vector<float> sums(size(dim));  // of unit(state) + w2 units
  for_rows(rt_, n, 4, [&](std::int64_t first, std::int64_t last) {
    std::vector<float> scaled(static_cast<std::size_t>(dim));
    for (std::int64_t i = first; i < last; ++i) {
      for (std::int64_t k = 0; k < dim; ++k) {
        scaled[static_cast<std::size_t>(k)] =
            state_gradient[static_cast<std::size_t>(i * dim + k)] * gain_[static_cast<std::size_t>(k)];
      }
      unit_backward(d.sum.data() + i * dim, d.sum_scale[static_cast<std::size_t>(i)], scaled.data(), dim,
                    sums.data() + i * dim);
    }
  });
  std::vector<float> hidden(size(units));
  product(sums.data(), n, dim, w2_turned_, units, hidden.data());
  for_rows(rt_, n, 4, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t at = first * units; at < last * units; ++at) {
      const auto i = static_cast<std::size_t>(at);
      const float x = d.before[i], s = 1 / (1 + std::exp(-x));
      hidden[i] *= s * (1 + x * (1 - s)) * (d.kept.empty() ? 1 : d.kept[i]);
    }
  });
  // Gradients of matrices: sums over starts, so both factors are turned.
  Buffer<float> a = padded_matrix(2 * dim, n), b = padded_matrix(units, n), c = padded_matrix(dim, n);
  turn(rt_, d.in.data(), n, 2 * dim, a);
  turn(rt_, hidden.data(), n, units, b);
  turn(rt_, sums.data(), n, dim, c);
  std::vector<float> w1(static_cast<std::size_t>(shape_.w1())), w2(static_cast<std::size_t>(shape_.w2()));
  product(b.data(), units, n, a, 2 * dim, w1.data());
  for (std::size_t i = 0; i < w1.size(); ++i) gradient_[i] += w1[i];
  float* b1 = gradient_.data() + shape_.b1_at();
  for (std::int64_t i = 0; i < n; ++i) {
    for (std::int64_t u = 0; u < units; ++u) b1[u] += hidden[static_cast<std::size_t>(i * units + u)];
  }
  turn(rt_, d.units.data(), n, units, b);
  product(c.data(), dim, n, b, units, w2.data());
  for (std::size_t i = 0; i < w2.size(); ++i) gradient_[static_cast<std::size_t>(shape_.w2_at()) + i] += w2[i];
  // Of the state before: by way of the sum, and of the units.
  std::vector<float> in(size(2 * dim));
  product(hidden.data(), n, units, w1_turned_, 2 * dim, in.data());
  for_rows(rt_, n, 4, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t i = first; i < last; ++i) {
      float* of_unit = in.data() + i * 2 * dim;
      for (std::int64_t k = 0; k < dim; ++k) of_unit[k] += sums[static_cast<std::size_t>(i * dim + k)];
      unit_backward(d.in.data() + i * 2 * dim, d.in_scale[static_cast<std::size_t>(i)], of_unit, dim,
                    state_gradient.data() + i * dim);
    }
  });
}

HeadScore HeadTrainer::pass(const HeadBatch& batch, std::span<const float> weights, std::int64_t step, bool learning) {
  prepare(batch, weights);
  HeadScore score;
  const std::int64_t dim = shape_.dim, n = static_cast<std::int64_t>(rows_.size());
  if (n == 0) return score;
  std::vector<Depth> depths(static_cast<std::size_t>(kHeadDepths));
  for (std::int64_t depth = 0; depth < kHeadDepths; ++depth) {
    Depth& d = depths[static_cast<std::size_t>(depth)];
    d.in.resize(static_cast<std::size_t>(n * 2 * dim));
    for (std::int64_t i = 0; i < n; ++i) {
      const float* before = depth == 0 ? batch.hidden.data() + rows_[static_cast<std::size_t>(i)] * dim
                                       : depths[static_cast<std::size_t>(depth - 1)].state.data() + i * dim;
      std::copy(before, before + dim, d.in.data() + i * 2 * dim);
    }
    if (learning) keep_units(step, depth, d);
    forward(batch, depth, d);
    score.add(compare(batch, depth, d, learning));
  }
  if (!learning) return score;
  std::vector<float> state_gradient;
  for (std::int64_t depth = kHeadDepths; depth-- > 0;) {
    backward(depths[static_cast<std::size_t>(depth)], state_gradient);
  }
  return score;
}

HeadScore HeadTrainer::learn(const HeadBatch& batch, std::span<const float> weights, std::int64_t step) {
  return pass(batch, weights, step, true);
}

HeadScore HeadTrainer::score(const HeadBatch& batch, std::span<const float> weights) {
  return pass(batch, weights, 0, false);
}

double HeadTrainer::rate(std::int64_t step) const {
  const double at = static_cast<double>(step), warm = std::max(options_.warm_up, 1.0);
  if (at < warm) return options_.rate * (at + 1) / warm;
  const double part = std::min(1.0, (at - warm) / std::max(1.0, static_cast<double>(options_.steps) - warm));
  return options_.rate * (kLastRate + (1 - kLastRate) * (1 + std::cos(std::numbers::pi * part)) / 2);
}

void HeadTrainer::update(HeadTraining& t, double counted) {
  double squares = 0;
  const double scale = 1 / std::max(counted, 1.0);
  for (const float g : gradient_) squares += static_cast<double>(g) * static_cast<double>(g) * scale * scale;
  const double shorten = scale * std::min(1.0, kMostNorm / std::max(std::sqrt(squares), 1e-12));
  const double now = rate(t.steps);
  ++t.steps;
  const double correct1 = 1 - std::pow(kBeta1, static_cast<double>(t.steps));
  const double correct2 = 1 - std::pow(kBeta2, static_cast<double>(t.steps));
  const auto decays = [&](std::int64_t i) {
    return i < shape_.b1_at() || (i >= shape_.w2_at() && i < shape_.gain_at());
  };
  for (std::int64_t i = 0; i < shape_.size(); ++i) {
    const auto at = static_cast<std::size_t>(i);
    const double g = static_cast<double>(gradient_[at]) * shorten;
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

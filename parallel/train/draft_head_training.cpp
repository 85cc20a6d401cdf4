// Forward and backward pass of the head, written out. The gradient of the state travels from the last depth to the
// first. io/model/draft_heads.hpp has the formula of a step.
#include "parallel/train/draft_head_training.hpp"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "kernels/sampler.hpp"
#include "kernels/softmax.hpp"
#include "parallel/train/blas.hpp"

namespace jupiter {

namespace {

constexpr double kBeta1 = 0.9, kBeta2 = 0.98, kAdamEps = 1e-8;
constexpr double kClipNorm = 1.0;    // a gradient with a larger norm is scaled down to this norm
constexpr double kFinalRate = 0.05;  // share of the highest rate that is left at the end of the cosine

MatrixView<const float> view(const std::vector<float>& values, std::int64_t rows) {
  return {values.data(), rows, std::ssize(values) / rows};
}

MatrixView<float> view(std::vector<float>& values, std::int64_t rows) {
  return {values.data(), rows, std::ssize(values) / rows};
}

// y = x / rms(x) with rms(x) = sqrt(mean(x^2) + eps). Returns 1 / rms(x).
float rms_normalise(const float* x, std::int64_t n, float* y) {
  double sum = 0;
  for (std::int64_t i = 0; i < n; ++i) sum += double{x[i]} * x[i];
  const auto inverse = static_cast<float>(1 / std::sqrt(sum / static_cast<double>(n) + kDraftHeadNormEps));
  for (std::int64_t i = 0; i < n; ++i) y[i] = x[i] * inverse;
  return inverse;
}

// The gradient dx of y = rms_normalise(x) from dy; inverse is 1 / rms(x):
//   dx = (dy - y mean(dy y)) / rms(x)
void rms_normalise_backward(const float* y, float inverse, const float* dy, std::int64_t n, float* dx) {
  double dot = 0;
  for (std::int64_t i = 0; i < n; ++i) dot += double{dy[i]} * y[i];
  const auto mean = static_cast<float>(dot / static_cast<double>(n));
  for (std::int64_t i = 0; i < n; ++i) dx[i] = (dy[i] - y[i] * mean) * inverse;
}

// Turns logits into probabilities in place. Returns the logarithm of the sum of their exponentials.
double softmax(const KernelTable& kernels, std::span<float> logits) {
  const float most = largest(logits);
  const double sum = exponentials(kernels, logits, most, logits);
  const auto inverse = static_cast<float>(1 / sum);
  for (float& p : logits) p *= inverse;
  return most + std::log(sum);
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
      output_(std::move(output)),
      gradient_(shape.size()) {}

// Looks at the weights, lists the starts, and computes what the model expects after each row.
void DraftHeadTrainer::prepare(const DraftHeadBatch& batch, std::span<const float> weights) {
  const float* w = weights.data();
  w1_ = {w, shape_.units, 2 * shape_.dim};
  w2_ = {w + shape_.w2_at(), shape_.dim, shape_.units};
  b1_ = weights.subspan(shape_.b1_at(), shape_.units);
  gain_ = weights.subspan(shape_.gain_at(), shape_.dim);
  rows_.clear();
  numbers_.clear();
  for (const DraftHeadBatch::Span& s : batch.spans) {
    for (std::int64_t i = 0; i < s.starts; ++i) {
      rows_.push_back(s.first_row + i);
      numbers_.push_back(s.number + i);
    }
  }
  const std::int64_t rows = std::ssize(batch.decided);
  if (rows == 0) return;
  teacher_.resize(rows * vocab_);
  const auto teacher = view(teacher_, rows);
  multiply_blas(rt_, {view(batch.hidden, rows)}, {view(output_, vocab_), true}, teacher, Into::overwrite);
  for_rows(rt_, rows, 4, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t r = first; r < last; ++r) softmax(rt_.kernels, {teacher.row(r), teacher_.size() / rows});
  });
}

// On entry d.in's first half holds the previous state, which is not normalised yet.
void DraftHeadTrainer::forward(const DraftHeadBatch& batch, std::int64_t depth, Depth& d) {
  const std::int64_t dim = shape_.dim, units = shape_.units, n = starts();
  d.pre_activation.resize(n * units);
  d.units.resize(n * units);
  d.sum.resize(n * dim);
  d.state.resize(n * dim);
  d.in_scale.resize(n);
  d.sum_scale.resize(n);
  for_rows(rt_, n, 4, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t i = first; i < last; ++i) {
      float* in = &d.in[i * 2 * dim];
      d.in_scale[i] = rms_normalise(in, dim, in);
      rms_normalise(&batch.embedded[(rows_[i] + depth) * dim], dim, in + dim);
    }
  });
  multiply_blas(rt_, {view(d.in, n)}, {w1_, true}, view(d.pre_activation, n), Into::overwrite);
  for_rows(rt_, n, 4, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t i = first; i < last; ++i) {
      for (std::int64_t u = 0; u < units; ++u) {
        const std::int64_t at = i * units + u;
        const float x = d.pre_activation[at] += b1_[u];
        d.units[at] = x / (1 + std::exp(-x)) * (d.dropout_mask.empty() ? 1 : d.dropout_mask[at]);  // silu
      }
    }
  });
  multiply_blas(rt_, {view(d.units, n)}, {w2_, true}, view(d.sum, n), Into::overwrite);
  for_rows(rt_, n, 4, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t i = first; i < last; ++i) {
      float* sum = &d.sum[i * dim];
      for (std::int64_t k = 0; k < dim; ++k) sum[k] += d.in[i * 2 * dim + k];
      d.sum_scale[i] = rms_normalise(sum, dim, sum);
      for (std::int64_t k = 0; k < dim; ++k) d.state[i * dim + k] = sum[k] * gain_[k];
    }
  });
}

void DraftHeadTrainer::draw_dropout_mask(std::int64_t step, std::int64_t depth, Depth& d) const {
  if (options_.dropout <= 0) return;
  const std::int64_t units = shape_.units, n = starts();
  d.dropout_mask.resize(n * units);
  const auto kept = static_cast<float>(1 / (1 - options_.dropout));
  const std::uint64_t seed = options_.seed + 0x9e3779b97f4a7c15ull * static_cast<std::uint64_t>(step + 1);
  for_rows(rt_, n, 4, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t i = first; i < last; ++i) {
      const std::int64_t key = numbers_[i] * kDraftHeadDepths + depth;
      for (std::int64_t u = 0; u < units; ++u) {
        const bool dropped = uniform(seed, key, static_cast<std::uint32_t>(u)) < options_.dropout;
        d.dropout_mask[i * units + u] = dropped ? 0 : kept;
      }
    }
  });
}

// Loss and hits of a depth. While learning it also fills d.state_gradient.
DraftHeadScore DraftHeadTrainer::compare(const DraftHeadBatch& batch, std::int64_t depth, Depth& d, bool learning) {
  const std::int64_t n = starts();
  logits_.resize(n * vocab_);
  const auto logits = view(logits_, n);
  const Factor output{view(output_, vocab_)};
  multiply_blas(rt_, {view(d.state, n)}, {output.matrix, true}, logits, Into::overwrite);
  std::vector<DraftHeadScore> scores(n);
  for_rows(rt_, n, 4, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t i = first; i < last; ++i) {
      const std::int64_t next = rows_[i] + depth + 1;
      const auto expected = std::span<const float>(teacher_).subspan(next * vocab_, vocab_);
      scores[i] =
          compare_row(batch.decided[next], depth, expected, std::span<float>(logits_).subspan(i * vocab_, vocab_));
    }
  });
  DraftHeadScore sum;
  for (const DraftHeadScore& s : scores) sum.add(s);
  if (!learning) return sum;
  d.state_gradient.resize(n * shape_.dim);
  multiply_blas(rt_, {logits}, output, view(d.state_gradient, n), Into::overwrite);
  return sum;
}

// Cross entropy of the head's distribution against the model's, and its gradient in the place of the logits:
//   loss = log(sum exp(logits)) - sum expected logits,   d loss / d logits = softmax(logits) - expected
DraftHeadScore DraftHeadTrainer::compare_row(std::int32_t right, std::int64_t depth, std::span<const float> expected,
                                             std::span<float> logits) const {
  DraftHeadScore score;
  score.tried[depth] = 1;
  if (right < 0) {  // the draft vocabulary does not have the right token
    std::fill(logits.begin(), logits.end(), 0.0f);
    return score;
  }
  double dot = 0;
  for (std::size_t v = 0; v < logits.size(); ++v) dot += double{expected[v]} * logits[v];
  score.right[depth] = std::max_element(logits.begin(), logits.end()) - logits.begin() == right ? 1 : 0;
  score.loss = softmax(rt_.kernels, logits) - dot;
  score.counted = 1;
  for (std::size_t v = 0; v < logits.size(); ++v) logits[v] -= expected[v];
  return score;
}

// state_gradient holds on entry what the later depths' losses say about this depth's state (empty at the last depth),
// and on return the gradient of the previous state.
void DraftHeadTrainer::backward(const Depth& d, std::vector<float>& state_gradient) {
  const std::int64_t dim = shape_.dim, units = shape_.units, n = starts();
  if (state_gradient.empty()) state_gradient.assign(n * dim, 0);
  for (std::int64_t i = 0; i < n * dim; ++i) state_gradient[i] += d.state_gradient[i];
  float* gain = &gradient_[shape_.gain_at()];
  for (std::int64_t i = 0; i < n; ++i) {
    for (std::int64_t k = 0; k < dim; ++k) gain[k] += state_gradient[i * dim + k] * d.sum[i * dim + k];
  }
  std::vector<float> sums(n * dim);  // gradient of rms_normalise(previous state) + w2 units
  for_rows(rt_, n, 4, [&](std::int64_t first, std::int64_t last) {
    std::vector<float> scaled(dim);
    for (std::int64_t i = first; i < last; ++i) {
      for (std::int64_t k = 0; k < dim; ++k) scaled[k] = state_gradient[i * dim + k] * gain_[k];
      rms_normalise_backward(&d.sum[i * dim], d.sum_scale[i], scaled.data(), dim, &sums[i * dim]);
    }
  });
  std::vector<float> hidden(n * units);  // gradient of the pre-activations
  multiply_blas(rt_, {view(sums, n)}, {w2_}, view(hidden, n), Into::overwrite);
  for_rows(rt_, n, 4, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t i = first * units; i < last * units; ++i) {
      const float x = d.pre_activation[i], s = 1 / (1 + std::exp(-x));
      hidden[i] *= s * (1 + x * (1 - s)) * (d.dropout_mask.empty() ? 1 : d.dropout_mask[i]);  // silu'(x)
    }
  });
  float* b1 = &gradient_[shape_.b1_at()];
  for (std::int64_t i = 0; i < n; ++i) {
    for (std::int64_t u = 0; u < units; ++u) b1[u] += hidden[i * units + u];
  }
  const MatrixView<float> w1(gradient_.data(), units, 2 * dim), w2(&gradient_[shape_.w2_at()], dim, units);
  multiply_blas(rt_, {view(hidden, n), true}, {view(d.in, n)}, w1, Into::add);
  multiply_blas(rt_, {view(sums, n), true}, {view(d.units, n)}, w2, Into::add);
  // The previous state has two ways into the loss: through the sum, and through the units.
  std::vector<float> in(n * 2 * dim);
  multiply_blas(rt_, {view(hidden, n)}, {w1_}, view(in, n), Into::overwrite);
  for_rows(rt_, n, 4, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t i = first; i < last; ++i) {
      float* normalised = &in[i * 2 * dim];
      for (std::int64_t k = 0; k < dim; ++k) normalised[k] += sums[i * dim + k];
      rms_normalise_backward(&d.in[i * 2 * dim], d.in_scale[i], normalised, dim, &state_gradient[i * dim]);
    }
  });
}

DraftHeadScore DraftHeadTrainer::pass(const DraftHeadBatch& batch, std::span<const float> weights, std::int64_t step,
                                      bool learning) {
  prepare(batch, weights);
  DraftHeadScore score;
  const std::int64_t dim = shape_.dim, n = starts();
  if (n == 0) return score;
  std::vector<Depth> depths(kDraftHeadDepths);
  for (std::int64_t depth = 0; depth < kDraftHeadDepths; ++depth) {
    Depth& d = depths[depth];
    d.in.resize(n * 2 * dim);
    for (std::int64_t i = 0; i < n; ++i) {
      const float* previous = depth == 0 ? &batch.hidden[rows_[i] * dim] : &depths[depth - 1].state[i * dim];
      std::copy_n(previous, dim, &d.in[i * 2 * dim]);
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

// AdamW (Loshchilov and Hutter 2019) with a clipped gradient g: m and v are the moments, t the steps,
//   m = b1 m + (1 - b1) g,  v = b2 v + (1 - b2) g^2,
//   w = w - rate (m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps) + decay w)
void DraftHeadTrainer::update(DraftHeadTraining& t, double counted) {
  double squares = 0;
  const double scale = 1 / std::max(counted, 1.0);
  for (const float g : gradient_) squares += double{g} * g * scale * scale;
  const double clip = scale * std::min(1.0, kClipNorm / std::max(std::sqrt(squares), 1e-12));
  const double now = rate(t.steps);
  ++t.steps;
  const double correct1 = 1 - std::pow(kBeta1, static_cast<double>(t.steps));
  const double correct2 = 1 - std::pow(kBeta2, static_cast<double>(t.steps));
  const auto decay = [&](std::int64_t i) {
    const bool is_matrix = i < shape_.b1_at() || (i >= shape_.w2_at() && i < shape_.gain_at());
    return is_matrix ? options_.decay : 0;
  };
  for_rows(rt_, shape_.size(), 4096, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t i = first; i < last; ++i) {
      const double g = gradient_[i] * clip, weight = t.weights[i];
      t.first[i] = static_cast<float>(kBeta1 * t.first[i] + (1 - kBeta1) * g);
      t.second[i] = static_cast<float>(kBeta2 * t.second[i] + (1 - kBeta2) * g * g);
      const double move = t.first[i] / correct1 / (std::sqrt(t.second[i] / correct2) + kAdamEps);
      t.weights[i] = static_cast<float>(weight - now * (move + decay(i) * weight));
    }
  });
  std::fill(gradient_.begin(), gradient_.end(), 0.0f);
}

}  // namespace jupiter

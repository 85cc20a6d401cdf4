// Sequential and Medusa heads, computed row by row with the project's kernels.
#include "parallel/draft/draft_head.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>

#include "io/model/quantize.hpp"

namespace jupiter {

namespace {

void multiply_row(const Runtime& rt, LinearInput& input, const std::vector<float>& x, const PackedMatrix& w,
                  std::vector<float>& out) {
  out.resize(w.rows);
  const MatrixView<const float> in(x.data(), 1, w.cols);
  multiply(rt, input, in, std::array{Product{w, {out.data(), 1, w.rows}}});
}

void rms_normalise(const KernelTable& kernels, const std::vector<float>& ones, const float* x, float* out) {
  kernels.rms_norm(x, ones.data(), std::ssize(ones), kDraftHeadNormEps, out);
}

void silu(std::vector<float>& x) {
  for (float& v : x) v = v / (1 + std::exp(-v));
}

std::vector<float> wide(const std::vector<f16_t>& narrow) {
  std::vector<float> out(narrow.size());
  for (std::size_t i = 0; i < out.size(); ++i) out[i] = f16_to_f32(narrow[i]);
  return out;
}

PackedRows pack(const float* values, std::int64_t rows, std::int64_t cols) {
  return PackedRows(rows, cols, [&](std::int64_t r, float* out) { std::copy_n(values + r * cols, cols, out); });
}

PackedRows pack(const std::vector<f16_t>& values, std::int64_t cols) {
  return PackedRows(std::ssize(values) / cols, cols, [&](std::int64_t r, float* out) {
    for (std::int64_t i = 0; i < cols; ++i) out[i] = f16_to_f32(values[r * cols + i]);
  });
}

// The weights of a sequential head, which the drafters of all sequences share.
struct SequentialParts {
  SequentialParts(const Runtime& runtime, const SequentialHead& h, const PackedMatrix& output_head)
      : rt(runtime),
        shape(h.shape),
        tokens(h.tokens),
        embedding(output_head),
        w1(pack(h.weights.data(), shape.units, 2 * shape.dim)),
        w2(pack(h.weights.data() + shape.w2_at(), shape.dim, shape.units)),
        output(std::ssize(tokens), shape.dim,
               [&](std::int64_t r, float* out) { dequantize_row(output_head, tokens[r], out); }),
        b1(h.weights.begin() + shape.b1_at(), h.weights.begin() + shape.w2_at()),
        gain(h.weights.begin() + shape.gain_at(), h.weights.end()),
        ones(shape.dim, 1.0f) {}
  const Runtime rt;
  DraftHeadShape shape;
  std::vector<TokenId> tokens;
  PackedMatrix embedding;
  PackedRows w1, w2, output;
  std::vector<float> b1, gain, ones;
};

class SequentialDraft : public NeuralDrafter {
 public:
  explicit SequentialDraft(std::shared_ptr<const SequentialParts> parts)
      : parts_(std::move(parts)), input_(1, std::max(2 * parts_->shape.dim, parts_->shape.units)) {}

  void begin(std::span<const float> hidden) override {
    states_.clear();
    states_[{}] = {hidden.begin(), hidden.end()};
  }

  std::vector<DraftGuess> guess(DraftContext context, std::size_t root) override {
    const DraftContext path = context.subspan(root);
    multiply_row(parts_->rt, input_, state(path), parts_->output.matrix(), logits_);
    return likeliest(parts_->rt.kernels, logits_, parts_->tokens);
  }

 private:
  const std::vector<float>& state(std::span<const TokenId> path) {
    const std::vector<TokenId> key(path.begin(), path.end());
    const auto known = states_.find(key);
    if (known != states_.end()) return known->second;
    return states_[key] = next(state(path.first(path.size() - 1)), path.back());
  }

  std::vector<float> next(const std::vector<float>& before, TokenId token) {
    const SequentialParts& p = *parts_;
    const auto dim = static_cast<std::size_t>(p.shape.dim);
    std::vector<float> in(2 * dim), embedded(dim), units, sum, state(dim);
    dequantize_row(p.embedding, token, embedded.data());
    rms_normalise(p.rt.kernels, p.ones, before.data(), in.data());
    rms_normalise(p.rt.kernels, p.ones, embedded.data(), in.data() + dim);
    multiply_row(p.rt, input_, in, p.w1.matrix(), units);
    p.rt.kernels.add(units.data(), p.b1.data(), p.shape.units);
    silu(units);
    multiply_row(p.rt, input_, units, p.w2.matrix(), sum);
    p.rt.kernels.add(sum.data(), in.data(), p.shape.dim);
    p.rt.kernels.rms_norm(sum.data(), p.gain.data(), p.shape.dim, kDraftHeadNormEps, state.data());
    return state;
  }

  std::shared_ptr<const SequentialParts> parts_;
  LinearInput input_;
  std::map<std::vector<TokenId>, std::vector<float>> states_;
  std::vector<float> logits_;
};

struct MedusaParts {
  struct Layer {
    PackedRows weight;
    std::vector<float> bias;
  };
  struct Head {
    std::vector<Layer> layers;
    PackedRows output;
  };
  Runtime rt;
  std::int64_t dim;
  std::vector<Head> heads;
};

class MedusaDraft : public NeuralDrafter {
 public:
  explicit MedusaDraft(std::shared_ptr<const MedusaParts> parts)
      : parts_(std::move(parts)), input_(1, parts_->dim), guesses_(parts_->heads.size()) {}

  void begin(std::span<const float> hidden) override {
    hidden_.assign(hidden.begin(), hidden.end());
    for (auto& g : guesses_) g.clear();
  }

  // A head guesses by depth alone, whatever tokens stand between.
  std::vector<DraftGuess> guess(DraftContext context, std::size_t root) override {
    const DraftContext path = context.subspan(root);
    const std::size_t h = path.size() - 1;
    if (h >= guesses_.size()) return {};
    if (guesses_[h].empty()) guesses_[h] = compute(parts_->heads[h]);
    return guesses_[h];
  }

 private:
  std::vector<DraftGuess> compute(const MedusaParts::Head& head) {
    const KernelTable& kernels = parts_->rt.kernels;
    std::vector<float> x = hidden_, y;
    for (const MedusaParts::Layer& layer : head.layers) {
      multiply_row(parts_->rt, input_, x, layer.weight.matrix(), y);
      kernels.add(y.data(), layer.bias.data(), parts_->dim);
      silu(y);
      kernels.add(x.data(), y.data(), parts_->dim);
    }
    multiply_row(parts_->rt, input_, x, head.output.matrix(), y);
    return likeliest(kernels, y);
  }

  std::shared_ptr<const MedusaParts> parts_;
  LinearInput input_;
  std::vector<float> hidden_;
  std::vector<std::vector<DraftGuess>> guesses_;  // by head; empty where it is not computed yet
};

template <typename Head, typename Parts>
class HeadFactory : public NeuralDrafterFactory {
 public:
  explicit HeadFactory(std::shared_ptr<const Parts> parts) : parts_(std::move(parts)) {}
  std::unique_ptr<NeuralDrafter> make() const override { return std::make_unique<Head>(parts_); }

 private:
  std::shared_ptr<const Parts> parts_;
};

}  // namespace

PackedRows::PackedRows(std::int64_t rows, std::int64_t cols,
                       const std::function<void(std::int64_t row, float* out)>& fill) {
  matrix_.format = cols % kGroupCols == 0 ? Format::q8 : Format::f32;
  matrix_.rows = rows;
  matrix_.cols = cols;
  bytes_ = Buffer<std::byte>(matrix_.bytes());
  matrix_.data = bytes_.data();
  std::vector<float> row(cols);
  QuantizedRow integers(Format::q8, matrix_.format == Format::q8 ? cols : kGroupCols);
  const std::size_t panel_bytes = matrix_.panel_bytes();
  for (std::int64_t r = 0; r < matrix_.panels() * kPanelRows; ++r) {
    std::byte* panel = bytes_.data() + static_cast<std::size_t>(r / kPanelRows) * panel_bytes;
    if (r < rows) fill(r, row.data());
    if (matrix_.format == Format::f32) {
      if (r < rows)
        std::memcpy(panel + static_cast<std::size_t>(r % kPanelRows * cols) * 4, row.data(), row.size() * 4);
    } else if (r < rows) {
      quantize_q8(row.data(), cols, integers);
      pack_row(Format::q8, cols, integers, r % kPanelRows, panel);
    } else {
      pack_zero_row(Format::q8, cols, r % kPanelRows, panel);
    }
  }
}

std::unique_ptr<NeuralDrafterFactory> sequential_head_drafters(const Runtime& rt, const SequentialHead& head,
                                                               const PackedMatrix& output) {
  return std::make_unique<HeadFactory<SequentialDraft, SequentialParts>>(
      std::make_shared<const SequentialParts>(rt, head, output));
}

std::unique_ptr<NeuralDrafterFactory> medusa_head_drafters(const Runtime& rt, const MedusaHeads& medusa,
                                                           std::int64_t dim) {
  std::vector<MedusaParts::Head> heads;
  for (const MedusaHeads::Head& h : medusa.heads) {
    std::vector<MedusaParts::Layer> layers;
    for (const MedusaHeads::Layer& l : h.layers) layers.push_back({pack(l.weight, dim), wide(l.bias)});
    heads.push_back({std::move(layers), pack(h.output, dim)});
  }
  return std::make_unique<HeadFactory<MedusaDraft, MedusaParts>>(
      std::make_shared<const MedusaParts>(MedusaParts{rt, dim, std::move(heads)}));
}

}  // namespace jupiter

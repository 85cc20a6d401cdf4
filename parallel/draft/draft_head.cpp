// Sequential and Medusa heads, computed row by row with the project's kernels.
#include "parallel/draft/draft_head.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>

#include "io/model/quantize.hpp"
#include "io/timer.hpp"

namespace jupiter {

namespace {

constexpr std::size_t kGuesses = 8;  // of one context
constexpr float kUnitEps = 1e-6f;    // as in training
constexpr std::array<double, 4> kSureBelow = {0.25, 0.6, 0.85, 2};
// Before anything is counted, by sureness of the others: weight of the head, and what it adds to the probability of the
// right token.
constexpr std::array<double, 4> kFirstWeight = {0.8, 0.65, 0.5, 0.3}, kFirstGain = {0.35, 0.2, 0.1, 0.03};
constexpr double kLeastJoint = 0.04;  // what hangs on a rarer path is not worth a step of the head anywhere
constexpr double kPatience = 10;      // tokens that these are worth
constexpr double kNewest = 0.1;       // weight of a new time in the running mean
constexpr std::int64_t kTrials = 4;   // questions before time and gain decide
constexpr double kMostTrust = 1.15, kPromises = 4;

float* data_of(std::vector<float>& v) {
  return v.data();
}

void multiply_row(const Runtime& rt, LinearInput& input, const std::vector<float>& x, const PackedMatrix& w,
                  std::vector<float>& out) {
  out.resize(static_cast<std::size_t>(w.rows));
  const MatrixView<const float> in(x.data(), 1, w.cols);
  multiply(rt, input, in, std::array{Product{w, {data_of(out), 1, w.rows}}});
}

// The most likely of a row of logits; token(i) names column i. The logits become scratch.
template <typename Name>
std::vector<HeadGuess> best_of(const KernelTable& kernels, std::vector<float>& logits, const Name& token) {
  const float most = *std::max_element(logits.begin(), logits.end());
  for (float& x : logits) x -= most;
  kernels.exponential(logits.data(), static_cast<std::int64_t>(logits.size()), logits.data());
  double sum = 0;
  for (const float x : logits) sum += static_cast<double>(x);
  std::vector<std::size_t> order;
  const auto likelier = [&](std::size_t a, std::size_t b) {
    return logits[a] != logits[b] ? logits[a] > logits[b] : a < b;
  };
  for (std::size_t i = 0; i < logits.size(); ++i) {
    if (order.size() == kGuesses && !likelier(i, order.back())) continue;
    order.insert(std::upper_bound(order.begin(), order.end(), i, likelier), i);
    if (order.size() > kGuesses) order.pop_back();
  }
  std::vector<HeadGuess> guesses;
  for (const std::size_t i : order) {
    guesses.push_back({token(i), static_cast<float>(static_cast<double>(logits[i]) / sum)});
  }
  return guesses;
}

void unit(const KernelTable& kernels, const std::vector<float>& ones, const float* x, float* out) {
  kernels.rms_norm(x, ones.data(), static_cast<std::int64_t>(ones.size()), kUnitEps, out);
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
  return PackedRows(static_cast<std::int64_t>(values.size()) / cols, cols, [&](std::int64_t r, float* out) {
    for (std::int64_t i = 0; i < cols; ++i) out[i] = f16_to_f32(values[static_cast<std::size_t>(r * cols + i)]);
  });
}

// What all sequences share of a sequential head.
struct SequentialParts {
  SequentialParts(const Runtime& runtime, const SequentialHead& h, const PackedMatrix& output_head)
      : rt(runtime),
        shape(h.shape),
        tokens(h.tokens),
        embedding(output_head),
        w1(pack(h.weights.data(), shape.units, 2 * shape.dim)),
        w2(pack(h.weights.data() + shape.w2_at(), shape.dim, shape.units)),
        output(
            static_cast<std::int64_t>(tokens.size()), shape.dim,
            [&](std::int64_t r, float* out) { dequantize_row(output_head, tokens[static_cast<std::size_t>(r)], out); }),
        b1(h.weights.begin() + shape.b1_at(), h.weights.begin() + shape.w2_at()),
        gain(h.weights.begin() + shape.gain_at(), h.weights.end()),
        ones(static_cast<std::size_t>(shape.dim), 1.0f) {}
  const Runtime rt;
  DraftHeadShape shape;
  std::vector<TokenId> tokens;
  PackedMatrix embedding;
  PackedRows w1, w2, output;
  std::vector<float> b1, gain, ones;
};

class SequentialDraft : public DraftHead {
 public:
  explicit SequentialDraft(std::shared_ptr<const SequentialParts> parts)
      : parts_(std::move(parts)), input_(1, std::max(2 * parts_->shape.dim, parts_->shape.units)) {}

  void begin(std::span<const float> hidden) override {
    states_.clear();
    states_[{}] = {hidden.begin(), hidden.end()};
  }

  std::vector<HeadGuess> guess(DraftContext context, std::size_t root) override {
    const DraftContext path = context.subspan(root);
    multiply_row(parts_->rt, input_, state(path), parts_->output.matrix(), logits_);
    return best_of(parts_->rt.kernels, logits_, [&](std::size_t i) { return parts_->tokens[i]; });
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
    unit(p.rt.kernels, p.ones, before.data(), in.data());
    unit(p.rt.kernels, p.ones, embedded.data(), in.data() + dim);
    multiply_row(p.rt, input_, in, p.w1.matrix(), units);
    p.rt.kernels.add(units.data(), p.b1.data(), p.shape.units);
    silu(units);
    multiply_row(p.rt, input_, units, p.w2.matrix(), sum);
    p.rt.kernels.add(sum.data(), in.data(), p.shape.dim);
    p.rt.kernels.rms_norm(sum.data(), p.gain.data(), p.shape.dim, kUnitEps, state.data());
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

class MedusaDraft : public DraftHead {
 public:
  explicit MedusaDraft(std::shared_ptr<const MedusaParts> parts)
      : parts_(std::move(parts)), input_(1, parts_->dim), guesses_(parts_->heads.size()) {}

  void begin(std::span<const float> hidden) override {
    hidden_.assign(hidden.begin(), hidden.end());
    for (auto& g : guesses_) g.clear();
  }

  // By depth alone: whatever stands between, a head guesses its place.
  std::vector<HeadGuess> guess(DraftContext context, std::size_t root) override {
    const DraftContext path = context.subspan(root);
    const std::size_t h = path.size() - 1;
    if (h >= guesses_.size()) return {};
    if (guesses_[h].empty()) guesses_[h] = compute(parts_->heads[h]);
    return guesses_[h];
  }

 private:
  std::vector<HeadGuess> compute(const MedusaParts::Head& head) {
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
  std::vector<std::vector<HeadGuess>> guesses_;  // by head; empty: not computed
};

template <typename Head, typename Parts>
class Maker : public HeadMaker {
 public:
  explicit Maker(std::shared_ptr<const Parts> parts) : parts_(std::move(parts)) {}
  std::unique_ptr<DraftHead> make() const override { return std::make_unique<Head>(parts_); }

 private:
  std::shared_ptr<const Parts> parts_;
};

double probability_of(const std::vector<Proposal>& proposals, TokenId token) {
  for (const Proposal& p : proposals) {
    if (p.token == token) return static_cast<double>(p.probability);
  }
  return 0;
}

}  // namespace

std::vector<HeadGuess> likeliest(const KernelTable& kernels, std::vector<float>& logits) {
  return best_of(kernels, logits, [](std::size_t i) { return static_cast<TokenId>(i); });
}

PackedRows::PackedRows(std::int64_t rows, std::int64_t cols,
                       const std::function<void(std::int64_t row, float* out)>& fill) {
  matrix_.format = cols % kGroupCols == 0 ? Format::q8 : Format::f32;
  matrix_.rows = rows;
  matrix_.cols = cols;
  bytes_ = Buffer<std::byte>(matrix_.bytes());
  matrix_.data = bytes_.data();
  std::vector<float> row(static_cast<std::size_t>(cols));
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

std::unique_ptr<HeadMaker> sequential_head(const Runtime& rt, const SequentialHead& head, const PackedMatrix& output) {
  return std::make_unique<Maker<SequentialDraft, SequentialParts>>(
      std::make_shared<const SequentialParts>(rt, head, output));
}

std::unique_ptr<HeadMaker> medusa_heads(const Runtime& rt, const MedusaHeads& medusa, std::int64_t dim) {
  std::vector<MedusaParts::Head> heads;
  for (const MedusaHeads::Head& h : medusa.heads) {
    std::vector<MedusaParts::Layer> layers;
    for (const MedusaHeads::Layer& l : h.layers) layers.push_back({pack(l.weight, dim), wide(l.bias)});
    heads.push_back({std::move(layers), pack(h.output, dim)});
  }
  return std::make_unique<Maker<MedusaDraft, MedusaParts>>(
      std::make_shared<const MedusaParts>(MedusaParts{rt, dim, std::move(heads)}));
}

std::size_t HeadDrafter::sureness_of(const std::vector<Proposal>& others) {
  double most = 0;
  for (const Proposal& p : others) most = std::max(most, static_cast<double>(p.probability));
  std::size_t i = 0;
  while (most >= kSureBelow[i]) ++i;
  return i;
}

double HeadDrafter::weight(std::size_t i) const {
  return (weight_sum_[i] + kPatience * kFirstWeight[i]) / (weight_count_[i] + kPatience);
}

double HeadDrafter::gain(std::size_t i) const {
  return (gain_sum_[i] + kPatience * kFirstGain[i]) / (weight_count_[i] + kPatience);
}

double HeadDrafter::trust() const {
  return std::min(kMostTrust, (hits_ + kPromises) / (promised_ + kPromises));
}

// What the others leave open is the head's.
HeadDrafter::Shares HeadDrafter::shares(const Node& node) const {
  double said = 0, guessed = 0;
  for (const Proposal& p : node.others) said += static_cast<double>(p.probability);
  for (const HeadGuess& g : node.guesses) guessed += static_cast<double>(g.probability);
  const double others = 1 - weight(node.sureness);
  const double trusted = guessed > 0 ? std::min(trust(), 1 / guessed) : 0;
  return {others, (1 - others * std::min(said, 1.0)) * trusted};
}

void HeadDrafter::learn(const Node& node, TokenId token) {
  double head = 0;
  for (const HeadGuess& g : node.guesses) {
    promised_ += static_cast<double>(g.probability);
    if (g.token == token) head = static_cast<double>(g.probability);
  }
  hits_ += head > 0 ? 1 : 0;
  const double others = probability_of(node.others, token), w = weight(node.sureness);
  const Shares s = shares(node);
  gain_sum_[node.sureness] += s.others * others + s.head * head - others;
  // Whose the token was, as far as either named it.
  weight_sum_[node.sureness] += head + others > 0 ? w * head / (w * head + (1 - w) * others) : w;
  weight_count_[node.sureness] += 1;
}

void HeadDrafter::observe(DraftContext context, TokenId token) {
  if (!nodes_.empty() && context.size() >= root_) {
    const DraftContext path = context.subspan(root_ - 1);
    const auto node = nodes_.find({path.begin(), path.end()});
    if (node != nodes_.end()) learn(node->second, token);
  }
  decided_ = context.size() + 1;
  stale_ = true;
}

// Null where the head has nothing to say, yet.
const HeadDrafter::Node* HeadDrafter::ask(DraftContext context, const std::vector<Proposal>& others) {
  const DraftContext path = context.subspan(root_ - 1);
  const auto [node, fresh] = nodes_.try_emplace({path.begin(), path.end()});
  if (!fresh) return &node->second;
  const auto start = std::chrono::steady_clock::now();
  node->second = {others, head_->guess(context, root_ - 1), sureness_of(others)};
  const double seconds = seconds_since(start);
  cost_s_ += (use_.asked == 0 ? 1 : kNewest) * (seconds - cost_s_);
  ++use_.asked;
  use_.seconds += seconds;
  if (!node->second.guesses.empty()) return &node->second;
  nodes_.erase(node);
  return nullptr;
}

void HeadDrafter::blend(DraftContext context, const DraftWorth& worth, std::vector<Proposal>& proposals) {
  if (hidden_.empty() || context.size() < decided_) return;
  const std::size_t sureness = sureness_of(proposals);
  if (worth.joint < kLeastJoint) return;
  if (thrifty_ && use_.asked >= kTrials && worth.joint * gain(sureness) * worth.token_s <= cost_s_) return;
  if (stale_) {
    nodes_.clear();
    head_->begin(hidden_);
    root_ = decided_;
    stale_ = false;
  }
  const Node* node = ask(context, proposals);
  if (node == nullptr) return;
  const Shares s = shares(*node);
  for (Proposal& p : proposals) p.probability = static_cast<float>(s.others * static_cast<double>(p.probability));
  for (const HeadGuess& g : node->guesses) {
    const auto p = static_cast<float>(s.head * static_cast<double>(g.probability));
    const auto same =
        std::find_if(proposals.begin(), proposals.end(), [&](const Proposal& x) { return x.token == g.token; });
    if (same == proposals.end()) {
      proposals.push_back({g.token, p, source_});
    } else {
      if (p > same->probability) same->source = source_;
      same->probability += p;
    }
  }
}

}  // namespace jupiter

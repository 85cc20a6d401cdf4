// Repeated runs over all layers that the board has: a single layer would stay in the cache, as it does not in the real
// thing. All points are measured in three sweeps, so that a passing disturbance meets a point only once.
#include "parallel/measure/measure.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <optional>
#include <thread>

#include "io/timer.hpp"
#include "kernels/softmax.hpp"
#include "parallel/pipeline/output_head.hpp"

namespace jupiter {

namespace {

constexpr std::int64_t kRows[] = {1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512};
constexpr std::int64_t kWorkRows = 16;
constexpr std::int64_t kOutputHeadRows[] = {1, 2, 4, 8,
                                            16};  // a stage passes so many at a time through the output head
constexpr double kMostSecondsPerPass = 1.0;
constexpr int kSweeps = 3;
constexpr int kWakeRepeats = 40;
constexpr std::int64_t kHalfRows[] = {1, 4, 16, 64, 256};  // at which a slice of half the rows is measured

// Boards of whom no piece comes: what a slice computes can be timed without them.
class NobodyElse : public GroupLink {
 public:
  void exchange(std::vector<std::byte>, const std::function<void(int, std::span<const std::byte>)>&) override {}
};

// The first of two equal slices of every layer, with a cache and work space of its own.
struct HalfLayers {
  HalfLayers(const ModelConfig& c, const ModelFiles& files, std::int64_t max_rows, std::int64_t slots, int threads)
      : group(c, slices_of(c, {{0.5, 0.5}, false, false}), 0, link),
        cache({std::ssize(files.layers()), group.mine().kv_heads.size(), c.head_dim}, slots / kKvBlock),
        scratch(c, group.mine(), max_rows, threads) {
    for (const LayerWeights& w : files.layers()) layers.push_back(slice_layer(w, c, group.mine()));
  }
  NobodyElse link;
  TensorGroup group;
  KvCache cache;
  BlockScratch scratch;
  std::vector<LayerWeights> layers;
};

}  // namespace

double median(std::vector<double> values) {
  const auto middle = values.begin() + (values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

double mean_of_the_middle(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const auto cut = static_cast<std::ptrdiff_t>(values.size() / 10);
  return std::accumulate(values.begin() + cut, values.end() - cut, 0.0) /
         static_cast<double>(std::ssize(values) - 2 * cut);
}

struct BoardMeasurement::Impl {
 public:
  Impl(const ModelConfig& config, const ModelFiles& files, ThreadPool& pool, const MeasureOptions& options)
      : config_(config),
        files_(files),
        options_(options),
        rt_{kernels(), pool},
        n_layers_(static_cast<std::int64_t>(files.layers().size())),
        cache_({n_layers_, config.n_kv_heads, config.head_dim}, slots() / kKvBlock),
        rope_(config),
        group_(config),
        scratch_(config, group_.mine(), options.max_rows, pool.size()),
        residual_(options.max_rows * config.dim),
        logits_(files.part().output_head ? static_cast<std::size_t>(16 * config.vocab_size) : 0) {
    if (most_boards(config) >= 2 && config.n_heads > 1 && !config.qk_norm_whole) {
      half_.emplace(config, files, options.max_rows, slots(), pool.size());
    }
    cache_.reserve(sequence_, 0, slots());
    rope_.extend(slots());
    touch_cache();
  }

  BoardProfile run(const MeasureProgress& progress) {
    BoardProfile b;
    std::vector<Point> points = all_points(b);
    layer_seconds(1, 0);  // warm: page faults, clocks
    double done = 0;
    for (int sweep = 0; sweep < kSweeps; ++sweep) {
      for (Point& p : points) {
        p.sweeps.push_back(p.measure());
        progress(++done / static_cast<double>(kSweeps * points.size()));
      }
    }
    for (const Point& p : points) p.keep(median(p.sweeps));
    const auto& one = points.front().sweeps;
    b.spread = (*std::max_element(one.begin(), one.end()) - *std::min_element(one.begin(), one.end())) / median(one);
    fit_context(b.layer);
    b.wake_s = wake_seconds(b);
    return b;
  }

  void work(const BoardProfile& measured, double seconds) {
    const auto layers = static_cast<std::int64_t>(seconds / measured.layer.at(kWorkRows, 0));
    pass(kWorkRows, 0, std::clamp<std::int64_t>(layers, 1, n_layers_));
  }

 private:
  std::int64_t slots() const {
    return (options_.context_tokens + options_.max_rows + kKvBlock - 1) / kKvBlock * kKvBlock;
  }
  // Pages that nobody wrote are all the same zero page, which reads faster than a real cache.
  void touch_cache() {
    const std::vector<float> row(config_.kv_dim(), 0.5f);
    for (std::int64_t layer = 0; layer < n_layers_; ++layer) {
      for (std::int64_t p = 0; p < slots(); ++p) {
        if (!cache_.write(layer, sequence_.home(p), row.data(), row.data())) return;
      }
    }
  }
  BlockContext context() { return {rt_, config_, cache_, rope_, scratch_, group_}; }

  // Inputs as a model sees them: of unit size, different in every row.
  void fill_residual(std::int64_t n) {
    for (std::int64_t i = 0; i < n * config_.dim; ++i) {
      residual_[i] = static_cast<float>(i * 2654435761 >> 8 & 1023) / 512.0f - 1.0f;
    }
  }

  // One row through a few layers, at once and after a pause as long as other stages take for a token.
  double wake_seconds(const BoardProfile& measured) {
    const auto layers =
        std::clamp<std::int64_t>(static_cast<std::int64_t>(2e-3 / measured.layer.at(1, 0)), 1, n_layers_);
    std::vector<double> differences;
    for (int i = 0; i < kWakeRepeats; ++i) {
      pass(1, 0, layers);
      const auto start = Clock::now();
      pass(1, 0, layers);
      const auto between = Clock::now();
      std::this_thread::sleep_for(std::chrono::milliseconds(8) + std::chrono::microseconds(137 * i));
      const auto again = Clock::now();
      pass(1, 0, layers);
      const double awake = std::chrono::duration<double>(between - start).count();
      differences.push_back(seconds_since(again) - awake);
    }
    return std::max(mean_of_the_middle(std::move(differences)), 0.0);
  }

  struct Point {
    std::function<double()> measure;   // seconds
    std::function<void(double)> keep;  // of all sweeps
    std::vector<double> sweeps;
  };

  // Mean time of repeated calls. Not the median: where a board runs for a part of every millisecond, calls take the
  // pauses by turns, and each call counts.
  template <typename Work>
  double timed(const Work& work) {
    const auto start = Clock::now();
    for (int calls = 1;; ++calls) {
      work();
      const double total = seconds_since(start);
      if (total >= options_.seconds_per_point) return total / calls;
    }
  }

  void pass(std::int64_t n, std::int64_t c, std::int64_t layers) { pass(context(), files_.layers(), n, c, layers); }

  void pass(const BlockContext& block, const std::vector<LayerWeights>& weights, std::int64_t n, std::int64_t c,
            std::int64_t layers) {
    const std::vector<RowRun> runs{{&sequence_, c, n, {}}};
    const MatrixView<float> x(residual_.data(), n, config_.dim);
    fill_residual(n);
    for (std::int64_t i = 0; i < layers; ++i) {
      forward_block(block, weights[i], i, runs, x);
    }
  }

  // Fewer layers are run where a pass would take too long.
  std::int64_t layers_to_run(std::int64_t n) const {
    const double whole = seconds_per_row_ * static_cast<double>(n * n_layers_);
    if (whole <= kMostSecondsPerPass) return n_layers_;
    return std::max<std::int64_t>(
        1, static_cast<std::int64_t>(kMostSecondsPerPass / whole * static_cast<double>(n_layers_)));
  }

  // Half the rows of one layer, as two boards would share it, without what they exchange.
  double half_layer_seconds(std::int64_t n) {
    const std::int64_t layers = layers_to_run(n);
    const BlockContext block{rt_, config_, half_->cache, rope_, half_->scratch, half_->group};
    return timed([&] { pass(block, half_->layers, n, 0, layers); }) / static_cast<double>(layers);
  }

  // One layer for n rows after c tokens.
  double layer_seconds(std::int64_t n, std::int64_t c) {
    const std::int64_t layers = layers_to_run(n);
    const double layer = timed([&] { pass(n, c, layers); }) / static_cast<double>(layers);
    if (n >= 8) seconds_per_row_ = layer / static_cast<double>(n);
    return layer;
  }

  std::vector<Point> all_points(BoardProfile& b) {
    std::vector<Point> points;
    for (const std::int64_t n : kRows) {
      if (n <= options_.max_rows) add_point(points, b.layer.base, n, [this, n] { return layer_seconds(n, 0); });
    }
    for (const std::int64_t n : kHalfRows) {
      if (half_ && n <= options_.max_rows) {
        add_point(points, b.half_layer, n, [this, n] { return half_layer_seconds(n); });
      }
    }
    const std::int64_t c = options_.context_tokens;
    for (const std::int64_t n : {1, 32, 128}) {
      if (c >= 64 && n <= options_.max_rows) {
        add_point(points, with_context_, n, [this, n, c] { return layer_seconds(n, c); });
      }
    }
    if (c >= 64)
      add_point(points, check_, std::min<std::int64_t>(64, options_.max_rows),
                [this, c] { return layer_seconds(std::min<std::int64_t>(64, options_.max_rows), c / 2); });
    if (files_.part().embedding) {
      for (const std::int64_t n : {std::int64_t{1}, std::int64_t{16}, options_.max_rows}) {
        if (b.embedding.empty() || n > b.embedding.rows.back()) {
          add_point(points, b.embedding, n, [this, n] { return embedding_seconds(n); });
        }
      }
    }
    if (files_.part().output_head) {
      for (const std::int64_t n : kOutputHeadRows) {
        if (n <= options_.max_rows) add_point(points, b.output_head, n, [this, n] { return output_head_seconds(n); });
      }
      points.push_back({[this] { return score_seconds(); }, [&b](double s) { b.score_s = s; }, {}});
    }
    return points;
  }

  // `curve` must not move until the point is kept.
  static void add_point(std::vector<Point>& points, CostCurve& curve, std::int64_t n, std::function<double()> measure) {
    const std::size_t at = curve.rows.size();
    curve.rows.push_back(n);
    curve.seconds.push_back(0);
    points.push_back({std::move(measure), [&curve, at](double s) { curve.seconds[at] = s; }, {}});
  }

  // b and d of t(n, c) - t(n, 0) = b c + d n c: exact for the narrowest width (one row: every decoded token), d by
  // least squares over the others; the error at a point that the fit does not see.
  void fit_context(LayerCost& layer) const {
    if (with_context_.empty()) return;
    const std::int64_t c = options_.context_tokens;
    const auto slope = [&](std::size_t i) {
      return (with_context_.seconds[i] - layer.base.at(with_context_.rows[i])) / static_cast<double>(c);
    };
    const auto narrowest = static_cast<double>(with_context_.rows[0]);
    double product = 0, square = 0;
    for (std::size_t i = 1; i < with_context_.rows.size(); ++i) {
      const double wider = static_cast<double>(with_context_.rows[i]) - narrowest;
      product += wider * (slope(i) - slope(0));
      square += wider * wider;
    }
    layer.per_row_context_s = square > 0 ? std::max(product / square, 0.0) : 0;
    layer.per_context_s = std::max(slope(0) - layer.per_row_context_s * narrowest, 0.0);
    const double measured = check_.seconds.front();
    layer.fit_error = std::abs(layer.at(check_.rows.front(), c / 2) - measured) / measured;
  }

  double embedding_seconds(std::int64_t n) {
    std::vector<TokenId> tokens(n);
    for (std::size_t i = 0; i < tokens.size(); ++i) {
      tokens[i] = static_cast<TokenId>(i * 7919 % static_cast<std::size_t>(config_.vocab_size));
    }
    const MatrixView<float> x(residual_.data(), n, config_.dim);
    return timed([&] { embed(context(), files_.embedding(), tokens, x); });
  }

  double output_head_seconds(std::int64_t n) {
    fill_residual(n);
    std::vector<std::int64_t> rows(n);
    std::iota(rows.begin(), rows.end(), 0);
    const MatrixView<float> x(residual_.data(), n, config_.dim);
    const MatrixView<float> logits(logits_.data(), n, config_.vocab_size);
    return timed([&] {
      forward_output_head(context(), files_.output_head(), x, rows, logits);
      const std::span<const float> row(logits.row(n - 1), static_cast<std::size_t>(config_.vocab_size));
      last_token_ = sample(rt_.kernels, row, {}, {}, 0);
      digest_ += row_digest(row);
    });
  }

  // Of one row among 16, as they come from the output head.
  double score_seconds() {
    const std::int64_t rows = std::min<std::int64_t>(16, options_.max_rows);
    const MatrixView<const float> logits(logits_.data(), rows, config_.vocab_size);
    return timed([&] {
             for (std::int64_t r = 0; r < rows; ++r) {
               const std::span<const float> row(logits.row(r), static_cast<std::size_t>(config_.vocab_size));
               score_ += log_sum_exp(rt_.kernels, row, largest(row), scores_);
             }
           }) /
           static_cast<double>(rows);
  }

  const ModelConfig& config_;
  const ModelFiles& files_;
  const MeasureOptions& options_;
  Runtime rt_;
  std::int64_t n_layers_;
  KvCache cache_;
  Sequence sequence_;
  RopeTables rope_;
  TensorGroup group_;
  BlockScratch scratch_;
  std::optional<HalfLayers> half_;  // where the model can be halved
  Buffer<float> residual_;
  Buffer<float> logits_;
  CostCurve with_context_;  // layer at options_.context_tokens
  CostCurve check_;         // and one point that the fit does not see
  double seconds_per_row_ = 0;
  std::int32_t last_token_ = 0;  // keeps the sampler's work from being left out
  double score_ = 0;
  std::vector<float> scores_;
  std::uint64_t digest_ = 0;
};

BoardMeasurement::BoardMeasurement(const ModelConfig& config, const ModelFiles& files, ThreadPool& pool,
                                   const MeasureOptions& options)
    : impl_(std::make_unique<Impl>(config, files, pool, options)) {}
BoardMeasurement::~BoardMeasurement() = default;
BoardProfile BoardMeasurement::run(const MeasureProgress& progress) {
  return impl_->run(progress);
}
void BoardMeasurement::work(const BoardProfile& measured, double seconds) {
  impl_->work(measured, seconds);
}

}  // namespace jupiter

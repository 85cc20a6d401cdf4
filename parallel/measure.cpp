// Medians of repeated runs over all layers that the board has: a single layer would stay in the cache, as it does not
// in the real thing.
#include "parallel/measure.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <numeric>

#include "parallel/channel.hpp"

namespace jupiter {

namespace {

using Clock = std::chrono::steady_clock;
double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

constexpr std::int64_t kRows[] = {1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512};
constexpr std::int64_t kHeadRows[] = {1, 2, 4, 8, 16};  // a stage passes so many at a time through the head
constexpr double kMostSecondsPerPass = 2.0;

class BoardMeasurement {
 public:
  BoardMeasurement(const ModelConfig& config, const ModelFiles& files, ThreadPool& pool, const MeasureOptions& options)
      : config_(config),
        files_(files),
        options_(options),
        rt_{kernels(), pool},
        n_layers_(static_cast<std::int64_t>(files.layers().size())),
        cache_({n_layers_, config.n_kv_heads, config.head_dim}, slots() / kKvBlock),
        rope_(config),
        scratch_(config, options.max_rows, pool.size()),
        residual_(static_cast<std::size_t>(options.max_rows * config.dim)),
        logits_(files.part().head ? static_cast<std::size_t>(16 * config.vocab_size) : 0) {
    set_blas_threads(pool.size());
    cache_.reserve(sequence_, 0, slots());
    rope_.extend(slots());
    touch_cache();
  }

  BoardProfile run(const std::function<void(double)>& progress) {
    BoardProfile b;
    layer_seconds(1, 0);  // warm: page faults, clocks
    const double first = layer_seconds(1, 0);
    std::vector<double> again{first};
    const double steps = static_cast<double>(std::size(kRows)) + 8;
    double done = 0;
    for (const std::int64_t n : kRows) {
      if (n > options_.max_rows) break;
      b.layer.base.rows.push_back(n);
      b.layer.base.seconds.push_back(layer_seconds(n, 0));
      progress(++done / steps);
      if (n == 16 || n == 128) again.push_back(layer_seconds(1, 0));
    }
    fit_context(b.layer);
    progress((done += 5) / steps);
    measure_ends(b);
    again.push_back(layer_seconds(1, 0));
    b.spread =
        (*std::max_element(again.begin(), again.end()) - *std::min_element(again.begin(), again.end())) / median(again);
    b.layer.base.seconds[0] = median(again);
    progress(1);
    return b;
  }

 private:
  std::int64_t slots() const {
    return (options_.context_tokens + options_.max_rows + kKvBlock - 1) / kKvBlock * kKvBlock;
  }
  // Pages that nobody wrote are all the same zero page, which reads faster than a real cache.
  void touch_cache() {
    const std::vector<float> row(static_cast<std::size_t>(config_.kv_dim()), 0.5f);
    for (std::int64_t layer = 0; layer < n_layers_; ++layer) {
      for (std::int64_t p = 0; p < slots(); ++p) {
        if (!cache_.write(layer, sequence_.home(p), row.data(), row.data())) return;
      }
    }
  }
  BlockContext context() { return {rt_, config_, cache_, rope_, scratch_}; }

  // Inputs as a model sees them: of unit size, different in every row.
  void fill_residual(std::int64_t n) {
    for (std::int64_t i = 0; i < n * config_.dim; ++i) {
      residual_[static_cast<std::size_t>(i)] = static_cast<float>(i * 2654435761 >> 8 & 1023) / 512.0f - 1.0f;
    }
  }

  // Median time of repeated calls, repeated for options_.seconds_per_point.
  template <typename Work>
  double timed(const Work& work) {
    std::vector<double> samples;
    for (double total = 0; samples.size() < 3 || (total < options_.seconds_per_point && samples.size() < 200);) {
      const auto start = Clock::now();
      work();
      samples.push_back(seconds_since(start));
      total += samples.back();
      if (samples.back() > kMostSecondsPerPass) break;
    }
    return median(samples);
  }

  // One layer for n rows after c tokens. Fewer layers are run where a pass would take too long.
  double layer_seconds(std::int64_t n, std::int64_t c) {
    const std::vector<RowRun> runs{{&sequence_, c, n, {}}};
    const MatrixView<float> x(residual_.data(), n, config_.dim);
    std::int64_t layers = n_layers_;
    if (seconds_per_row_ > 0) {
      const double pass = seconds_per_row_ * static_cast<double>(n * n_layers_);
      if (pass > kMostSecondsPerPass) {
        layers = std::max<std::int64_t>(
            1, static_cast<std::int64_t>(kMostSecondsPerPass / pass * static_cast<double>(n_layers_)));
      }
    }
    const double pass = timed([&] {
      fill_residual(n);
      for (std::int64_t i = 0; i < layers; ++i) {
        forward_block(context(), files_.layers()[static_cast<std::size_t>(i)], i, runs, x);
      }
    });
    const double layer = pass / static_cast<double>(layers);
    if (n >= 8) seconds_per_row_ = layer / static_cast<double>(n);
    return layer;
  }

  // b and d of t(n, c) - t(n, 0) = b c + d n c by least squares over three widths; the error at a fourth.
  void fit_context(LayerCost& layer) {
    const std::int64_t c = options_.context_tokens;
    if (c < 64) return;
    std::vector<double> widths, slopes;
    for (const std::int64_t n : {std::int64_t{1}, std::int64_t{32}, std::int64_t{128}}) {
      if (n > options_.max_rows) break;
      widths.push_back(static_cast<double>(n));
      slopes.push_back((layer_seconds(n, c) - layer.base.at(n)) / static_cast<double>(c));
    }
    const double count = static_cast<double>(widths.size());
    const double mean_n = std::accumulate(widths.begin(), widths.end(), 0.0) / count;
    const double mean_s = std::accumulate(slopes.begin(), slopes.end(), 0.0) / count;
    double covariance = 0, variance = 0;
    for (std::size_t i = 0; i < widths.size(); ++i) {
      covariance += (widths[i] - mean_n) * (slopes[i] - mean_s);
      variance += (widths[i] - mean_n) * (widths[i] - mean_n);
    }
    layer.per_row_context_s = variance > 0 ? std::max(covariance / variance, 0.0) : 0;
    layer.per_context_s = std::max(mean_s - layer.per_row_context_s * mean_n, 0.0);
    const std::int64_t n = std::min<std::int64_t>(64, options_.max_rows);
    const double measured = layer_seconds(n, c / 2);
    layer.fit_error = std::abs(layer.at(n, c / 2) - measured) / measured;
  }

  void measure_ends(BoardProfile& b) {
    const MatrixView<float> x(residual_.data(), options_.max_rows, config_.dim);
    if (files_.part().embedding) {
      std::vector<TokenId> tokens(static_cast<std::size_t>(options_.max_rows));
      for (std::size_t i = 0; i < tokens.size(); ++i) {
        tokens[i] = static_cast<TokenId>(i * 7919 % static_cast<std::size_t>(config_.vocab_size));
      }
      for (const std::int64_t n : {std::int64_t{1}, std::int64_t{16}, options_.max_rows}) {
        if (!b.embedding.rows.empty() && n <= b.embedding.rows.back()) continue;
        b.embedding.rows.push_back(n);
        b.embedding.seconds.push_back(timed([&] {
          embed(context(), files_.embedding(), std::span(tokens).first(static_cast<std::size_t>(n)), x.slice(0, n));
        }));
      }
    }
    if (!files_.part().head) return;
    fill_residual(std::min<std::int64_t>(16, options_.max_rows));
    for (const std::int64_t n : kHeadRows) {
      if (n > options_.max_rows) break;
      std::vector<std::int64_t> rows(static_cast<std::size_t>(n));
      std::iota(rows.begin(), rows.end(), 0);
      b.head.rows.push_back(n);
      b.head.seconds.push_back(timed([&] {
        const MatrixView<float> logits(logits_.data(), n, config_.vocab_size);
        forward_head(context(), files_.head(), x, rows, logits);
        const std::span<const float> row(logits.row(n - 1), static_cast<std::size_t>(config_.vocab_size));
        last_token_ = sample(rt_.kernels, row, {}, {}, 0);
      }));
    }
  }

  const ModelConfig& config_;
  const ModelFiles& files_;
  const MeasureOptions& options_;
  Runtime rt_;
  std::int64_t n_layers_;
  KvCache cache_;
  Sequence sequence_;
  RopeTable rope_;
  BlockScratch scratch_;
  Buffer<float> residual_;
  Buffer<float> logits_;
  double seconds_per_row_ = 0;
  std::int32_t last_token_ = 0;  // keeps the sampler's work from being left out
};

// Sends `bytes` to the peer and waits for as much back, or the other way round.
double ping_pong(int peer, bool begin, std::size_t bytes, int repeats, SendChannel& out, ReceiveChannel& in) {
  std::vector<double> samples;
  const auto send = [&] { out.send({MessageKind::report, 0, std::vector<std::byte>(bytes)}); };
  for (int i = 0; i < repeats; ++i) {
    const auto start = Clock::now();
    if (begin) send();
    await_message(out, in, peer);
    if (!begin) send();
    samples.push_back(seconds_since(start) / 2);
  }
  return median(samples);
}

}  // namespace

BoardProfile measure_board(const ModelConfig& config, const ModelFiles& files, ThreadPool& pool,
                           const MeasureOptions& options, const std::function<void(double)>& progress) {
  return BoardMeasurement(config, files, pool, options).run(progress);
}

std::vector<LinkProfile> measure_links(const MpiSession& mpi, const std::function<void(double)>& progress) {
  constexpr std::size_t kSmall = 1200, kLarge = 256 << 10;
  std::vector<LinkProfile> links;
  const int pairs = mpi.size() * (mpi.size() - 1) / 2;
  int done = 0;
  for (int a = 0; a < mpi.size(); ++a) {
    for (int b = a + 1; b < mpi.size(); ++b) {
      // Every rank takes part in the exchange of texts, so pairs are measured one after the other.
      std::string measured;
      if (mpi.rank() == a || mpi.rank() == b) {
        const int peer = mpi.rank() == a ? b : a;
        SendChannel out(mpi, peer, Tag::measure);
        ReceiveChannel in(mpi, peer, Tag::measure, 2 * kLarge);
        const bool begin = mpi.rank() == a;
        ping_pong(peer, begin, kSmall, 5, out, in);
        const double small = ping_pong(peer, begin, kSmall, 40, out, in);
        const double large = ping_pong(peer, begin, kLarge, 8, out, in);
        const double rate = static_cast<double>(kLarge - kSmall) / std::max(large - small, 1e-7);
        const double latency = std::max(small - static_cast<double>(kSmall) / rate, 1e-7);
        measured = std::to_string(latency * 1e9) + " " + std::to_string(rate);
        flush(out, peer);
      }
      const auto all = gather_text(mpi, measured);
      broadcast_text(mpi, "");
      if (mpi.rank() == 0) {
        double latency_ns = 0, rate = 0;
        if (std::sscanf(all[static_cast<std::size_t>(a)].c_str(), "%lf %lf", &latency_ns, &rate) != 2) {
          throw PeerError("links: expected two numbers from rank " + std::to_string(a));
        }
        links.push_back({a, b, latency_ns * 1e-9, rate});
        links.push_back({b, a, latency_ns * 1e-9, rate});
      }
      progress(static_cast<double>(++done) / pairs);
    }
  }
  return links;
}

}  // namespace jupiter

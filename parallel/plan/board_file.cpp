// Rooflines in place of measurements.
#include "parallel/plan/board_file.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "io/error.hpp"
#include "io/hash.hpp"
#include "io/json_fields.hpp"
#include "parallel/plan/stage_memory.hpp"

namespace jupiter {

namespace {

constexpr int kMostBoards = 256;
constexpr std::int64_t kMostRows = 512;

BoardDescription read_board(const JsonObject& j) {
  BoardDescription b;
  b.name = j.string("name");
  if (b.name.empty()) j.fail("name", "a host name", "nothing");
  b.count = static_cast<int>(j.find_int("count", 1, kMostBoards).value_or(1));
  b.threads = j.within<int>("threads", 1, 4096);
  b.memory_bytes = j.within<std::uint64_t>("memory_mib", 1, 1 << 26) << 20;
  b.read_bytes_per_s = j.within<double>("read_gb_per_s", 1e-3, 1e6) * 1e9;
  b.int8_macs_per_s = j.within<double>("int8_gmac_per_s", 1e-3, 1e6) * 1e9;
  b.float_macs_per_s = j.within<double>("float_gmac_per_s", 1e-3, 1e6) * 1e9;
  return b;
}

// What a matrix, or several, ask of a board.
struct Work {
  double bytes = 0;
  double macs = 0;  // for each row

  Work operator+(const Work& o) const { return {bytes + o.bytes, macs + o.macs}; }
  double seconds(const BoardDescription& b, double rows) const {
    return std::max(bytes / b.read_bytes_per_s, rows * macs / b.int8_macs_per_s);
  }
};

Work work_of(const DatasetInfo& d) {
  if (d.kind != DatasetInfo::Kind::matrix) return {};
  return {static_cast<double>(d.bytes), static_cast<double>(d.rows) * static_cast<double>(d.cols)};
}

Work work_of(const FileInfo& file) {
  Work w;
  for (const DatasetInfo& d : file.datasets) w = w + work_of(d);
  return w;
}

// Of a layer, the mean over all of them, as `profile` measures it.
struct LayerWork {
  Work dense;    // what every row uses
  Work experts;  // all of them
  double n_experts = 0, used = 0;

  // n rows that choose their experts independently and evenly touch this share of them.
  double seconds(const BoardDescription& b, double rows, double share) const {
    Work w{share * dense.bytes, share * dense.macs};
    if (n_experts > 0) {
      const double touched = 1 - std::pow(1 - used / n_experts, rows);
      w = w + Work{share * touched * experts.bytes, share * used / n_experts * experts.macs};
    }
    return w.seconds(b, rows);
  }
};

LayerWork layer_work(const Manifest& manifest) {
  const ModelConfig& c = manifest.config;
  LayerWork sum{{}, {}, static_cast<double>(c.n_experts), static_cast<double>(c.n_experts_used)};
  for (std::int64_t i = 0; i < c.n_layers; ++i) {
    for (const DatasetInfo& d : manifest.file(layer_file_name(i)).datasets) {
      Work& part = d.name.ends_with("_experts") ? sum.experts : sum.dense;
      part = part + work_of(d);
    }
  }
  const auto layers = static_cast<double>(c.n_layers);
  for (Work* w : {&sum.dense, &sum.experts}) *w = {w->bytes / layers, w->macs / layers};
  return sum;
}

CostCurve curve(std::int64_t most_rows, const auto& seconds) {
  CostCurve c;
  for (std::int64_t n = 1; n <= most_rows; n *= 2) {
    c.rows.push_back(n);
    c.seconds.push_back(seconds(static_cast<double>(n)));
  }
  return c;
}

BoardProfile estimate(const BoardDescription& b, const Manifest& manifest, double message_s) {
  const ModelConfig& c = manifest.config;
  BoardProfile p;
  p.host = b.name;
  p.threads = b.threads;
  p.kernels = "described";
  p.memory_bytes = b.memory_bytes;
  const LayerWork layer = layer_work(manifest);
  // Scores and weighted values; of one row the cache is read, of several it is read once for all.
  const double context_bytes = 2.0 * static_cast<double>(c.kv_dim()) * 2,
               context_macs = 2.0 * static_cast<double>(c.q_dim());
  p.layer.per_context_s = context_bytes / b.read_bytes_per_s;
  p.layer.per_row_context_s = context_macs / b.float_macs_per_s;
  const auto within_rows = [&](double n) { return n * (n + 1) / 2 * p.layer.per_row_context_s; };
  p.layer.base = curve(kMostRows, [&](double n) { return layer.seconds(b, n, 1) + within_rows(n); });
  p.half_layer = curve(kMostRows, [&](double n) { return layer.seconds(b, n, 0.5) + within_rows(n) / 2; });
  const auto row_s = static_cast<double>(c.dim) / b.float_macs_per_s;
  p.embedding = curve(kMostRows, [&](double n) { return n * row_s; });
  const Work head = work_of(manifest.file(c.tied_embeddings ? embed_file_name() : output_file_name()));
  p.output_head = curve(kMaxDrawnRows, [&](double n) { return head.seconds(b, n); });
  p.score_s = static_cast<double>(c.vocab_size) / b.float_macs_per_s;
  p.send = p.receive = {message_s, 1 / b.read_bytes_per_s};
  return p;
}

}  // namespace

ClusterDescription parse_boards(const std::string& text, const std::string& file) {
  const JsonObject j = parse_json_object(text, file);
  ClusterDescription d;
  int count = 0;
  for (const JsonObject& b : j.objects("boards")) {
    d.boards.push_back(read_board(b));
    count += d.boards.back().count;
  }
  if (count == 0 || count > kMostBoards) {
    throw FormatError(file, "boards", fmt::format("1 to {} boards", kMostBoards), std::to_string(count));
  }
  for (std::size_t i = 0; i < d.boards.size(); ++i) {
    for (std::size_t k = 0; k < i; ++k) {
      if (d.boards[i].name == d.boards[k].name) {
        throw FormatError(file, "boards", "every name once (and a count)", d.boards[i].name + " twice");
      }
    }
  }
  const JsonObject network = j.object("network");
  d.link_bytes_per_s = network.within<double>("mbit_per_s", 1e-3, 1e6) * 1e6 / 8;
  d.latency_s = network.within<double>("latency_us", 0, 1e7) * 1e-6;
  d.message_s = network.within<double>("message_us", 0, 1e6) * 1e-6;
  return d;
}

Profile described_profile(const ClusterDescription& d, const Manifest& manifest, const std::string& version) {
  Profile p;
  p.version = version;
  p.model_hash = hex(manifest.hash);
  for (const BoardDescription& b : d.boards) {
    const BoardProfile one = estimate(b, manifest, d.message_s);
    for (int slot = 0; slot < b.count; ++slot) {
      p.boards.push_back(one);
      p.boards.back().host = b.count > 1 ? fmt::format("{}-{}", b.name, slot) : b.name;
    }
  }
  const auto n = static_cast<int>(p.boards.size());
  for (int from = 0; from < n; ++from) {
    for (int to = 0; to < n; ++to) {
      if (from != to) p.links.push_back({from, to, d.latency_s, d.link_bytes_per_s});
    }
  }
  for (int boards = 2; boards <= n; ++boards) {
    const double messages = 2.0 * (boards - 1) * d.message_s;
    p.gathers.push_back({boards, d.latency_s + messages, 1 / d.link_bytes_per_s});
  }
  return p;
}

}  // namespace jupiter

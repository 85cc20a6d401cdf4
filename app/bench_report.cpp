// Rates from times, and the three formats.
#include "app/bench_report.hpp"

#include <fmt/format.h>

#include <cmath>
#include <map>
#include <numeric>

#include "app/command.hpp"
#include "app/engine.hpp"
#include "app/rank_json.hpp"
#include "io/hash.hpp"

namespace jupiter {

namespace {

using nlohmann::ordered_json;

struct Spread {
  double mean = 0;
  double deviation = 0;  // of the samples, as llama-bench has it
};

Spread spread_of(const std::vector<double>& samples) {
  const auto n = static_cast<double>(samples.size());
  Spread s;
  s.mean = std::accumulate(samples.begin(), samples.end(), 0.0) / n;
  double squares = 0;
  for (const double x : samples) squares += (x - s.mean) * (x - s.mean);
  s.deviation = samples.size() > 1 ? std::sqrt(squares / (n - 1)) : 0;
  return s;
}

std::vector<double> tokens_per_s(const BenchRow& row) {
  std::vector<double> rates;
  for (const double s : row.samples_s) rates.push_back(static_cast<double>(row.test.tokens()) / s);
  return rates;
}

std::int64_t parameters(const Manifest& m) {
  std::int64_t n = 0;
  for (const FileInfo& f : m.files) {
    for (const DatasetInfo& d : f.datasets) n += d.kind == DatasetInfo::Kind::bytes ? 0 : d.rows * d.cols;
  }
  return n;
}

std::uint64_t model_bytes(const Manifest& m) {
  std::uint64_t bytes = 0;
  for (const FileInfo& f : m.files) bytes += f.name == tokenizer_file_name() ? 0 : f.bytes();
  return bytes;
}

// "SmolLM2 q4m": the format that most of the bytes have.
std::string model_type(const Manifest& m) {
  std::map<Format, std::uint64_t> bytes;
  for (const FileInfo& f : m.files) {
    for (const DatasetInfo& d : f.datasets) bytes[d.format] += d.kind == DatasetInfo::Kind::matrix ? d.bytes : 0;
  }
  const auto most = std::max_element(bytes.begin(), bytes.end(), [](auto& a, auto& b) { return a.second < b.second; });
  const std::string& known = m.config.model_name;
  return fmt::format("{} {}", known.empty() ? name(m.config.architecture) : known, name(most->first));
}

// Multiply-adds with weights that a token costs in all layers, and those of a row of logits.
double layer_multiplies(const ModelConfig& c) {
  return static_cast<double>(c.n_layers * c.layer_multiplies());
}
double head_multiplies(const ModelConfig& c) {
  return static_cast<double>(c.dim * c.vocab_size);
}

// Weights that one generated token reads on this rank; of the embedding it reads a row.
double bytes_per_token(const Manifest& m, std::int64_t first_layer, std::int64_t last_layer) {
  const bool head = last_layer == m.config.n_layers;
  return static_cast<double>(read_bytes(m, {first_layer, last_layer, false, head}));
}

// What a row's mean time says about the machine; the peaks are those of all ranks together.
struct Rates {
  double bytes_per_token = 0;
  double read = 0;      // bytes per second
  double multiply = 0;  // multiply-adds per second
  double peak_read = 0;
  double peak_multiply = 0;
  std::optional<double> peak_fraction;  // none without a peak
};

Rates rates_of(const BenchSetting& setting, const BenchRow& row) {
  const Manifest& m = setting.manifest;
  Rates r;
  double least_read_s = 0;
  for (std::size_t i = 0; i < row.ranks.size(); ++i) {
    if (row.ranks[i].last_layer == 0) continue;  // a plan left this board out
    const double bytes = bytes_per_token(m, row.ranks[i].first_layer, row.ranks[i].last_layer);
    r.bytes_per_token += bytes;
    least_read_s += bytes / row.peaks[i].read_bytes_per_s;
    r.peak_multiply += row.peaks[i].multiplies_per_s;
  }
  r.peak_read = r.bytes_per_token / least_read_s;  // ranks read one after the other
  const double seconds = spread_of(row.samples_s).mean;
  const auto frames = static_cast<double>(row.frames);  // each reads the layers
  const auto logits = static_cast<double>(row.test.n_gen > 0 ? row.test.n_gen : 1);
  const double head_bytes = bytes_per_token(m, m.config.n_layers, m.config.n_layers);
  r.read = (frames * (r.bytes_per_token - head_bytes) + logits * head_bytes) / seconds;
  r.multiply =
      (static_cast<double>(row.test.tokens()) * layer_multiplies(m.config) + logits * head_multiplies(m.config)) /
      seconds;
  if (row.test.n_gen > 0) {
    r.peak_fraction = r.read / r.peak_read;
  } else if (r.peak_multiply > 0) {
    r.peak_fraction = r.multiply / r.peak_multiply;
  }
  return r;
}

ordered_json row_json(const BenchSetting& setting, const BenchRow& row) {
  std::vector<double> samples_ns;
  for (const double s : row.samples_s) samples_ns.push_back(std::round(s * 1e9));
  const Manifest& m = setting.manifest;
  const Spread ns = spread_of(samples_ns);
  const Spread ts = spread_of(tokens_per_s(row));
  const Rates rates = rates_of(setting, row);
  ordered_json j = setting.info;
  j.update({{"model_filename", setting.folder},
            {"model_type", model_type(m)},
            {"model_size", model_bytes(m)},
            {"model_n_params", parameters(m)},
            {"multiply_instruction", multiply_instruction(kernels())},
            {"ranks", row.ranks.size()},
            {"n_batch", setting.chunk_tokens},
            {"n_threads", row.threads},
            {"type_k", name(setting.keys)},
            {"type_v", name(setting.values)},
            {"n_prompt", row.test.n_prompt},
            {"n_gen", row.test.n_gen},
            {"n_depth", row.test.n_depth},
            {"test_time", row.test_time},
            {"avg_ns", std::llround(ns.mean)},
            {"stddev_ns", std::llround(ns.deviation)},
            {"avg_ts", ts.mean},
            {"stddev_ts", ts.deviation},
            {"bytes_per_token", std::llround(rates.bytes_per_token)},
            {"read_gb_per_s", rates.read * 1e-9},
            {"multiply_gmac_per_s", rates.multiply * 1e-9},
            {"peak_read_gb_per_s", rates.peak_read * 1e-9},
            {"peak_multiply_gmac_per_s", nullptr},
            {"peak_fraction", nullptr}});
  if (rates.peak_multiply > 0) j["peak_multiply_gmac_per_s"] = rates.peak_multiply * 1e-9;
  if (rates.peak_fraction) j["peak_fraction"] = *rates.peak_fraction;
  for (const double s : samples_ns) j["samples_ns"].push_back(std::llround(s));
  j["samples_ts"] = tokens_per_s(row);
  for (std::size_t i = 0; i < row.ranks.size(); ++i) {
    ordered_json rank = rank_json(row.ranks[i]);
    rank["peak_read_gb_per_s"] = row.peaks[i].read_bytes_per_s * 1e-9;
    rank["peak_multiply_gmac_per_s"] = row.peaks[i].multiplies_per_s * 1e-9;
    j["per_rank"].push_back(std::move(rank));
  }
  return j;
}

std::string join(const std::vector<std::string>& texts, const char* separator) {
  std::string all;
  for (const std::string& t : texts) all += (all.empty() ? "" : separator) + t;
  return all;
}

// One value a rank, in order of rank.
template <typename Value>
std::string by_rank(const BenchRow& row, const char* separator, const Value& value) {
  std::vector<std::string> texts;
  for (const RankReport& r : row.ranks) texts.push_back(value(r));
  return join(texts, separator);
}

// Scalars of the JSON row under their names; per rank, bytes sent and seconds idle.
void print_csv(const BenchSetting& setting, const BenchRow& row, bool header) {
  std::vector<std::string> names, values;
  const ordered_json j = row_json(setting, row);
  for (const auto& [key, value] : j.items()) {
    if (value.is_array()) continue;
    names.push_back(key);
    std::string text = value.is_string() ? value.get<std::string>() : value.is_null() ? "" : value.dump();
    for (std::size_t at = 0; (at = text.find('"', at)) != std::string::npos; at += 2) text.insert(at, 1, '"');
    values.push_back('"' + text + '"');
  }
  names.insert(names.end(), {"sent_bytes_by_rank", "wait_s_by_rank"});
  values.push_back('"' + by_rank(row, " ", [](auto& r) { return fmt::format("{}", r.sent_bytes); }) + '"');
  values.push_back('"' + by_rank(row, " ", [](auto& r) { return fmt::format("{:.6f}", r.wait_s); }) + '"');
  if (header) print(join(names, ",") + "\n");
  print(join(values, ",") + "\n");
}

std::string test_name(const BenchTest& t) {
  return fmt::format("{}{}{}", t.n_gen > 0 ? "tg" : "pp", t.tokens(),
                     t.n_depth > 0 ? fmt::format(" @ d{}", t.n_depth) : "");
}

using Cell = std::pair<std::string, std::string>;  // title and value

// As llama-bench prints them; traffic and waiting matter between ranks only.
std::vector<Cell> markdown_cells(const BenchSetting& setting, const BenchRow& row) {
  const Manifest& m = setting.manifest;
  const Spread ts = spread_of(tokens_per_s(row));
  const auto fraction = rates_of(setting, row).peak_fraction;
  std::vector<Cell> cells = {
      {"model", model_type(m)},
      {"size", fmt::format("{:.1f} MB", static_cast<double>(model_bytes(m)) * 1e-6)},
      {"params", fmt::format("{:.1f} M", static_cast<double>(parameters(m)) * 1e-6)},
      {"kernels", std::string(kernels().name)},
      {"ranks", std::to_string(row.ranks.size())},
      {"threads", std::to_string(row.threads)},
      {"test", fmt::format("{:>12}", test_name(row.test))},
      {"t/s", fmt::format("{:>8.2f} ± {:>6.2f}", ts.mean, ts.deviation)},
      {"of peak", fraction ? fmt::format("{:.1f} %", *fraction * 100) : "-"},
  };
  if (row.ranks.size() > 1) {
    const auto mb = [](const RankReport& r) { return fmt::format("{:.2f}", static_cast<double>(r.sent_bytes) * 1e-6); };
    const auto idle = [](const RankReport& r) { return fmt::format("{:.2f}", r.wait_s); };
    cells.emplace_back("MB sent by rank", by_rank(row, " / ", mb));
    cells.emplace_back("s idle by rank", by_rank(row, " / ", idle));
  }
  return cells;
}

void print_markdown(const BenchSetting& setting, const BenchRow& row, bool header) {
  std::string titles, rule, values;
  for (const auto& [title, value] : markdown_cells(setting, row)) {
    const std::size_t width = std::max(title.size(), value.size());
    titles += fmt::format("| {:>{}} ", title, width);
    rule += "| " + std::string(width - 1, '-') + ": ";
    values += fmt::format("| {:>{}} ", value, width);
  }
  if (header) print(titles + "|\n" + rule + "|\n");
  print(values + "|\n");
}

// What the fractions refer to, once for every number of threads.
void print_peaks(const std::vector<BenchRow>& rows) {
  int threads = 0;
  print("\n");
  for (const BenchRow& row : rows) {
    if (row.threads == std::exchange(threads, row.threads)) continue;
    for (std::size_t i = 0; i < row.peaks.size(); ++i) {
      const RankPeaks& p = row.peaks[i];
      if (p.read_bytes_per_s == 0) continue;  // a plan left this board out
      const std::string_view instruction = multiply_instruction(kernels());
      print(fmt::format("peak of rank {} with {} thread{}: memory read {:.1f} GB/s, {}\n", i, threads,
                        threads == 1 ? "" : "s", p.read_bytes_per_s * 1e-9,
                        instruction.empty()
                            ? "no int8 instruction"
                            : fmt::format("multiply {:.1f} GMAC/s ({})", p.multiplies_per_s * 1e-9, instruction)));
    }
  }
}

}  // namespace

std::optional<BenchFormat> bench_format_from_name(std::string_view text) {
  if (text == "md") return BenchFormat::markdown;
  if (text == "csv") return BenchFormat::csv;
  if (text == "json") return BenchFormat::json;
  return std::nullopt;
}

BenchReport::BenchReport(BenchFormat format, BenchSetting setting) : format_(format), setting_(std::move(setting)) {}

void BenchReport::add(BenchRow row) {
  if (format_ == BenchFormat::csv) print_csv(setting_, row, rows_.empty());
  if (format_ == BenchFormat::markdown) print_markdown(setting_, row, rows_.empty());
  rows_.push_back(std::move(row));
}

void BenchReport::finish() {
  if (format_ == BenchFormat::markdown) print_peaks(rows_);
  if (format_ != BenchFormat::json) return;
  ordered_json list = ordered_json::array();
  for (const BenchRow& row : rows_) list.push_back(row_json(setting_, row));
  print(list.dump(1) + "\n");
}

}  // namespace jupiter

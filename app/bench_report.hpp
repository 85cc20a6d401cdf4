// What `bench` measured, as rows of llama-bench's shape and fields and of ours.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "io/model/manifest.hpp"
#include "kernels/kv_cache.hpp"
#include "parallel/measure/peaks.hpp"
#include "parallel/pipeline/pipeline.hpp"

namespace jupiter {

// A prompt of n_prompt tokens or n_gen generated ones (the other is 0), after n_depth tokens that are not counted.
struct BenchTest {
  std::int64_t n_prompt = 0;
  std::int64_t n_gen = 0;
  std::int64_t n_depth = 0;
  std::int64_t tokens() const { return n_prompt + n_gen; }
};

// What is the same in every row.
struct BenchSetting {
  Manifest manifest;
  nlohmann::ordered_json info;  // result_info
  std::string folder;
  std::int64_t chunk_tokens = 0;
  KvType keys = KvType::f16;
  KvType values = KvType::f16;
};

struct BenchRow {
  BenchTest test;
  int threads = 0;
  std::int64_t frames = 0;        // of one repetition
  std::string test_time;          // UTC, ISO 8601
  std::vector<double> samples_s;  // by repetition
  std::vector<RankReport> ranks;  // sums over the repetitions
  std::vector<RankPeaks> peaks;   // by rank, of this number of threads
};

enum class BenchFormat { markdown, csv, json };
std::optional<BenchFormat> bench_format_from_name(std::string_view text);

// Writes rows to standard output: at once, or with finish() where the format needs all of them.
class BenchReport {
 public:
  BenchReport(BenchFormat format, BenchSetting setting);
  void add(BenchRow row);
  void finish();

 private:
  BenchFormat format_;
  BenchSetting setting_;
  std::vector<BenchRow> rows_;
};

}  // namespace jupiter

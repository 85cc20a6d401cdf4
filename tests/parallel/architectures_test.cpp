// The engine itself, from conversion to logits, against Hugging Face transformers for every architecture.
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "io/convert/convert.hpp"
#include "io/convert/synth.hpp"
#include "io/files.hpp"
#include "parallel/pipeline/stage.hpp"

namespace jupiter {
namespace {

namespace fs = std::filesystem;

const fs::path kData = fs::path(JUPITER_TEST_DATA) / "architectures";

class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string pattern = (fs::temp_directory_path() / "jupiter-XXXXXX").string();
    if (::mkdtemp(pattern.data()) == nullptr) throw std::runtime_error("mkdtemp");
    path_ = pattern;
  }
  ~TemporaryFolder() { fs::remove_all(path_); }
  const fs::path& path() const { return path_; }

 private:
  fs::path path_;
};

// Logits by position of one sequence, in chunks of the given length.
// threads: of the stage.
std::vector<std::vector<float>> engine_logits(const fs::path& source, Quantization quantization,
                                              const std::vector<TokenId>& tokens, std::int64_t chunk, int threads = 2) {
  const TemporaryFolder folder;
  ConvertOptions convert;
  convert.quantization = quantization;
  convert.residual = Precision::f32;
  // More tokens than the short factors of this model are for.
  const std::int64_t context = source.filename().string().starts_with("phi3-long") ? 64 : 0;
  const Manifest m = convert_model(*open_model_source(source.string(), context), folder.path(), convert);
  ThreadPool pool({.threads = threads, .share_cores = true});
  const ModelPart all{0, m.config.n_layers, true, true};
  const StageOptions options{
      .context_tokens = 128, .cache_tokens = 128, .max_rows = 64, .keys = KvType::f32, .values = KvType::f32};
  Stage stage(m.config, ModelFiles(folder.path(), m, all, true), options, pool, 1);
  std::vector<std::vector<float>> rows;
  stage.set_logits_sink([&](SequenceId, std::int64_t position, std::span<const float> row) {
    EXPECT_EQ(position, static_cast<std::int64_t>(rows.size()));
    rows.emplace_back(row.begin(), row.end());
  });
  stage.open(1, {});
  const auto count = static_cast<std::int64_t>(tokens.size());
  for (std::int64_t at = 0; at < count; at += chunk) {
    const std::int64_t n = std::min(chunk, count - at);
    Frame f;
    f.runs = {FrameRun::consecutive(1, at, n, FrameRun::every_row)};
    f.tokens.assign(tokens.begin() + at, tokens.begin() + at + n);
    stage.forward(f);
  }
  return rows;
}

double relative_difference(const std::vector<float>& got, const std::vector<double>& want) {
  double difference = 0, norm = 0;
  for (std::size_t i = 0; i < want.size(); ++i) {
    difference += (got[i] - want[i]) * (got[i] - want[i]);
    norm += want[i] * want[i];
  }
  return std::sqrt(difference / norm);
}

struct Case {
  const char* source;
  const char* expected;
};

class Architectures : public testing::TestWithParam<Case> {};

TEST_P(Architectures, LogitsAgreeWithTransformers) {
  const auto expected = nlohmann::json::parse(read_file(kData / GetParam().expected / "expected.json"));
  const auto tokens = expected["tokens"].get<std::vector<TokenId>>();
  double worst = 0;
  for (const std::int64_t chunk : {5, 64}) {
    const auto rows = engine_logits(kData / GetParam().source, Quantization::f32, tokens, chunk);
    ASSERT_EQ(rows.size(), tokens.size());
    for (std::size_t n = 0; n < expected["positions"].size(); ++n) {
      const auto want = expected["logits"][n].get<std::vector<double>>();
      const auto& got = rows[expected["positions"][n].get<std::size_t>()];
      ASSERT_EQ(got.size(), want.size());
      const double difference = relative_difference(got, want);
      EXPECT_LT(difference, 1e-4) << "chunks of " << chunk << ", position " << n;
      worst = std::max(worst, difference);
    }
  }
  RecordProperty("largest_relative_difference", std::to_string(worst * 1e9) + "e-9");
}

INSTANTIATE_TEST_SUITE_P(
    All, Architectures,
    testing::Values(Case{"llama-tied", "llama-tied"}, Case{"llama-untied", "llama-untied"},
                    Case{"llama-linear", "llama-linear"}, Case{"llama3", "llama3"}, Case{"llama3.gguf", "llama3"},
                    Case{"mistral", "mistral"}, Case{"qwen2", "qwen2"}, Case{"qwen3", "qwen3"},
                    Case{"llama-yarn", "llama-yarn"}, Case{"gemma2", "gemma2"}, Case{"gemma3", "gemma3"},
                    Case{"phi3", "phi3"}, Case{"phi3-short", "phi3-short"}, Case{"phi3-long", "phi3-long"},
                    Case{"granite", "granite"}, Case{"smollm3", "smollm3"}, Case{"mixtral", "mixtral"},
                    Case{"qwen2moe", "qwen2moe"}, Case{"qwen3moe", "qwen3moe"}, Case{"qwen3moe.gguf", "qwen3moe"},
                    Case{"olmoe", "olmoe"}, Case{"granitemoe", "granitemoe"}, Case{"gpt-oss", "gpt-oss"},
                    Case{"gpt-oss.gguf", "gpt-oss"}, Case{"gpt-oss-mxfp4", "gpt-oss"}),
    [](const auto& instance) {
      std::string name = instance.param.source;
      for (char& c : name) c = std::isalnum(static_cast<unsigned char>(c)) ? c : '_';
      return name;
    });

// Experts in MXFP4 are kept, and both kinds of source give one model.
TEST(ArchitecturesExact, MxFp4IsTheSameFromBothSources) {
  const auto expected = nlohmann::json::parse(read_file(kData / "gpt-oss" / "expected.json"));
  const auto tokens = expected["tokens"].get<std::vector<TokenId>>();
  const auto whole = engine_logits(kData / "gpt-oss-mxfp4", Quantization::keep, tokens, 64);
  EXPECT_EQ(engine_logits(kData / "gpt-oss.gguf", Quantization::keep, tokens, 64), whole);
  EXPECT_EQ(engine_logits(kData / "gpt-oss-mxfp4", Quantization::keep, tokens, 3, 1), whole);
  const auto want = expected["logits"].back().get<std::vector<double>>();
  EXPECT_LT(relative_difference(whole.back(), want), 0.05);  // activations have eight bits
}

TEST(ArchitecturesExact, RowsDoNotDependOnChunksOrThreads) {
  for (const char* name :
       {"mistral", "gemma2", "gemma3", "phi3", "smollm3", "qwen2moe", "qwen3moe", "granitemoe", "gpt-oss"}) {
    const auto expected = nlohmann::json::parse(read_file(kData / name / "expected.json"));
    const auto tokens = expected["tokens"].get<std::vector<TokenId>>();
    for (const Quantization quantization : {Quantization::f32, Quantization::f16, Quantization::q8}) {
      const bool whole_groups = std::string(name).find("moe") != std::string::npos || name[0] == 'g';
      if (quantization == Quantization::q8 && !whole_groups) continue;  // hidden rows of 48 columns
      const auto whole = engine_logits(kData / name, quantization, tokens, 64);
      for (const std::int64_t chunk : {1, 3, 16}) {
        EXPECT_EQ(engine_logits(kData / name, quantization, tokens, chunk, static_cast<int>(chunk % 3) + 1), whole)
            << name << " " << chunk;
      }
    }
  }
}

// Bytes of a mapped file that this process has touched.
std::uint64_t resident_bytes(const fs::path& file) {
  std::ifstream maps("/proc/self/smaps");
  std::uint64_t sum = 0;
  bool of_file = false;
  for (std::string line; std::getline(maps, line);) {
    const std::string first = line.substr(0, line.find(' '));
    if (!first.ends_with(":")) of_file = line.ends_with(file.string());  // the head of a mapping
    if (of_file && first == "Rss:") sum += std::stoull(line.substr(line.find_first_of("0123456789"))) << 10;
  }
  return sum;
}

TEST(Experts, OnlyThoseThatAreUsedAreRead) {
  const TemporaryFolder folder;
  ModelConfig c = *synth_shape("tiny");
  c.architecture = Architecture::qwen3moe;
  c.n_layers = 1;
  c.dim = 256;
  c.hidden_dim = 0;
  c.n_experts = 16;
  c.n_experts_used = 2;
  c.expert_hidden_dim = 256;
  const Manifest m = convert_model(*synth_source(c, GgufType::f32, 1), folder.path(), {});
  ThreadPool pool({.threads = 1, .share_cores = true});
  Stage stage(c, ModelFiles(folder.path(), m, {0, 1, true, true}, false),
              {.context_tokens = 32, .cache_tokens = 32, .max_rows = 64}, pool, 1);
  const fs::path file = folder.path() / layer_file_name(0);
  const std::uint64_t expert = 3 * 256 * 256 * sizeof(float), rest = 1 << 20;
  EXPECT_LT(resident_bytes(file), rest) << "loading touches no expert";
  stage.set_logits_sink([](SequenceId, std::int64_t, std::span<const float>) {});
  stage.open(1, {});
  Frame f;
  f.runs = {FrameRun::consecutive(1, 0, 1, FrameRun::every_row)};
  f.tokens = {7};
  stage.forward(f);
  EXPECT_GE(resident_bytes(file), 2 * expert);
  EXPECT_LT(resident_bytes(file), 4 * expert + rest) << "of 16 experts";
}

}  // namespace
}  // namespace jupiter

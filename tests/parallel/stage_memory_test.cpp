// What is said about memory against what is allocated, for random shapes, parts and workloads.
#include "parallel/plan/stage_memory.hpp"

#include <gtest/gtest.h>

#include <filesystem>
#include <random>

#include "io/convert/convert.hpp"
#include "io/convert/synth.hpp"
#include "io/files.hpp"
#include "parallel/pipeline/speculation.hpp"
#include "parallel/pipeline/stage.hpp"

namespace jupiter {
namespace {

namespace fs = std::filesystem;

class StageMemoryTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (fs::temp_directory_path() / "jupiter-XXXXXX").string();
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
  }
  void TearDown() override { fs::remove_all(folder_); }
  std::int64_t between(std::int64_t low, std::int64_t high) {
    return std::uniform_int_distribution<std::int64_t>(low, high)(random_);
  }
  Manifest random_model() {
    ModelConfig c = *synth_shape("tiny");
    c.head_dim = 16 << between(0, 2);
    c.n_kv_heads = between(1, 3);
    c.n_heads = c.n_kv_heads * between(1, 3);
    c.dim = 32 * between(1, 6);
    c.hidden_dim = 32 * between(1, 8);
    c.n_layers = between(1, 6);
    if (between(0, 1) == 1) {
      c.architecture = Architecture::qwen2moe;
      c.n_experts = between(1, 9);
      c.n_experts_used = between(1, c.n_experts);
      c.expert_hidden_dim = 32 * between(1, 4);
      c.shared_expert_gate = true;
    }
    if (between(0, 1) == 1) {
      c.sliding_window = 8;
      c.sliding_rope_theta = 1000;
    }
    c.vocab_size = 300 + between(0, 500);
    c.max_seq_len = 32 * between(1, 40) + between(0, 31);
    c.tied_embeddings = between(0, 1) == 1;
    ConvertOptions options;
    options.quantization = c.q_dim() % 32 == 0 && between(0, 1) == 1 ? Quantization::q8 : Quantization::f32;
    fs::remove_all(folder_);
    return convert_model(*synth_source(c, GgufType::f32, 1), folder_, options);
  }
  Workload random_workload(const ModelConfig& c) {
    const auto type = [&] { return static_cast<KvType>(between(0, c.head_dim % 32 == 0 ? 2 : 1)); };
    Workload w;
    w.requests = between(1, 20);
    w.context_tokens = between(1, c.max_seq_len);
    w.cache_tokens = between(0, 1) * between(1, 5000);
    w.point_tokens = between(0, 1) * between(1, 500);
    w.chunk_tokens = between(1, 600);
    w.keys = type();
    w.values = type();
    w.drafts = between(0, 1) == 1;
    w.draft_max = between(0, 63);
    return w;
  }
  fs::path folder_;
  std::mt19937_64 random_{1};
};

TEST_F(StageMemoryTest, EqualsWhatAStageAllocates) {
  for (int i = 0; i < 50; ++i) {
    const Manifest m = random_model();
    const Workload w = random_workload(m.config);
    const auto stages = static_cast<int>(between(1, m.config.n_layers));
    const auto rank = static_cast<int>(between(0, stages - 1)), threads = static_cast<int>(between(1, 3));
    const Slice layers = slice_of(m.config.n_layers, rank, stages);
    const ModelPart part{layers.first, layers.last, rank == 0, rank + 1 == stages};
    const StageOptions options = stage_options(w, stages);
    ThreadPool pool({.threads = threads, .share_cores = true});
    const Stage stage(m.config, ModelFiles(folder_, m, part, false), options, pool, stages);
    const StageMemory said = stage_memory(m, part, w, {stages, threads});
    const StageBuffers found = stage.buffers();
    EXPECT_EQ(said.cache, found.cache) << i;
    EXPECT_EQ(said.work, found.work) << i;
    EXPECT_GE(said.weights, stage.weight_bytes()) << i;
    EXPECT_EQ(said.total(), said.weights + said.own()) << i;
  }
}

// Every item counts in the sum: a field that own() forgets would be memory that nobody plans for.
TEST_F(StageMemoryTest, SumsUpEveryItem) {
  const StageMemory m{1, 20, 300, 4000, 50000, 600000, 7000000, 80000000};
  EXPECT_EQ(m.total(), 87654321u);
  EXPECT_EQ(m.own(), 87654320u);
}

TEST_F(StageMemoryTest, CountsWhatStandsAtTheEndsOfThePipelineThere) {
  const Manifest m = random_model();
  Workload w = random_workload(m.config);
  w.drafts = true;
  w.draft_file_bytes = 1000;
  const auto of = [&](bool first, bool last) { return stage_memory(m, {0, 1, first, last}, w, {2, 1}); };
  EXPECT_EQ(of(true, false).drafters, 0u);
  EXPECT_GT(of(false, true).drafters, 1000u);
  EXPECT_EQ(of(false, true).tokenizer, 0u);
  EXPECT_GT(of(true, false).tokenizer, 0u);
  EXPECT_GT(of(false, true).messages, 0u);
  EXPECT_EQ(stage_memory(m, {0, 1, true, true}, w, {1, 1}).messages, 0u);
  w.drafts = false;
  EXPECT_EQ(of(false, true).drafters, 0u);
  EXPECT_EQ(stage_memory(m, {0, 1, true, true}, w, {1, 1}, 12345).draft_model, 12345u);
}

TEST_F(StageMemoryTest, TheLeastPoolHoldsOneRequestAndItsTree) {
  Workload w;
  w.context_tokens = 100;
  w.requests = 16;
  w.cache_tokens = 1000;
  EXPECT_EQ(least_blocks(w, 3), 4 + spare_tree_blocks(3, 16) + 1);
  EXPECT_EQ(pool_blocks(w, 3), 32 + 16 * (spare_tree_blocks(3, 16) + 1));
  w.cache_tokens = 10;  // less than one context
  EXPECT_EQ(pool_blocks(w, 3), 4 + 16 * (spare_tree_blocks(3, 16) + 1));
  w.drafts = false;
  EXPECT_EQ(pool_blocks(w, 3), 4 + 16);
}

}  // namespace
}  // namespace jupiter

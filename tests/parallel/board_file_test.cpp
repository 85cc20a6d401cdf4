// Boards that a file describes, and what other systems' schedules would take on them.
#include "parallel/plan/board_file.hpp"

#include <gtest/gtest.h>

#include <filesystem>

#include "io/convert/convert.hpp"
#include "io/convert/synth.hpp"
#include "io/error.hpp"
#include "parallel/plan/baselines.hpp"

namespace jupiter {
namespace {

const char* const kFourBoards = R"({"boards": [{"name": "pi", "count": 4, "threads": 4, "memory_mib": 7400,
  "read_gb_per_s": 10, "int8_gmac_per_s": 100, "float_gmac_per_s": 20}],
  "network": {"mbit_per_s": 1000, "latency_us": 100, "message_us": 20}})";

Manifest shape(const std::string& name) {
  return synth_manifest(*synth_shape(name), GgufType::q4_0);
}

// The text with one part replaced.
std::string with(std::string text, const std::string& part, const std::string& by) {
  const auto at = text.find(part);
  EXPECT_NE(at, std::string::npos) << part;
  return text.replace(at, part.size(), by);
}

TEST(SynthManifest, HasTheBytesThatAConversionWrites) {
  const std::filesystem::path folder = std::filesystem::temp_directory_path() / "jupiter-synth-manifest";
  for (const char* name : {"tiny", "smollm2-135m", "qwen3-30b-a3b"}) {
    ModelConfig config = *synth_shape(name);
    config.n_layers = 2;
    if (config.n_experts > 0) {  // smaller, to be written quickly
      config.n_experts = 4;
      config.n_experts_used = 2;
      config.vocab_size = 512;
    }
    const Manifest planned = synth_manifest(config, GgufType::q4_0);
    const Manifest written = convert_model(*synth_source(config, GgufType::q4_0, 1), folder, {});
    for (const FileInfo& file : written.files) {
      if (file.name == tokenizer_file_name()) continue;  // an estimate
      const FileInfo& other = planned.file(file.name);
      ASSERT_EQ(other.datasets.size(), file.datasets.size()) << file.name;
      for (const DatasetInfo& d : file.datasets) {
        const DatasetInfo* same = other.find(d.name);
        ASSERT_NE(same, nullptr) << file.name << " " << d.name;
        EXPECT_EQ(same->bytes, d.bytes) << d.name;
        EXPECT_EQ(same->kind, d.kind) << d.name;
        EXPECT_EQ(same->format, d.format) << d.name;
      }
    }
    EXPECT_THROW(write_synth_manifest(planned, folder), UsageError);  // it would hide weights
    std::filesystem::remove_all(folder);
    write_synth_manifest(planned, folder);
    EXPECT_EQ(read_manifest(folder).hash, planned.hash);
    std::filesystem::remove_all(folder);
  }
}

TEST(BoardFile, TimesAreThoseOfTheRoofline) {
  const Manifest m = shape("llama2-7b");
  const Profile p = described_profile(parse_boards(kFourBoards, "f"), m, "1");
  ASSERT_EQ(p.boards.size(), 4u);
  EXPECT_EQ(p.boards[3].host, "pi-3");
  EXPECT_EQ(p.boards[0].memory_bytes, std::uint64_t{7400} << 20);
  // A layer of Llama 2 7B: 4 x 4096 x 4096 + 3 x 4096 x 11008 weights, 18 bytes for 32 of them.
  const double weights = 4.0 * 4096 * 4096 + 3.0 * 4096 * 11008;
  EXPECT_NEAR(p.boards[0].layer.at(1, 0), weights * 18 / 32 / 10e9, 2e-6);                        // one row: reading
  EXPECT_NEAR(p.boards[0].layer.at(512, 0), 512 * weights / 100e9, 0.2 * 512 * weights / 100e9);  // many: multiplying
  EXPECT_GT(p.boards[0].layer.at(512, 0), 512 * weights / 100e9);  // and attention within the rows
  EXPECT_EQ(p.links.size(), 12u);
  EXPECT_DOUBLE_EQ(p.hop_into(2).bytes_per_s, 125e6);
  ASSERT_TRUE(p.gather_of(4).has_value());
  EXPECT_NEAR(p.gather_of(4)->latency_s, 100e-6 + 6 * 20e-6, 1e-9);
}

TEST(BoardFile, RowsReadTheExpertsThatTheyChoose) {
  const Manifest m = shape("qwen3-30b-a3b");
  const Profile p = described_profile(parse_boards(kFourBoards, "f"), m, "1");
  // Attention 2 x 2048 x (32 + 4) x 128 weights, 8 of 128 experts of 3 x 2048 x 768, and a router in f32.
  const double attention = 2.0 * 2048 * 36 * 128 * 18 / 32, expert = 3.0 * 2048 * 768 * 18 / 32,
               router = 2048 * 128 * 4;
  const LayerCost& layer = p.boards[0].layer;
  EXPECT_NEAR(layer.at(1, 0), (attention + 8 * expert + router) / 10e9, 3e-6);
  // Two rows share half an expert on average.
  EXPECT_NEAR(layer.at(2, 0) - layer.at(1, 0), 7.5 * expert / 10e9, 3e-6);
  // Many rows touch all experts, and multiply with eight each.
  const double macs = 2.0 * 2048 * 36 * 128 + 8 * 3.0 * 2048 * 768 + 2048 * 128;
  EXPECT_NEAR(layer.at(512, 0), 512 * macs / 100e9, 0.25 * 512 * macs / 100e9);
  EXPECT_GT(layer.at(512, 0), (attention + 128 * expert) / 10e9);
}

TEST(BoardFile, NonsenseIsRefusedByName) {
  const auto message = [](const std::string& text) -> std::string {
    try {
      parse_boards(text, "boards.json");
    } catch (const FormatError& e) {
      return e.what();
    }
    return "";
  };
  EXPECT_EQ(message(kFourBoards), "");
  EXPECT_NE(message(with(kFourBoards, "\"read_gb_per_s\": 10,", "")).find("read_gb_per_s"), std::string::npos);
  EXPECT_NE(message(with(kFourBoards, "\"count\": 4", "\"count\": 0")).find("count"), std::string::npos);
  EXPECT_NE(message(with(kFourBoards, "\"count\": 4", "\"count\": 9999")).find("count"), std::string::npos);
  EXPECT_NE(message(with(kFourBoards, "\"memory_mib\": 7400", "\"memory_mib\": -1")).find("memory_mib"),
            std::string::npos);
  EXPECT_NE(message(with(kFourBoards, "\"network\"", "\"net\"")).find("network"), std::string::npos);
  EXPECT_NE(message(R"({"boards": [], "network": {}})").find("boards"), std::string::npos);
}

// Names, in order, with a value of each.
const BaselineForecast& of(const std::vector<BaselineForecast>& all, const std::string& name) {
  for (const BaselineForecast& f : all) {
    if (f.name == name) return f;
  }
  throw std::runtime_error("no " + name);
}

class Baselines : public ::testing::Test {
 protected:
  std::vector<BaselineForecast> forecast(const std::string& boards, double hit_rate = 0) {
    PlanRequest r{.prompt_tokens = 512, .new_tokens = 128, .hit_rate = hit_rate, .workload = {}};
    r.workload.context_tokens = 1024;
    return forecast_baselines(described_profile(parse_boards(boards, "f"), manifest_, "1"), manifest_, r);
  }
  Manifest manifest_ = shape("llama2-7b");
};

TEST_F(Baselines, SchedulesCompareAsTheirPapersSay) {
  const auto all = forecast(kFourBoards, 0.8);
  for (const BaselineForecast& f : all) EXPECT_EQ(f.reason, "") << f.name;
  const BaselineForecast &one = of(all, "one board"), &edge = of(all, "EdgeShard"), &megatron = of(all, "Megatron-LM");
  // Sequential stages compute what one board computes.
  EXPECT_NEAR(edge.ttft_s, one.ttft_s, 0.1 * one.ttft_s);
  // Four boards share the products, and wait for four rings a layer.
  EXPECT_LT(megatron.ttft_s, one.ttft_s);
  EXPECT_GT(megatron.ttft_s, one.ttft_s / 4);
  // Galaxy hides rings of prompts, not of single tokens.
  EXPECT_LT(of(all, "Galaxy").ttft_s, megatron.ttft_s);
  EXPECT_NEAR(of(all, "Galaxy").token_s, megatron.token_s, 1e-9);
  EXPECT_LT(of(all, "DeTransformer").token_s, megatron.token_s);
  // SP: the whole model everywhere, an answer as on one board.
  EXPECT_EQ(of(all, "SP").memory[3], one.memory[0]);
  EXPECT_DOUBLE_EQ(of(all, "SP").token_s, one.token_s);
  EXPECT_LT(of(all, "SP").ttft_s, one.ttft_s);
  const BaselineForecast& jupiter = of(all, "Jupiter");
  for (const BaselineForecast& f : all) {
    if (f.name == "DeTransformer") continue;  // computes something else
    EXPECT_LE(jupiter.request_s(128), f.request_s(128) * 1.0001) << f.name;
  }
  EXPECT_LT(jupiter.request_s(128), of(all, "Jupiter without drafts").request_s(128));
  EXPECT_LT(of(all, "Jupiter without tensor groups").ttft_s, of(all, "Jupiter without chunks").ttft_s);
}

TEST_F(Baselines, WhatNeedsTheWholeModelOnABoardIsOutOfMemory) {
  const auto all = forecast(with(kFourBoards, "7400", "2600"));
  EXPECT_EQ(of(all, "one board").reason, "out of memory");
  EXPECT_EQ(of(all, "SP").reason, "out of memory");
  EXPECT_EQ(of(all, "EdgeShard").reason, "");
  EXPECT_EQ(of(all, "Jupiter").reason, "");
}

TEST_F(Baselines, OneBoardIsEnoughForSome) {
  const auto all = forecast(with(kFourBoards, "\"count\": 4", "\"count\": 1"));
  EXPECT_EQ(of(all, "one board").reason, "");
  EXPECT_EQ(of(all, "EdgeShard").reason, "");
  EXPECT_EQ(of(all, "Jupiter").reason, "");
  EXPECT_NE(of(all, "Megatron-LM").reason, "");
}

TEST(SpeculationCost, OneBoardInLapsAndAPipelineInSlots) {
  // 1 + h + h^2 + h^3 tokens of a segment of four.
  const SegmentRate rate = segments_per_token(0.5, 4);
  EXPECT_NEAR(1 / (rate.laps + rate.slots), 1.875, 1e-9);
  EXPECT_EQ(segments_per_token(0, 4).laps, 1);
  EXPECT_EQ(segments_per_token(0, 4).slots, 0);

  BoardProfile b;
  b.layer.base = {{1, 16}, {1e-3, 2e-3}};
  b.embedding = {{1, 512}, {0, 0}};
  b.output_head = {{1, 16}, {0, 0}};
  const StageCost half{.board = &b, .layers = 4, .embedding = true, .hop = {0, 1, 1e-4, 1e9}, .row_bytes = 100};
  StageCost last = half;
  last.embedding = false;
  last.output_head = true;
  const std::vector<StageCost> two{half, last};
  EXPECT_DOUBLE_EQ(token_s(two, 0, {0, 16}), decode_step_s(two, 0));
  // Drafts help; better ones help more; and a token never takes less than its share of a full slot.
  double before = token_s(two, 0, {0, 16});
  for (const double h : {0.3, 0.6, 0.9}) {
    const double s = token_s(two, 0, {h, 16});
    EXPECT_LT(s, before) << h;
    before = s;
  }
  EXPECT_GT(before, slot_s(last, 0, 16) / 16);
  EXPECT_DOUBLE_EQ(token_s(two, 0, {0.9, 0}), decode_step_s(two, 0));  // no room for drafts
}

TEST(Planner, PlansForDraftsPreferStagesThatWorkAtOnce) {
  // Where drafts are good, slots count, and a pipeline of four stages has shorter ones than a single board; plainly
  // decoded answers would only wait for the hops.
  const Manifest m = shape("tinyllama-1.1b");
  const std::string slow_links = with(with(kFourBoards, "\"mbit_per_s\": 1000", "\"mbit_per_s\": 100"),
                                      "\"latency_us\": 100", "\"latency_us\": 4000");
  const Profile p = described_profile(parse_boards(slow_links, "f"), m, "1");
  PlanRequest r{.prompt_tokens = 16, .new_tokens = 512, .workload = {}};
  r.workload.context_tokens = 1024;
  const Plan plain = Planner(p, m, r).best();
  r.hit_rate = 0.9;
  const Planner planner(p, m, r);
  const Plan drafted = planner.best();
  EXPECT_EQ(plain.stages.size(), 1u);
  EXPECT_GT(drafted.stages.size(), 1u);
  EXPECT_GT(drafted.predicted_speculative_tokens_per_s, plain.predicted_decode_tokens_per_s);
  // Never worse than a board alone.
  EXPECT_LE(planner.request_s(drafted), planner.request_s(planner.plan_of(Split{{0}, {m.config.n_layers}})));
}

TEST(Planner, SixtyFourBoardsOfALargeModel) {
  const Manifest m = shape("llama2-13b");
  for (const int count : {8, 16, 32, 64}) {
    const Profile p = described_profile(
        parse_boards(with(kFourBoards, "\"count\": 4", "\"count\": " + std::to_string(count)), "f"), m, "1");
    PlanRequest r{.prompt_tokens = 2048, .new_tokens = 128, .hit_rate = 0.5, .workload = {}};
    const Plan plan = Planner(p, m, r).best();
    check(plan, m.config, "plan");
    EXPECT_GT(plan.predicted_speculative_tokens_per_s, 0);
  }
}

}  // namespace
}  // namespace jupiter

// Seeds that only the program itself can write: messages between ranks, GGUF, HDF5, plans and profiles.
//   fuzz_seeds FOLDER    writes FOLDER/TARGET/NAME
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iostream>

#include "io/convert/synth.hpp"
#include "parallel/comm/collectives.hpp"
#include "parallel/draft_model/remote_draft.hpp"
#include "parallel/pipeline/control.hpp"
#include "parallel/pipeline/output_head.hpp"
#include "parallel/pipeline/pipeline.hpp"
#include "parallel/plan/board_file.hpp"
#include "parallel/plan/plan.hpp"
#include "tests/io/gguf_builder.hpp"

namespace jupiter::fuzz {
namespace {

namespace fs = std::filesystem;

class Seeds {
 public:
  explicit Seeds(fs::path folder) : folder_(std::move(folder)) {}

  // numbers: in the order in which the target takes them, each one or two bytes from the end.
  void put(const std::string& target, const std::string& name, std::string content,
           const std::string& tail = "") const {
    fs::create_directories(folder_ / target);
    content.append(tail.rbegin(), tail.rend());
    std::ofstream(folder_ / target / name, std::ios::binary) << content;
  }
  void put(const std::string& target, const std::string& name, std::span<const std::byte> content,
           const std::string& tail = "") const {
    put(target, name, std::string(reinterpret_cast<const char*>(content.data()), content.size()), tail);
  }

 private:
  fs::path folder_;
};

std::string byte(int value) {
  return std::string(1, static_cast<char>(value));
}
// A number that Pieces::below() takes.
std::string number(int value) {
  return byte(value & 255) + byte(value >> 8);
}

void put_frames(const Seeds& seeds) {
  const auto put = [&](const char* name, int kind, const Message& m, int first = 0, int candidates = 0) {
    seeds.put("frame", name, m.payload, number(kind) + number(first) + number(candidates));
  };
  Frame frame;
  frame.runs = {FrameRun::consecutive(1, 10, 2, FrameRun::sample),
                {.sequence = 3, .rows = 2, .flags = FrameRun::tree, .epoch = 4, .verdict = {9, 7}}};
  frame.tokens = {4, 5, 6, 7};
  frame.links = {{10, 9}, {11, 10}};
  frame.cost = {{0.5, 0.25}};
  frame.residual.resize(64, std::byte{7});
  put("frame", 0, encode(frame, 1));
  FrameResult result;
  result.cost = {{1.5}};
  result.sequences = {{18, {19, 20}, {22, 21}, 23, {{24, {{26, 25}, {27, 26}}, {28, 29}}}}};
  result.sequences[0].logprobs = {{60, -0.5f}, {61, -0.75f}, {62, -1.5f}, {63, -1.75f}};
  put("result", 1, encode_result(2, result));
  put("verdict", 2, encode_verdict(3, {50, {52, 51}}));
  put("context", 3, encode_context(4, {2, {5, 6}}));
  put("guesses", 4, encode_guesses(5, {77, {{5, 0.5f}, {6, 0.25f}}}));
  put("head_rows", 5, encode_head_rows({{1, 2}, 3}));
  std::vector<float> logits(48, 0.5f);
  put("head_logits", 6, encode_head_logits({logits.data(), 3, 16}, 16, 0), 1, 0);
  put("head_candidates", 6, encode_head_logits({logits.data(), 3, 16}, 16, 4), 1, 4);
}

void put_control(const Seeds& seeds) {
  SequenceOptions options;
  options.sampling = {0.5f, 30, 0.75f, 0.125f, 1.5f, 31, 32};
  options.sampling.top_logprobs = 2;
  options.decode = {DecodeMode::lap, true, 33, 34, 35};
  options.end_tokens = {38, 39};
  options.logit_bias = {{2, 2.5f}, {65, -2.5f}};
  options.grammar = {"root ::= \"a\"", "66", true};
  options.answer_position = 67;
  seeds.put("control", "open", encode_open(1, {53, options}).payload, byte(0));
  seeds.put("control", "close", encode_close(2, {54, 0, {55, 56, {58, 57}}}).payload, byte(1));
  seeds.put("control", "closed", encode_closed(3, {59, 0, {}}).payload, byte(2));
  seeds.put("control", "stop", encode_stop(4, ExitCode::interrupted).payload, byte(3));
}

void put_exchange(const Seeds& seeds) {
  using Texts = std::vector<std::string>;
  seeds.put("exchange", "texts", fields::to_bytes(Texts{"one", "", "two"}), byte(1));
  seeds.put("exchange", "optional", fields::to_bytes(std::optional(std::vector<double>{1, 2})), byte(2));
  seeds.put("exchange", "report", fields::to_bytes(RankReport{71, "72", 73, 74, 75, 76, 77, 78.5, 79.5, 80, 81, 82.5}),
            byte(3));
  seeds.put("exchange", "lists", fields::to_bytes(std::vector<std::vector<std::int64_t>>{{1, 2}, {}}), byte(4));
}

void put_models(const Seeds& seeds) {
  seeds.put("gguf", "tiny", test::tiny_llama().build());
  seeds.put("model_source", "tiny", test::tiny_llama().build(), byte(0));
  test::GgufBuilder words;
  words.text("general.architecture", "llama").text("tokenizer.ggml.model", "gpt2").text("tokenizer.ggml.pre", "smollm");
  words.texts("tokenizer.ggml.tokens", {"a", "b", "ab"}).texts("tokenizer.ggml.merges", {"a b"});
  words.numbers<std::int32_t>("tokenizer.ggml.token_type", 5, {1, 1, 1}).boolean("tokenizer.ggml.add_bos_token", false);
  seeds.put("gguf", "words", words.build());
  for (const std::uint32_t type : {2, 3, 6, 7, 8, 12, 13, 14, 30}) {
    const auto known = *gguf_type_from_number(type);
    seeds.put(
        "gguf", gguf_type_name(known),
        test::GgufBuilder().tensor("t", {256, 1}, type, test::GgufBuilder::Bytes(gguf_row_bytes(known, 256))).build());
  }
  seeds.put("manifest", "tiny", to_json(synth_manifest(*synth_shape("tiny"), GgufType::q4_0)));
  seeds.put("shard", "layer", std::string(), byte(2));
  seeds.put("shard", "layer_unverified", std::string(), byte(0));
  seeds.put("shard", "tokenizer", std::string(), byte(3));
  for (const int kind : {0, 1, 2}) seeds.put("draft_file", std::to_string(kind), std::string(), byte(kind));
}

// A header and as many bytes as its tensors say.
std::string safetensors(const std::string& header, std::size_t bytes) {
  std::string file(8, '\0');
  const std::uint64_t size = header.size();
  std::memcpy(file.data(), &size, 8);
  return file + header + std::string(bytes, '\0');
}

void put_medusa(const Seeds& seeds) {
  const std::string header = R"({"0.0.linear.weight":{"dtype":"F16","shape":[8,8],"data_offsets":[0,128]},)"
                             R"("0.0.linear.bias":{"dtype":"F16","shape":[8],"data_offsets":[128,144]},)"
                             R"("0.1.weight":{"dtype":"F16","shape":[40,8],"data_offsets":[144,784]}})";
  seeds.put("draft_file", "medusa", safetensors(header, 784), byte(3));
}

void put_plans(const Seeds& seeds) {
  const std::string boards = R"({"boards": [{"name": "pi", "count": 2, "threads": 4, "memory_mib": 7400,
    "read_gb_per_s": 10, "int8_gmac_per_s": 100, "float_gmac_per_s": 5}],
    "network": {"mbit_per_s": 1000, "latency_us": 100, "message_us": 30}})";
  seeds.put("boards", "two", boards);
  const Manifest manifest = synth_manifest(*synth_shape("tiny"), GgufType::q4_0);
  seeds.put("profile", "two", to_json(described_profile(parse_boards(boards, "boards.json"), manifest, "1")));
  const std::int64_t layers = manifest.config.n_layers;
  Plan plan;
  plan.model_hash = "0123456789abcdef";
  plan.objective = "latency";
  plan.prompt_tokens = plan.context_tokens = 512;
  plan.stages = {{"a", 0, 0, layers / 2, 1, 2, 0.5}, {"b", 0, layers / 2, layers, 1, 2, 0.5}};
  plan.chunks = {{256, {128, 128}}, {512, {256, 200, 56}}};
  plan.left_out = {"c:0"};
  seeds.put("plan", "two", to_json(plan));
  plan.stages[0].others = {{"c", 0, 0.5, 1, 2}};
  plan.stages[0].repeat_attention_out = true;
  plan.workload = Workload{};
  plan.draft = DraftPlace{"0123", "b", 0, 77};
  seeds.put("plan", "group", to_json(plan));
}

}  // namespace
}  // namespace jupiter::fuzz

int main(int argc, char** argv) {
  using namespace jupiter::fuzz;
  if (argc != 2) {
    std::cerr << "usage: fuzz_seeds FOLDER\n";
    return 2;
  }
  const Seeds seeds(argv[1]);
  put_frames(seeds);
  put_control(seeds);
  put_exchange(seeds);
  put_models(seeds);
  put_medusa(seeds);
  put_plans(seeds);
}

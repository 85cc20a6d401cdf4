// Hugging Face folders: configurations in both spellings, weights in several files, tokenizers, and what is refused.
#include "io/convert/hf_model.hpp"

#include <gtest/gtest.h>

#include <cmath>

#include "io/convert/hf_tokenizer.hpp"
#include "io/convert/model_source.hpp"
#include "io/error.hpp"
#include "io/files.hpp"
#include "test_files.hpp"

namespace jupiter {
namespace {

using nlohmann::json;

const json kConfig = json::parse(R"({"architectures":["LlamaForCausalLM"],"model_type":"llama","hidden_size":64,
  "intermediate_size":128,"num_hidden_layers":2,"num_attention_heads":4,"num_key_value_heads":2,"vocab_size":100,
  "max_position_embeddings":2048,"rms_norm_eps":1e-6,"rope_theta":500000.0,"tie_word_embeddings":false,
  "hidden_act":"silu"})");

json with(const json& change) {
  json config = kConfig;
  config.merge_patch(change);
  return config;
}
ModelConfig config_of(const json& config) {
  return parse_hf_config(JsonObject(config, "config.json"), true);
}

template <typename F>
void expect_error(const F& f, std::initializer_list<std::string_view> parts) {
  try {
    f();
    ADD_FAILURE() << "no FormatError";
  } catch (const FormatError& e) {
    for (const std::string_view part : parts) {
      EXPECT_NE(std::string(e.what()).find(part), std::string::npos) << e.what() << " does not mention " << part;
    }
  }
}
void expect_config_error(const json& change, std::initializer_list<std::string_view> parts) {
  expect_error([&] { config_of(with(change)); }, parts);
}

TEST(HfConfig, ReadsTheUsualFields) {
  const ModelConfig c = config_of(kConfig);
  EXPECT_EQ(c.architecture, Architecture::llama);
  EXPECT_EQ(c.dim, 64);
  EXPECT_EQ(c.head_dim, 16);
  EXPECT_EQ(c.n_kv_heads, 2);
  EXPECT_EQ(c.rope_theta, 500000.0f);
  EXPECT_EQ(c.norm_eps, 1e-6f);
  EXPECT_FALSE(c.tied_embeddings);
  EXPECT_TRUE(c.rope_factors.empty());
  EXPECT_EQ(config_of(with({{"head_dim", 32}})).head_dim, 32);
  EXPECT_TRUE(config_of(with({{"tie_word_embeddings", true}})).tied_embeddings);
  const json qwen = {{"architectures", {"Qwen2ForCausalLM"}}, {"sliding_window", 32768}, {"use_sliding_window", false}};
  EXPECT_TRUE(config_of(with(qwen)).qkv_bias);
  EXPECT_EQ(config_of(with(qwen)).sliding_window, 0);
  EXPECT_TRUE(config_of(with({{"architectures", {"Qwen3ForCausalLM"}}})).qk_norm);
  const json mistral = {{"architectures", {"MistralForCausalLM"}}, {"model_type", "mistral"}, {"sliding_window", 4096}};
  EXPECT_EQ(config_of(with(mistral)).sliding_window, 4096);
}

TEST(HfConfig, GptOss) {
  const json known = {{"architectures", {"GptOssForCausalLM"}},
                      {"num_local_experts", 4},
                      {"num_experts_per_tok", 2},
                      {"sliding_window", 128},
                      {"attention_bias", true},
                      {"swiglu_limit", 7.0},
                      {"quantization_config", {{"quant_method", "mxfp4"}}}};
  const ModelConfig c = config_of(with(known));
  EXPECT_TRUE(c.qkv_bias && c.attention_output_bias && c.attention_sinks && c.expert_bias);
  EXPECT_TRUE(c.normalised_expert_weights);
  EXPECT_EQ(c.activation, Activation::bounded_silu);
  EXPECT_EQ(c.full_attention_layers, (std::vector<std::int64_t>{1}));
  EXPECT_EQ(c.expert_hidden_dim, 128);
  EXPECT_EQ(c.hidden_dim, 0);
  const auto refuses = [&](const json& change, std::initializer_list<std::string_view> parts) {
    json config = with(known);
    config.merge_patch(change);
    expect_error([&] { config_of(config); }, parts);
  };
  refuses({{"swiglu_limit", 8.0}}, {"swiglu_limit", "7"});
  refuses({{"attention_bias", false}}, {"attention_bias", "true"});
  refuses({{"quantization_config", {{"quant_method", "gptq"}}}}, {"quantization_config", "mxfp4", "gptq"});
}

// Llama 3.1's numbers; the factors by hand from their definition.
TEST(HfConfig, RopeScalingInBothSpellings) {
  json scaling = {
      {"factor", 8.0}, {"low_freq_factor", 1.0}, {"high_freq_factor", 4.0}, {"original_max_position_embeddings", 8192}};
  json old_spelling = scaling, new_spelling = scaling;
  old_spelling["type"] = "llama3";
  new_spelling["rope_type"] = "llama3";
  new_spelling["rope_theta"] = 500000.0;
  const auto a = config_of(with({{"head_dim", 128}, {"rope_scaling", old_spelling}})).rope_factors;
  json newer = with({{"head_dim", 128}, {"rope_parameters", new_spelling}});
  newer.erase("rope_theta");
  EXPECT_EQ(a, config_of(newer).rope_factors);
  ASSERT_EQ(a.size(), 64u);
  EXPECT_EQ(a.front(), 1.0f);
  EXPECT_EQ(a.back(), 8.0f);
  const double turns = 8192 / (2 * M_PI) * std::pow(500000.0, -60.0 / 128);  // of frequency 30 in the old context
  ASSERT_TRUE(turns > 1 && turns < 4);
  const double short_share = (turns - 1) / (4 - 1);
  EXPECT_NEAR(a[30], 1 / ((1 - short_share) / 8 + short_share), 1e-6);
  EXPECT_EQ(config_of(with({{"rope_scaling", {{"type", "linear"}, {"factor", 4}}}})).rope_factors,
            std::vector<float>(8, 4.0f));
  EXPECT_TRUE(config_of(with({{"rope_scaling", nullptr}})).rope_factors.empty());
  expect_config_error({{"rope_scaling", {{"type", "dynamic"}, {"factor", 4}}}},
                      {"config.json: rope_scaling", "rope_type", "longrope", "dynamic"});
  expect_config_error({{"rope_scaling", {{"type", "yarn"}, {"factor", 4}, {"beta_fast", 1}, {"beta_slow", 2}}}},
                      {"rope_scaling", "beta_slow < beta_fast"});
  expect_config_error({{"rope_scaling", {{"rope_type", "llama3"}, {"factor", 4}}}}, {"low_freq_factor", "nothing"});
}

// The ramp by hand: with 4096 tokens and theta 10000 pair 20 of 64 turns 32 times, pair 45 once.
TEST(HfConfig, Yarn) {
  const json yarn = {{"type", "yarn"}, {"factor", 16.0}, {"original_max_position_embeddings", 4096}};
  const ModelConfig c = config_of(with({{"head_dim", 128}, {"rope_theta", 10000.0}, {"rope_scaling", yarn}}));
  ASSERT_EQ(c.rope_factors.size(), 64u);
  EXPECT_EQ(c.rope_factors[20], 1.0f);
  EXPECT_EQ(c.rope_factors[46], 16.0f);
  EXPECT_NEAR(c.rope_factors[33], 1 / ((13.0 / 26) / 16 + 13.0 / 26), 1e-5);
  EXPECT_NEAR(c.rope_attention_factor, 1 + 0.1 * std::log(16.0), 1e-6);
}

json gemma3_config() {
  return with({{"architectures", {"Gemma3ForCausalLM"}},
               {"hidden_act", nullptr},
               {"head_dim", 16},
               {"num_hidden_layers", 8},
               {"sliding_window", 32},
               {"rope_theta", 1e6},
               {"query_pre_attn_scalar", 64},
               {"rope_local_base_freq", 10000.0},
               {"tie_word_embeddings", true}});
}

TEST(HfConfig, Gemma) {
  const ModelConfig c = config_of(gemma3_config());
  EXPECT_EQ(c.full_attention_layers, std::vector<std::int64_t>{5});
  EXPECT_EQ(c.sliding_rope_theta, 10000.0f);
  EXPECT_EQ(c.attention_scale, 0.125f);
  EXPECT_EQ(c.embedding_scale, 8.0f);
  EXPECT_EQ(c.residual, Precision::bf16);
  EXPECT_TRUE(c.post_norms && c.qk_norm);
  json listed = gemma3_config();
  listed["layer_types"] = {"full_attention"};
  expect_error([&] { config_of(listed); }, {"layer_types", "8 entries", "1"});
  listed["layer_types"] = json::array();
  for (int i = 0; i < 8; ++i) listed["layer_types"].push_back(i == 7 ? "chunked_attention" : "sliding_attention");
  expect_error([&] { config_of(listed); }, {"layer_types", "chunked_attention"});
  // What a file leaves out has Transformers' default, and null is none.
  json second = gemma3_config();
  second["architectures"] = {"Gemma2ForCausalLM"};
  second.erase("sliding_window");
  EXPECT_EQ(config_of(second).sliding_window, 4096);
  EXPECT_EQ(config_of(second).attention_softcap, 50.0f);
  EXPECT_EQ(config_of(second).logit_softcap, 30.0f);
  second["attn_logit_softcapping"] = nullptr;
  second["sliding_window"] = nullptr;
  EXPECT_EQ(config_of(second).attention_softcap, 0.0f);
  EXPECT_EQ(config_of(second).sliding_window, 0);
  json gelu = gemma3_config();
  gelu["hidden_activation"] = "silu";
  expect_error([&] { config_of(gelu); }, {"hidden_activation", "gelu_pytorch_tanh", "silu"});
}

TEST(HfConfig, LongRopeIsChosenByTheContext) {
  const json rope = {
      {"type", "longrope"}, {"short_factor", {1, 1, 1, 1, 1, 1, 1, 2}}, {"long_factor", {1, 2, 3, 4, 5, 6, 7, 8}}};
  const JsonObject phi(
      with({{"architectures", {"Phi3ForCausalLM"}}, {"rope_scaling", rope}, {"original_max_position_embeddings", 512}}),
      "config.json");
  const ModelConfig usual = parse_hf_config(phi, true), of_512 = parse_hf_config(phi, true, 512);
  EXPECT_EQ(usual.rope_factors.back(), 2.0f);
  EXPECT_EQ(usual.max_seq_len, 512);
  EXPECT_EQ(of_512.rope_factors, usual.rope_factors);
  const ModelConfig longer = parse_hf_config(phi, true, 513);
  EXPECT_EQ(longer.rope_factors.back(), 8.0f);
  EXPECT_EQ(longer.max_seq_len, 2048);
  EXPECT_NEAR(longer.rope_attention_factor, std::sqrt(1 + std::log(4.0) / std::log(512.0)), 1e-6);
  EXPECT_EQ(longer.rope_attention_factor, usual.rope_attention_factor);
  json few =
      with({{"architectures", {"Phi3ForCausalLM"}}, {"rope_scaling", rope}, {"original_max_position_embeddings", 512}});
  few["rope_scaling"]["long_factor"] = {1, 2};
  expect_error([&] { config_of(few); }, {"long_factor", "8 factors", "2"});
}

TEST(HfConfig, Experts) {
  const json moe = {{"architectures", {"Qwen3MoeForCausalLM"}},
                    {"num_experts", 8},
                    {"num_experts_per_tok", 2},
                    {"moe_intermediate_size", 32},
                    {"norm_topk_prob", true}};
  const ModelConfig c = config_of(with(moe));
  EXPECT_EQ(c.n_experts, 8);
  EXPECT_EQ(c.expert_hidden_dim, 32);
  EXPECT_EQ(c.hidden_dim, 0);
  EXPECT_TRUE(c.normalised_expert_weights && c.qk_norm);
  const auto expect_moe_error = [&](const json& change, std::initializer_list<std::string_view> parts) {
    json config = moe;
    config.merge_patch(change);
    expect_config_error(config, parts);
  };
  expect_moe_error({{"num_experts_per_tok", 9}}, {"n_experts_used", "1 to 8", "9"});
  expect_moe_error({{"num_experts", nullptr}}, {"num_local_experts", "nothing"});
  expect_moe_error({{"decoder_sparse_step", 2}}, {"decoder_sparse_step", "1", "2"});
  expect_moe_error({{"mlp_only_layers", {0}}}, {"mlp_only_layers"});
  expect_moe_error({{"moe_intermediate_size", 20}}, {"expert_hidden_dim", "multiple of 16", "20"});
}

TEST(HfConfig, RefusesWhatItWouldComputeWrongly) {
  expect_config_error({{"architectures", {"GPT2LMHeadModel"}}}, {"config.json", "LlamaForCausalLM", "GPT2LMHeadModel"});
  expect_config_error({{"attention_bias", true}}, {"attention_bias"});
  expect_config_error({{"mlp_bias", true}}, {"mlp_bias"});
  expect_config_error({{"hidden_act", "gelu"}}, {"hidden_act", "gelu"});
  expect_config_error({{"partial_rotary_factor", 0.5}}, {"partial_rotary_factor"});
  expect_config_error({{"quantization_config", json::object()}}, {"quantization_config"});
  expect_config_error({{"architectures", {"Qwen2ForCausalLM"}}, {"sliding_window", 8}, {"use_sliding_window", true}},
                      {"use_sliding_window"});
  expect_config_error({{"hidden_size", "64"}}, {"hidden_size", "an integer"});
  expect_config_error({{"hidden_size", nullptr}}, {"hidden_size", "nothing"});
  expect_config_error({{"num_attention_heads", 0}}, {"num_attention_heads"});
  expect_config_error({{"num_key_value_heads", 3}}, {"n_kv_heads", "a divisor"});
  expect_config_error({{"hidden_size", 1e300}}, {"hidden_size"});
  const json yarn = {{"rope_type", "yarn"}, {"factor", 1e300}, {"original_max_position_embeddings", 64}};
  expect_config_error({{"rope_scaling", yarn}}, {"max_seq_len"});
}

// A copy of a small model's folder that a test may damage.
class DamagedFolder {
 public:
  explicit DamagedFolder(const std::string& model) {
    std::filesystem::copy(test::data_path("architectures/" + model), path(), std::filesystem::copy_options::recursive);
  }
  std::string path() const { return (folder_.path() / "model").string(); }
  std::filesystem::path file(const std::string& name) const { return folder_.path() / "model" / name; }
  void edit(const std::string& name, const std::function<void(json&)>& change) const {
    json content = json::parse(read_file(file(name)));
    change(content);
    test::write_text(file(name), content.dump());
  }
  void expect(std::initializer_list<std::string_view> parts) const {
    expect_error([this] { open_model_source(path()); }, parts);
  }

 private:
  test::TemporaryFolder folder_;
};

TEST(HfFolder, MissingAndDamagedFiles) {
  for (const char* name : {"config.json", "tokenizer.json", "model.safetensors"}) {
    const DamagedFolder folder("llama3");
    std::filesystem::remove(folder.file(name));
    folder.expect({name});
  }
  for (const char* name : {"config.json", "tokenizer.json", "tokenizer_config.json"}) {
    const DamagedFolder folder("llama3");
    const std::string text = read_file(folder.file(name));
    for (const std::size_t size : {std::size_t{0}, std::size_t{1}, text.size() / 2, text.size() - 3}) {
      test::write_text(folder.file(name), text.substr(0, size));
      folder.expect({name});
    }
  }
}

TEST(HfFolder, SeveralFiles) {
  const auto source = open_model_source(test::data_path("architectures/qwen3"));
  EXPECT_TRUE(source->has("layers.1.q_norm"));
  const std::string index = "model.safetensors.index.json";
  const DamagedFolder outside("qwen3");
  outside.edit(index, [](json& j) { j["weight_map"]["lm_head.weight"] = "../secret.safetensors"; });
  outside.expect({"weight_map", "a name in the model's folder"});
  const DamagedFolder absent("qwen3");
  absent.edit(index, [](json& j) { j["weight_map"]["other.weight"] = "model-00001-of-00003.safetensors"; });
  absent.expect({"other.weight", "nothing"});
  const DamagedFolder missing("qwen3");
  std::filesystem::remove(missing.file("model-00002-of-00003.safetensors"));
  missing.expect({"model-00002-of-00003.safetensors", "No such file"});
}

TEST(HfFolder, WrongShapesAndExtraTensors) {
  const DamagedFolder shape("llama3");
  shape.edit("config.json", [](json& j) { j["intermediate_size"] = 49; });
  shape.expect({"mlp.gate_proj.weight", "[49, 32]", "[48, 32]"});
  const DamagedFolder fewer("llama3");
  fewer.edit("config.json", [](json& j) { j["num_hidden_layers"] = 1; });
  fewer.expect({"model.layers.1."});
  const DamagedFolder more("llama3");
  more.edit("config.json", [](json& j) { j["num_hidden_layers"] = 3; });
  more.expect({"model.layers.2.input_layernorm.weight"});
}

TEST(HfTokenizer, RefusesStepsItDoesNotKnow) {
  const auto expect_refused = [](const std::function<void(json&)>& change,
                                 std::initializer_list<std::string_view> parts) {
    const DamagedFolder folder("qwen2");
    folder.edit("tokenizer.json", change);
    folder.expect(parts);
  };
  expect_refused([](json& j) { j["model"]["type"] = "Unigram"; }, {"tokenizer.json: model", "BPE", "Unigram"});
  expect_refused([](json& j) { j["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = "\\w+"; },
                 {"pre_tokenizer"});
  expect_refused([](json& j) { j["pre_tokenizer"] = nullptr; }, {"pre_tokenizer", "nothing"});
  expect_refused([](json& j) { j["normalizer"] = {{"type", "Lowercase"}}; }, {"normalizer", "Lowercase"});
  expect_refused([](json& j) { j["model"]["ignore_merges"] = true; }, {"ignore_merges"});
  expect_refused([](json& j) { j["model"]["merges"][0] = "zzz qqq"; }, {"merge 0", "zzz qqq"});
  expect_refused([](json& j) { j["model"]["merges"] = {{"a"}}; }, {"merges"});
  expect_refused([](json& j) { j["model"]["vocab"]["extra"] = 300; }, {"extra", "0 to 299", "300"});
  expect_refused([](json& j) { j["added_tokens"][0]["id"] = -1; }, {"-1"});
}

TEST(HfTokenizer, MergesOfScoredPiecesMustBePairs) {
  const DamagedFolder folder("llama3");
  folder.edit("tokenizer.json", [](json& j) {
    j["model"]["byte_fallback"] = true;
    j["model"]["merges"] = {"ab"};
  });
  folder.expect({"merges", "left right", "ab"});
}

TEST(HfTokenizer, SpecialIdsAndTemplates) {
  const DamagedFolder folder("llama3");
  folder.edit("generation_config.json", [](json& j) { j["eos_token_id"] = {2, 1}; });
  folder.edit("tokenizer_config.json", [](json& j) {
    j["bos_token"] = {{"content", "<s>"}};
    j["chat_template"] = {{{"name", "tool_use"}, {"template", "T"}}, {{"name", "default"}, {"template", "D"}}};
  });
  folder.edit("tokenizer.json", [](json& j) {
    const json bos = {{"SpecialToken", {{"id", "<s>"}, {"type_id", 0}}}};
    j["post_processor"] = {
        {"type", "Sequence"},
        {"processors", {{{"type", "ByteLevel"}}, {{"type", "TemplateProcessing"}, {"single", {bos}}}}}};
  });
  const TokenizerData data = HfFolder(folder.path()).tokenizer_data();
  EXPECT_EQ(data.bos, 0);
  EXPECT_EQ(data.eos, 1);
  EXPECT_TRUE(data.add_bos);
  EXPECT_EQ(data.end_of_turn, (std::vector<TokenId>{1, 2}));
  EXPECT_EQ(data.chat_template, "D");
  EXPECT_EQ(data.pre, PreTokenizer::llama3);
  test::write_text(folder.file("chat_template.jinja"), "J");
  EXPECT_EQ(HfFolder(folder.path()).tokenizer_data().chat_template, "J");
  folder.edit("tokenizer_config.json", [](json& j) { j["add_bos_token"] = false; });
  EXPECT_FALSE(HfFolder(folder.path()).tokenizer_data().add_bos);
}

// Embeddings have more rows than the tokenizer has tokens.
TEST(HfTokenizer, FillsTheVocabulary) {
  const JsonObject tokenizer = parse_json_object(read_file(test::data_path("tokenizers/llama2/tokenizer.json")), "t");
  const TokenizerData data = parse_hf_tokenizer({tokenizer, {}, {}, {}, {}, {}}, 600);
  EXPECT_EQ(data.kind, TokenizerKind::sentencepiece);
  EXPECT_TRUE(data.add_space_prefix);
  EXPECT_EQ(data.tokens.size(), 600u);
  EXPECT_EQ(data.types.back(), TokenType::unused);
  EXPECT_EQ(data.types[3 + 10], TokenType::byte);
}

}  // namespace
}  // namespace jupiter

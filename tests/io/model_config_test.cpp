// Configurations: what kinds of layers they describe, what is refused, and that the manifest keeps every field.
#include "io/model/model_config.hpp"

#include <gtest/gtest.h>

#include <functional>

#include "io/convert/synth.hpp"
#include "io/error.hpp"
#include "io/model/manifest.hpp"

namespace jupiter {
namespace {

ModelConfig tiny() {
  ModelConfig c = *synth_shape("tiny");
  c.n_layers = 6;
  return c;
}

ModelConfig with_everything() {
  ModelConfig c = tiny();
  c.architecture = Architecture::qwen2moe;
  c.sliding_window = 16;
  c.full_attention_layers = {1, 3};
  c.no_rope_layers = {5};
  c.sliding_rope_theta = 1000;
  c.rope_attention_factor = 1.25f;
  c.rope_dim = 8;
  c.post_norms = true;
  c.activation = Activation::gelu;
  c.embedding_scale = 8;
  c.attention_scale = 0.25f;
  c.residual_scale = 0.5f;
  c.logit_scale = 0.125f;
  c.attention_softcap = 50;
  c.logit_softcap = 30;
  c.n_experts = 8;
  c.n_experts_used = 2;
  c.expert_hidden_dim = 64;
  c.normalised_expert_weights = true;
  c.shared_expert_gate = true;
  c.qk_norm_whole = true;
  return c;
}

std::string error_of(const std::function<void(ModelConfig&)>& change) {
  ModelConfig c = with_everything();
  change(c);
  try {
    check(c, "config.json");
  } catch (const FormatError& e) {
    EXPECT_EQ(e.code(), ExitCode::invalid_file);
    return e.what();
  }
  return "nothing is wrong";
}

void expect_error(const std::function<void(ModelConfig&)>& change, std::string_view part) {
  const std::string error = error_of(change);
  EXPECT_NE(error.find(part), std::string::npos) << error << " does not mention " << part;
}

TEST(ModelConfig, ContradictionsAreNamed) {
  expect_error([](ModelConfig&) {}, "nothing is wrong");
  expect_error([](ModelConfig& c) { c.n_experts_used = 9; }, "n_experts_used: expected 1 to 8, found 9");
  expect_error([](ModelConfig& c) { c.n_experts_used = 0; }, "n_experts_used: expected 1 to 8, found 0");
  expect_error([](ModelConfig& c) { c.n_experts = 0; }, "n_experts_used: expected 0 to 0, found 2");
  expect_error([](ModelConfig& c) { c.expert_hidden_dim = 40; }, "expert_hidden_dim: expected a multiple of 16");
  expect_error([](ModelConfig& c) { c.n_experts = -1; }, "n_experts: expected 0 to 4096");
  expect_error([](ModelConfig& c) { c.sliding_window = 0; }, "sliding_window: expected a window");
  expect_error([](ModelConfig& c) { c.full_attention_layers = {3, 1}; }, "full_attention_layers: expected 4 to 5");
  expect_error([](ModelConfig& c) { c.no_rope_layers = {6}; }, "no_rope_layers: expected 0 to 5, found 6");
  expect_error([](ModelConfig& c) { c.rope_dim = 7; }, "rope_dim: expected an even number");
  expect_error([](ModelConfig& c) { c.rope_dim = 18; }, "rope_dim: expected 0 to 16, found 18");
  expect_error([](ModelConfig& c) { c.rope_factors = {1, 2}; }, "rope_factors: expected 4 values, found 2");
  expect_error([](ModelConfig& c) { c.rope_attention_factor = 0; }, "rope_attention_factor: expected a positive");
  expect_error([](ModelConfig& c) { c.logit_softcap = -1; }, "logit_softcap: expected 0 or a positive number");
  expect_error([](ModelConfig& c) { c.residual_scale = 0; }, "residual_scale: expected a positive number");
  expect_error([](ModelConfig& c) { c.hidden_dim = -1; }, "hidden_dim: expected 0 to");
}

TEST(ModelConfig, LayersDiffer) {
  const ModelConfig c = with_everything();
  EXPECT_EQ(c.layer_kind(0).window, 16);
  EXPECT_EQ(c.layer_kind(0).rope, LayerKind::Rope::sliding);
  EXPECT_EQ(c.layer_kind(3).window, 0);
  EXPECT_EQ(c.layer_kind(3).rope, LayerKind::Rope::global);
  EXPECT_EQ(c.layer_kind(5).window, 16);
  EXPECT_EQ(c.layer_kind(5).rope, LayerKind::Rope::none);
  EXPECT_EQ(tiny().layer_kind(2).rope, LayerKind::Rope::global);
}

Manifest manifest_of(const ModelConfig& c) {
  Manifest m;
  m.config = c;
  return m;
}

// A folder of before has the bytes, hence the hash, that it had.
TEST(ModelConfig, ManifestsOfBeforeStayAsTheyWere) {
  const std::string text = to_json(manifest_of(tiny()));
  EXPECT_NE(text.find("\"format_version\": 1"), std::string::npos);
  for (const char* field : {"experts", "softcap", "scale", "post_norms", "rope_dim", "_layers\": ["}) {
    EXPECT_EQ(text.find(field), std::string::npos) << field;
  }
  EXPECT_EQ(to_json(parse_manifest(text, "manifest.json")), text);
}

TEST(ModelConfig, ManifestsKeepEveryField) {
  const std::string text = to_json(manifest_of(with_everything()));
  EXPECT_NE(text.find("\"format_version\": 2"), std::string::npos) << "older programs must refuse it";
  const Manifest read = parse_manifest(text, "manifest.json");
  EXPECT_EQ(to_json(read), text);
  EXPECT_EQ(read.config.full_attention_layers, (std::vector<std::int64_t>{1, 3}));
  EXPECT_EQ(read.config.activation, Activation::gelu);
  EXPECT_EQ(read.config.n_experts_used, 2);
  EXPECT_EQ(read.config.logit_softcap, 30.0f);
  std::string damaged = text;
  damaged.replace(damaged.find("\"gelu\""), 6, "\"relu\"");
  EXPECT_THROW(parse_manifest(damaged, "manifest.json"), FormatError);
  damaged = text;
  damaged.replace(damaged.find("\"format_version\": 2"), 19, "\"format_version\": 3");
  EXPECT_THROW(parse_manifest(damaged, "manifest.json"), FormatError);
}

TEST(ModelConfig, OneTokenReadsTheExpertsThatItUses) {
  Manifest m = manifest_of(with_everything());
  FileInfo layer{layer_file_name(0), {}};
  layer.datasets.push_back({"w_up_experts", DatasetInfo::Kind::matrix, Format::f32, 512, 64, 512 * 64 * 4, 0});
  layer.datasets.push_back({"w_up", DatasetInfo::Kind::matrix, Format::f32, 192, 64, 192 * 64 * 4, 0});
  m.files.push_back(layer);
  EXPECT_EQ(weight_bytes(m, {0, 1, false, false}), (512u + 192u) * 64 * 4);
  EXPECT_EQ(read_bytes(m, {0, 1, false, false}), (512u / 4 + 192u) * 64 * 4);
}

}  // namespace
}  // namespace jupiter

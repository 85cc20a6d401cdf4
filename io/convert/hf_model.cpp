// config.json in the spellings of Transformers 4 and 5, and the weights' files.
#include "io/convert/hf_model.hpp"

#include <cmath>
#include <filesystem>
#include <numbers>
#include <set>

#include "io/error.hpp"
#include "io/files.hpp"

namespace jupiter {

namespace {

JsonObject read_json(const std::string& path) {
  return parse_json_object(read_file(path, kMaxJsonBytes), path);
}

// An option that we do not implement passes only where it is absent or neutral.
void expect_false(const JsonObject& json, std::string_view key) {
  if (json.find_bool(key).value_or(false)) json.fail(key, "false", "true");
}

Architecture read_architecture(const JsonObject& json) {
  std::string found = json.find_string("model_type").value_or("nothing");
  const auto& names = json.array_or_empty("architectures");
  if (!names.empty()) found = names[0].is_string() ? names[0].get<std::string>() : json_text(names[0]);
  if (found == "LlamaForCausalLM" || found == "MistralForCausalLM" || found == "llama" || found == "mistral") {
    return Architecture::llama;
  }
  if (found == "Qwen2ForCausalLM" || found == "qwen2") return Architecture::qwen2;
  if (found == "Qwen3ForCausalLM" || found == "qwen3") return Architecture::qwen3;
  json.fail("architectures", "LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM or Qwen3ForCausalLM",
            found.substr(0, 80));
}

// Llama 3's scaling: long wavelengths are stretched by `factor`, short ones not at all, those between in proportion.
std::vector<float> llama3_factors(const JsonObject& scaling, const ModelConfig& c) {
  const double factor = scaling.number("factor"), low = scaling.number("low_freq_factor");
  const double high = scaling.number("high_freq_factor");
  const double context = scaling.number("original_max_position_embeddings");
  if (!(factor > 0) || !(low > 0) || !(high > low)) {
    scaling.fail("factors", "factor > 0 and 0 < low_freq_factor < high_freq_factor", json_text(scaling.value()));
  }
  std::vector<float> factors;
  for (std::int64_t i = 0; i < c.head_dim / 2; ++i) {
    const double exponent = 2.0 * static_cast<double>(i) / static_cast<double>(c.head_dim);
    const double turns = context * std::pow(static_cast<double>(c.rope_theta), -exponent) / (2 * std::numbers::pi);
    const double short_share = std::min(1.0, std::max(0.0, (turns - low) / (high - low)));
    factors.push_back(static_cast<float>(1.0 / ((1.0 - short_share) / factor + short_share)));
  }
  return factors;
}

void read_rope_scaling(const JsonObject& scaling, ModelConfig& c) {
  const std::string type = scaling.find_string("rope_type").value_or(scaling.find_string("type").value_or("default"));
  const double partial = scaling.find_number("partial_rotary_factor").value_or(1);
  if (partial != 1) scaling.fail("partial_rotary_factor", "1", std::to_string(partial));
  if (type == "default") return;
  if (type == "linear") {
    c.rope_factors.assign(c.head_dim / 2, static_cast<float>(scaling.number("factor")));
  } else if (type == "llama3") {
    c.rope_factors = llama3_factors(scaling, c);
  } else {
    scaling.fail("rope_type", "default, linear or llama3", type.substr(0, 40));
  }
}

void read_rope(const JsonObject& json, ModelConfig& c, const std::string& source) {
  const auto parameters = json.find_object("rope_parameters");  // Transformers 5 keeps all of it in here
  double theta = json.find_number("rope_theta").value_or(10000);
  if (parameters) theta = parameters->find_number("rope_theta").value_or(theta);
  c.rope_theta = static_cast<float>(theta);
  const double partial = json.find_number("partial_rotary_factor").value_or(1);
  if (partial != 1) json.fail("partial_rotary_factor", "1", std::to_string(partial));
  check(c, source);
  const auto scaling = json.find_object("rope_scaling");
  if (scaling) {
    read_rope_scaling(*scaling, c);
  } else if (parameters) {
    read_rope_scaling(*parameters, c);
  }
}

// Mistral's window holds for all layers; Qwen's, where switched on, only for some, which we do not implement.
std::int64_t read_window(const JsonObject& json, Architecture architecture) {
  const std::int64_t window = json.find_int("sliding_window").value_or(0);
  if (architecture == Architecture::llama) {
    const bool mistral = json.find_string("model_type").value_or("") == "mistral";
    return mistral ? window : 0;
  }
  if (window != 0) expect_false(json, "use_sliding_window");
  return 0;
}

void refuse_unsupported(const JsonObject& json) {
  for (const std::string_view key : {"attention_bias", "mlp_bias"}) expect_false(json, key);
  if (json.has("quantization_config")) json.fail("quantization_config", "float weights", "quantised ones");
  const std::string activation = json.find_string("hidden_act").value_or("silu");
  if (activation != "silu") json.fail("hidden_act", "silu", activation.substr(0, 40));
}

}  // namespace

ModelConfig parse_hf_config(const JsonObject& json, bool has_output) {
  const std::string& source = json.where();
  ModelConfig c;
  c.architecture = read_architecture(json);
  refuse_unsupported(json);
  c.model_name = json.find_string("_name_or_path").value_or("");
  c.dim = json.integer("hidden_size");
  c.hidden_dim = json.integer("intermediate_size");
  c.n_layers = json.integer("num_hidden_layers");
  c.n_heads = json.integer("num_attention_heads");
  c.n_kv_heads = json.find_int("num_key_value_heads").value_or(c.n_heads);
  if (c.n_heads < 1) json.fail("num_attention_heads", "a positive number", std::to_string(c.n_heads));
  c.head_dim = json.find_int("head_dim").value_or(c.dim / c.n_heads);
  c.vocab_size = json.integer("vocab_size");
  c.max_seq_len = json.integer("max_position_embeddings");
  c.norm_eps = static_cast<float>(json.number("rms_norm_eps"));
  c.sliding_window = read_window(json, c.architecture);
  // Some folders with tied embeddings hold a copy of them as the head: the flag decides, as in Transformers.
  c.tied_embeddings = json.find_bool("tie_word_embeddings").value_or(!has_output);
  c.qkv_bias = c.architecture == Architecture::qwen2;
  c.qk_norm = c.architecture == Architecture::qwen3;
  read_rope(json, c, source);
  check(c, source);
  return c;
}

HfFolder::HfFolder(const std::string& path) : path_(path) {
  const std::string index_path = path + "/model.safetensors.index.json";
  if (!std::filesystem::exists(index_path)) {
    open_weights("model.safetensors");
    return;
  }
  const JsonObject index = read_json(index_path);
  const JsonObject map = index.object("weight_map");
  std::set<std::string> names;
  for (const std::string& tensor : map.keys()) names.insert(map.string(tensor));
  for (const std::string& name : names) {
    // The index must not reach outside its folder.
    if (name.empty() || name.front() == '.' || name.find('/') != std::string::npos) {
      map.fail("file", "a name in the model's folder", "\"" + name.substr(0, 80) + "\"");
    }
    open_weights(name);
  }
  for (const std::string& tensor : map.keys()) {
    if (!has_tensor(tensor)) map.fail(tensor.substr(0, 80), "a tensor of " + map.string(tensor), "nothing");
  }
}

void HfFolder::open_weights(const std::string& file_name) {
  const auto& file = files_.emplace_back(std::make_unique<SafetensorsFile>(path_ + "/" + file_name));
  for (const std::string_view name : file->content().names()) {
    if (!files_by_tensor_.emplace(name, file.get()).second) {
      throw FormatError(path_, "tensor " + std::string(name.substr(0, 80)), "one file that holds it", "two");
    }
  }
}

std::vector<std::string_view> HfFolder::tensor_names() const {
  std::vector<std::string_view> names;
  for (const auto& [name, file] : files_by_tensor_) names.emplace_back(name);
  return names;
}

StoredTensor HfFolder::tensor(std::string_view name) const {
  const auto it = files_by_tensor_.find(name);
  if (it == files_by_tensor_.end()) throw FormatError(path_, "tensor " + std::string(name), "its weights", "nothing");
  return it->second->content().tensor(name);
}

ModelConfig HfFolder::config() const {
  ModelConfig c = parse_hf_config(read_json(path_ + "/config.json"), has_tensor("lm_head.weight"));
  if (c.model_name.empty()) {
    const std::filesystem::path folder = std::filesystem::path(path_).lexically_normal();
    c.model_name = (folder.has_filename() ? folder : folder.parent_path()).filename().string();
  }
  return c;
}

}  // namespace jupiter

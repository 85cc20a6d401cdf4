// config.json in the spellings of Transformers 4 and 5.
#include <algorithm>
#include <array>
#include <cmath>

#include "io/convert/hf_model.hpp"
#include "io/convert/rope_scaling.hpp"
#include "io/error.hpp"

namespace jupiter {

namespace {

struct KnownModel {
  std::string_view class_name, model_type;
  Architecture architecture;
};
constexpr std::array kModels = {
    KnownModel{"LlamaForCausalLM", "llama", Architecture::llama},
    KnownModel{"MistralForCausalLM", "mistral", Architecture::llama},
    KnownModel{"Qwen2ForCausalLM", "qwen2", Architecture::qwen2},
    KnownModel{"Qwen3ForCausalLM", "qwen3", Architecture::qwen3},
    KnownModel{"Gemma2ForCausalLM", "gemma2", Architecture::gemma2},
    KnownModel{"Gemma3ForCausalLM", "gemma3_text", Architecture::gemma3},
    KnownModel{"Phi3ForCausalLM", "phi3", Architecture::phi3},
    KnownModel{"GraniteForCausalLM", "granite", Architecture::granite},
    KnownModel{"SmolLM3ForCausalLM", "smollm3", Architecture::smollm3},
    KnownModel{"MixtralForCausalLM", "mixtral", Architecture::llama},
    KnownModel{"Qwen2MoeForCausalLM", "qwen2_moe", Architecture::qwen2moe},
    KnownModel{"Qwen3MoeForCausalLM", "qwen3_moe", Architecture::qwen3moe},
    KnownModel{"OlmoeForCausalLM", "olmoe", Architecture::olmoe},
    KnownModel{"GraniteMoeForCausalLM", "granitemoe", Architecture::granitemoe},
    KnownModel{"GptOssForCausalLM", "gpt_oss", Architecture::gpt_oss},
};

// Layers with a window take turns with those that see everything.
bool alternates(Architecture a) {
  return is_gemma(a) || a == Architecture::gpt_oss;
}

// Gemma 3 with pictures: the text model's part, whose files leave out what has this default.
std::optional<JsonObject> text_part(const JsonObject& json) {
  const auto& names = json.array_or_empty("architectures");
  if (names.empty() || names[0] != "Gemma3ForConditionalGeneration") return std::nullopt;
  nlohmann::json text = {{"vocab_size", 262208},
                         {"num_attention_heads", 8},
                         {"num_key_value_heads", 4},
                         {"head_dim", 256},
                         {"max_position_embeddings", 131072},
                         {"rms_norm_eps", 1e-6},
                         {"tie_word_embeddings", true}};
  const JsonObject given = json.object("text_config");
  text.merge_patch(given.value());
  text["architectures"] = {"Gemma3ForCausalLM"};
  return JsonObject(text, given.where());
}

// An option that we do not implement passes only where it is absent or neutral.
void expect_false(const JsonObject& json, std::string_view key) {
  if (json.find_bool(key).value_or(false)) json.fail(key, "false", "true");
}

// A number that Transformers takes to be `usual` where the file leaves it out, and null for none (0).
double number_or_none(const JsonObject& json, std::string_view key, double usual) {
  return json.value().contains(key) ? json.find_number(key).value_or(0) : usual;
}

Architecture read_architecture(const JsonObject& json) {
  std::string found = json.find_string("model_type").value_or("nothing");
  const auto& names = json.array_or_empty("architectures");
  if (!names.empty()) found = names[0].is_string() ? names[0].get<std::string>() : json_text(names[0]);
  std::string known;
  for (const KnownModel& m : kModels) {
    if (found == m.class_name || found == m.model_type) return m.architecture;
    known.append(known.empty() ? "" : ", ").append(m.class_name);
  }
  throw FormatError(json.where() + ": architectures: expected one of " + known + ", found " + found.substr(0, 80));
}

// ---- rotary embedding

YarnScaling yarn_scaling(const JsonObject& json, const JsonObject& config) {
  YarnScaling s;
  s.factor = json.number("factor");
  s.original_context =
      json.find_number("original_max_position_embeddings").value_or(config.number("max_position_embeddings"));
  s.beta_fast = json.find_number("beta_fast").value_or(32);
  s.beta_slow = json.find_number("beta_slow").value_or(1);
  s.truncate = json.find_bool("truncate").value_or(true);
  if (!(s.factor > 0) || !(s.original_context > 0) || !(s.beta_slow > 0) || !(s.beta_fast > s.beta_slow)) {
    json.fail("factors", "factor > 0, original_max_position_embeddings > 0 and 0 < beta_slow < beta_fast",
              json_text(json.value()));
  }
  return s;
}

double yarn_attention(const JsonObject& json, double factor) {
  if (const auto given = json.find_number("attention_factor")) return *given;
  const double mscale = json.find_number("mscale").value_or(0), all = json.find_number("mscale_all_dim").value_or(0);
  if (mscale == 0 || all == 0) return yarn_attention_factor(factor);
  return yarn_attention_factor(factor, mscale) / yarn_attention_factor(factor, all);
}

Llama3Scaling llama3_scaling(const JsonObject& json) {
  const Llama3Scaling s{json.number("factor"), json.number("low_freq_factor"), json.number("high_freq_factor"),
                        json.number("original_max_position_embeddings")};
  if (!(s.factor > 0) || !(s.low_freq_factor > 0) || !(s.high_freq_factor > s.low_freq_factor)) {
    json.fail("factors", "factor > 0 and 0 < low_freq_factor < high_freq_factor", json_text(json.value()));
  }
  return s;
}

std::vector<float> listed_factors(const JsonObject& json, const char* key, const ModelConfig& c) {
  const auto factors = json.values<float>(key);
  if (std::ssize(factors) != c.rotary_dim() / 2) {
    json.fail(key, std::to_string(c.rotary_dim() / 2) + " factors", std::to_string(factors.size()));
  }
  return factors;
}

void read_long_rope(const JsonObject& json, const JsonObject& config, std::int64_t context, ModelConfig& c) {
  const auto original = config.find_int("original_max_position_embeddings")
                            .value_or(json.find_int("original_max_position_embeddings").value_or(0));
  if (original < 2) json.fail("original_max_position_embeddings", "2 or more", std::to_string(original));
  const double length =
      json.find_number("factor").value_or(static_cast<double>(c.max_seq_len) / static_cast<double>(original)) *
      static_cast<double>(original);
  c.rope_attention_factor = static_cast<float>(
      json.find_number("attention_factor").value_or(long_rope_attention_factor(length, static_cast<double>(original))));
  choose_long_rope({listed_factors(json, "short_factor", c), listed_factors(json, "long_factor", c), original}, context,
                   c);
}

// scaling: the object that names a type; config: the whole file.
void read_rope_scaling(const JsonObject& scaling, const JsonObject& config, std::int64_t context, ModelConfig& c) {
  const std::string type = scaling.find_string("rope_type").value_or(scaling.find_string("type").value_or("default"));
  if (type == "default") return;
  if (type == "linear") {
    c.rope_factors.assign(c.rotary_dim() / 2, static_cast<float>(scaling.number("factor")));
  } else if (type == "llama3") {
    c.rope_factors = llama3_factors(llama3_scaling(scaling), c);
  } else if (type == "yarn") {
    const YarnScaling yarn = yarn_scaling(scaling, config);
    c.rope_factors = yarn_factors(yarn, c);
    c.rope_attention_factor = static_cast<float>(yarn_attention(scaling, yarn.factor));
    // Files that switch it on by hand keep the old length beside it.
    constexpr double kTooLong = 1e15;  // which check() refuses; an integer has room for it
    c.max_seq_len =
        std::max(c.max_seq_len, static_cast<std::int64_t>(std::min(yarn.factor * yarn.original_context, kTooLong)));
  } else if (type == "longrope" || type == "su") {
    read_long_rope(scaling, config, context, c);
  } else {
    scaling.fail("rope_type", "default, linear, llama3, yarn or longrope", type.substr(0, 40));
  }
}

void read_rope_dim(const JsonObject& json, ModelConfig& c) {
  const double share = json.find_number("partial_rotary_factor").value_or(1);
  if (share == 1) return;
  if (c.architecture != Architecture::phi3) json.fail("partial_rotary_factor", "1", std::to_string(share));
  if (!(share > 0 && share < 1)) json.fail("partial_rotary_factor", "above 0, at most 1", std::to_string(share));
  c.rope_dim = static_cast<std::int64_t>(static_cast<double>(c.head_dim) * share);
}

void read_rope(const JsonObject& json, std::int64_t context, ModelConfig& c) {
  auto parameters = json.find_object("rope_parameters");  // Transformers 5 keeps all of it in here
  double theta = json.find_number("rope_theta").value_or(10000);
  if (c.architecture == Architecture::gemma3) {
    theta = json.find_number("rope_theta").value_or(1e6);
    double sliding = json.find_number("rope_local_base_freq").value_or(10000);
    if (parameters && parameters->has("full_attention")) {  // by kind of layer
      const JsonObject local = parameters->object("sliding_attention");
      const std::string type = local.find_string("rope_type").value_or("default");
      if (type != "default") local.fail("rope_type", "default (of layers with a window)", type.substr(0, 40));
      sliding = local.find_number("rope_theta").value_or(sliding);
      parameters = parameters->object("full_attention");
    }
    if (c.sliding_window > 0) c.sliding_rope_theta = static_cast<float>(sliding);
  }
  if (parameters) theta = parameters->find_number("rope_theta").value_or(theta);
  c.rope_theta = static_cast<float>(theta);
  read_rope_dim(json, c);
  if (parameters) read_rope_dim(*parameters, c);
  check(c, json.where());
  const auto scaling = json.find_object("rope_scaling");
  if (scaling) {
    read_rope_dim(*scaling, c);
    read_rope_scaling(*scaling, json, context, c);
  } else if (parameters) {
    read_rope_scaling(*parameters, json, context, c);
  }
}

// ---- layers of different kinds

// Mistral's and Phi's window holds for all layers, Gemma's and gpt-oss's for those that layer_types names; Qwen's,
// where switched on, only for some, which we do not implement.
std::int64_t read_window(const JsonObject& json, Architecture architecture) {
  const bool usual = is_gemma(architecture) && !json.value().contains("sliding_window");
  const std::int64_t window = usual ? 4096 : json.find_int("sliding_window").value_or(0);
  if (alternates(architecture) || architecture == Architecture::phi3) return window;
  if (architecture == Architecture::llama) {
    const std::string type = json.find_string("model_type").value_or("");
    return type == "mistral" || type == "mixtral" ? window : 0;
  }
  if (window != 0) expect_false(json, "use_sliding_window");
  return 0;
}

// Gemma and gpt-oss: every second or sixth layer sees everything. Newer files list the layers, older ones say how many
// make a turn.
std::vector<std::int64_t> read_full_layers(const JsonObject& json, const ModelConfig& c) {
  std::vector<std::int64_t> full;
  if (!alternates(c.architecture) || c.sliding_window == 0) return full;
  const auto& types = json.array_or_empty("layer_types");
  const std::int64_t turn =
      c.architecture == Architecture::gemma3 ? json.find_int("sliding_window_pattern", 1, 4096).value_or(6) : 2;
  if (!types.empty() && std::ssize(types) != c.n_layers) {
    json.fail("layer_types", std::to_string(c.n_layers) + " entries", std::to_string(types.size()));
  }
  for (std::int64_t layer = 0; layer < c.n_layers; ++layer) {
    if (types.empty()) {
      if ((layer + 1) % turn == 0) full.push_back(layer);
    } else if (types[layer] == "full_attention") {
      full.push_back(layer);
    } else if (types[layer] != "sliding_attention") {
      json.fail("layer_types", "sliding_attention or full_attention", json_text(types[layer]));
    }
  }
  return full;
}

// SmolLM3: a list of one number a layer, 0 for those that do not rotate.
std::vector<std::int64_t> read_no_rope_layers(const JsonObject& json, const ModelConfig& c) {
  std::vector<std::int64_t> layers;
  if (c.architecture != Architecture::smollm3) return layers;
  if (!json.has("no_rope_layers")) {
    const std::int64_t turn = json.find_int("no_rope_layer_interval", 1, 4096).value_or(4);
    for (std::int64_t layer = turn - 1; layer < c.n_layers; layer += turn) layers.push_back(layer);
    return layers;
  }
  const std::vector<std::int64_t> rotates = json.ints("no_rope_layers");
  if (std::ssize(rotates) != c.n_layers) {
    json.fail("no_rope_layers", std::to_string(c.n_layers) + " numbers", std::to_string(rotates.size()));
  }
  for (std::int64_t layer = 0; layer < c.n_layers; ++layer) {
    if (rotates[layer] == 0) layers.push_back(layer);
  }
  return layers;
}

// ---- scales

void read_gemma(const JsonObject& json, ModelConfig& c) {
  c.post_norms = true;
  c.activation = Activation::gelu;
  c.qk_norm = c.architecture == Architecture::gemma3;
  c.residual = Precision::bf16;  // its residual exceeds f16's range
  c.embedding_scale = std::sqrt(static_cast<float>(c.dim));
  const double scalar = json.find_number("query_pre_attn_scalar").value_or(256);
  if (!(scalar > 0)) json.fail("query_pre_attn_scalar", "a positive number", std::to_string(scalar));
  if (scalar != static_cast<double>(c.head_dim)) c.attention_scale = static_cast<float>(1.0 / std::sqrt(scalar));
  const bool second = c.architecture == Architecture::gemma2;
  c.attention_softcap = static_cast<float>(number_or_none(json, "attn_logit_softcapping", second ? 50 : 0));
  c.logit_softcap = static_cast<float>(number_or_none(json, "final_logit_softcapping", second ? 30 : 0));
  expect_false(json, "use_bidirectional_attention");
}

void read_granite(const JsonObject& json, ModelConfig& c) {
  const auto scale = [&](const char* key) { return static_cast<float>(json.find_number(key).value_or(1)); };
  c.embedding_scale = scale("embedding_multiplier");
  c.attention_scale = scale("attention_multiplier");
  c.residual_scale = scale("residual_multiplier");
  c.logit_scale = 1.0f / scale("logits_scaling");
}

// ---- experts

bool has_experts(const JsonObject& json, Architecture a) {
  const bool mixtral = a == Architecture::llama && json.has("num_local_experts");
  return mixtral || a == Architecture::qwen2moe || a == Architecture::qwen3moe || a == Architecture::olmoe ||
         a == Architecture::granitemoe || a == Architecture::gpt_oss;
}

// Moves the feed-forward part to the experts.
void read_experts(const JsonObject& json, ModelConfig& c) {
  const bool qwen = c.architecture == Architecture::qwen2moe || c.architecture == Architecture::qwen3moe;
  const bool local = c.architecture == Architecture::llama || c.architecture == Architecture::granitemoe ||
                     c.architecture == Architecture::gpt_oss;
  c.n_experts = json.integer(local || !json.has("num_experts") ? "num_local_experts" : "num_experts");
  if (c.n_experts < 1) json.fail("num_experts", "a positive number", std::to_string(c.n_experts));
  c.n_experts_used = json.integer("num_experts_per_tok");
  c.expert_hidden_dim = qwen ? json.integer("moe_intermediate_size") : c.hidden_dim;
  c.hidden_dim = 0;
  c.normalised_expert_weights = local || json.find_bool("norm_topk_prob").value_or(false);
  if (c.architecture == Architecture::qwen2moe) {
    c.hidden_dim = json.integer("shared_expert_intermediate_size");
    c.shared_expert_gate = true;
  }
  if (json.has("clip_qkv")) json.fail("clip_qkv", "null", json_text(*json.find("clip_qkv")));
  if (!qwen) return;
  const std::int64_t step = json.find_int("decoder_sparse_step").value_or(1);
  if (step != 1) json.fail("decoder_sparse_step", "1 (experts in every layer)", std::to_string(step));
  if (!json.array_or_empty("mlp_only_layers").empty()) {
    json.fail("mlp_only_layers", "none (experts in every layer)", json_text(*json.find("mlp_only_layers")));
  }
}

// Biases, sinks and an activation of its own.
void read_gpt_oss(const JsonObject& json, ModelConfig& c) {
  if (!json.find_bool("attention_bias").value_or(true)) json.fail("attention_bias", "true", "false");
  for (const auto& [key, only] : {std::pair("swiglu_limit", 7.0), std::pair("swiglu_alpha", 1.702)}) {
    const double found = json.find_number(key).value_or(only);
    if (found != only) json.fail(key, std::to_string(only), std::to_string(found));
  }
  set_gpt_oss(c);
}

void refuse_unsupported(const JsonObject& json, Architecture architecture) {
  const bool gpt_oss = architecture == Architecture::gpt_oss;
  if (!gpt_oss) expect_false(json, "attention_bias");
  expect_false(json, "mlp_bias");
  if (const auto quantised = json.find_object("quantization_config")) {
    const std::string method = quantised->find_string("quant_method").value_or("nothing");
    if (!gpt_oss || method != "mxfp4") {
      json.fail("quantization_config", gpt_oss ? "float weights or mxfp4" : "float weights", method.substr(0, 40));
    }
  }
  const char* expected = is_gemma(architecture) ? "gelu_pytorch_tanh" : "silu";
  const char* key = is_gemma(architecture) ? "hidden_activation" : "hidden_act";
  const std::string activation = json.find_string(key).value_or(expected);
  if (activation != expected) json.fail(key, expected, activation.substr(0, 40));
}

}  // namespace

ModelConfig parse_hf_config(const JsonObject& json, bool has_output, std::int64_t context) {
  if (const auto text = text_part(json)) return parse_hf_config(*text, has_output, context);
  ModelConfig c;
  c.architecture = read_architecture(json);
  refuse_unsupported(json, c.architecture);
  c.model_name = json.find_string("_name_or_path").value_or("");
  c.dim = json.integer("hidden_size");
  c.hidden_dim = json.integer("intermediate_size");
  c.n_layers = json.integer("num_hidden_layers");
  c.n_heads = json.integer("num_attention_heads");
  c.n_kv_heads = json.find_int("num_key_value_heads").value_or(c.n_heads);
  if (c.n_heads < 1) json.fail("num_attention_heads", "a positive number", std::to_string(c.n_heads));
  c.head_dim = json.find_int("head_dim").value_or(is_gemma(c.architecture) ? 256 : c.dim / c.n_heads);
  c.vocab_size = json.integer("vocab_size");
  c.max_seq_len = json.integer("max_position_embeddings");
  c.norm_eps = static_cast<float>(json.number("rms_norm_eps"));
  // Some folders with tied embeddings hold a copy of them as the head: the flag decides, as in Transformers.
  c.tied_embeddings = json.find_bool("tie_word_embeddings").value_or(!has_output);
  c.qkv_bias = c.architecture == Architecture::qwen2 ||
               (c.architecture == Architecture::qwen2moe && json.find_bool("qkv_bias").value_or(true));
  c.qk_norm_whole = c.architecture == Architecture::olmoe;
  c.qk_norm = c.qk_norm_whole || c.architecture == Architecture::qwen3 || c.architecture == Architecture::qwen3moe;
  if (has_experts(json, c.architecture)) read_experts(json, c);
  c.sliding_window = read_window(json, c.architecture);
  check(c, json.where());  // the number of layers is about to be trusted
  c.full_attention_layers = read_full_layers(json, c);
  c.no_rope_layers = read_no_rope_layers(json, c);
  if (is_gemma(c.architecture)) read_gemma(json, c);
  if (c.architecture == Architecture::gpt_oss) read_gpt_oss(json, c);
  if (c.architecture == Architecture::granite || c.architecture == Architecture::granitemoe) read_granite(json, c);
  read_rope(json, context, c);
  check(c, json.where());
  return c;
}

}  // namespace jupiter

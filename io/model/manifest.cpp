// Manifest as JSON; every field checked when read.
#include "io/model/manifest.hpp"

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <utility>

#include "io/error.hpp"
#include "io/files.hpp"
#include "io/hash.hpp"
#include "io/json_fields.hpp"

namespace jupiter {

using nlohmann::json;

namespace {

constexpr std::uint64_t kMaxManifestBytes = 64 << 20;

const char* kind_name(DatasetInfo::Kind kind) {
  switch (kind) {
    case DatasetInfo::Kind::matrix:
      return "matrix";
    case DatasetInfo::Kind::vector:
      return "vector";
    default:
      return "bytes";
  }
}

// Fields that came after format version 1: each is written only where it has not its neutral value, so that older
// models keep their bytes, hence their hash.
template <typename Config, typename Visit>
void visit_newer_fields(Config& c, const Visit& visit) {
  visit("full_attention_layers", c.full_attention_layers);
  visit("no_rope_layers", c.no_rope_layers);
  visit("sliding_rope_theta", c.sliding_rope_theta);
  visit("rope_attention_factor", c.rope_attention_factor);
  visit("rope_dim", c.rope_dim);
  visit("post_norms", c.post_norms);
  visit("activation", c.activation);
  visit("embedding_scale", c.embedding_scale);
  visit("attention_scale", c.attention_scale);
  visit("residual_scale", c.residual_scale);
  visit("logit_scale", c.logit_scale);
  visit("attention_softcap", c.attention_softcap);
  visit("logit_softcap", c.logit_softcap);
  visit("n_experts", c.n_experts);
  visit("n_experts_used", c.n_experts_used);
  visit("expert_hidden_dim", c.expert_hidden_dim);
  visit("normalised_expert_weights", c.normalised_expert_weights);
  visit("shared_expert_gate", c.shared_expert_gate);
  visit("qk_norm_whole", c.qk_norm_whole);
  visit("attention_sinks", c.attention_sinks);
  visit("attention_output_bias", c.attention_output_bias);
  visit("expert_bias", c.expert_bias);
}

json newer_fields(const ModelConfig& c) {
  const auto all_of = [](const ModelConfig& config) {
    json all = json::object();
    visit_newer_fields(config, [&](const char* key, const auto& value) {
      if constexpr (std::is_same_v<std::decay_t<decltype(value)>, Activation>) {
        all[key] = name(value);
      } else {
        all[key] = value;
      }
    });
    return all;
  };
  json fields = all_of(c);
  const json neutral = all_of(ModelConfig{});
  for (const auto& [key, value] : neutral.items()) {
    if (fields[key] == value) fields.erase(key);
  }
  return fields;
}

// A program that knows version 1 only would leave the newer fields out of the arithmetic, so it must refuse them.
int format_version(const ModelConfig& c) {
  return newer_fields(c).empty() ? 1 : kFormatVersion;
}

json config_json(const ModelConfig& c) {
  json fields = newer_fields(c);
  fields.update(json{{"architecture", name(c.architecture)},
                     {"model_name", c.model_name},
                     {"dim", c.dim},
                     {"hidden_dim", c.hidden_dim},
                     {"n_layers", c.n_layers},
                     {"n_heads", c.n_heads},
                     {"n_kv_heads", c.n_kv_heads},
                     {"head_dim", c.head_dim},
                     {"vocab_size", c.vocab_size},
                     {"max_seq_len_tokens", c.max_seq_len},
                     {"sliding_window_tokens", c.sliding_window},
                     {"rope_theta", c.rope_theta},
                     {"rope_factors", c.rope_factors},
                     {"norm_eps", c.norm_eps},
                     {"tied_embeddings", c.tied_embeddings},
                     {"qkv_bias", c.qkv_bias},
                     {"qk_norm", c.qk_norm},
                     {"residual", name(c.residual)}});
  return fields;
}

// A field of the expected type, or a FormatError that names it.
template <typename T>
T field(const json& object, const char* key, const std::string& file) {
  const auto it = object.find(key);
  if (it == object.end()) throw FormatError(file, key, "a value", "nothing");
  if constexpr (std::is_integral_v<T> && !std::is_same_v<T, bool>) {
    // The library's own conversion would cut a larger number or a fraction to something else.
    const bool negative = it->is_number_integer() && !it->is_number_unsigned();
    const bool fits = negative ? std::in_range<T>(it->get<std::int64_t>())
                               : it->is_number_unsigned() && std::in_range<T>(it->get<std::uint64_t>());
    if (!fits) throw FormatError(file, key, "a whole number in its range", json_text(*it));
  }
  try {
    return it->get<T>();
  } catch (const json::exception&) {
    throw FormatError(file, key, "a value of another type", json_text(*it));
  }
}

const json& object_field(const json& object, const char* key, const std::string& file, bool array) {
  const auto it = object.find(key);
  if (it == object.end() || it->is_array() != array || it->is_structured() == false) {
    throw FormatError(file, key, array ? "a list" : "an object", it == object.end() ? "nothing" : it->type_name());
  }
  return *it;
}

template <typename T>
T named(std::optional<T> value, const char* key, const std::string& text, const std::string& file) {
  if (!value) throw FormatError(file, key, "a known name", text);
  return *value;
}

ModelConfig parse_config(const json& j, const std::string& file) {
  ModelConfig c;
  const auto architecture = field<std::string>(j, "architecture", file);
  c.architecture = named(architecture_from_name(architecture), "architecture", architecture, file);
  c.model_name = field<std::string>(j, "model_name", file);
  c.dim = field<std::int64_t>(j, "dim", file);
  c.hidden_dim = field<std::int64_t>(j, "hidden_dim", file);
  c.n_layers = field<std::int64_t>(j, "n_layers", file);
  c.n_heads = field<std::int64_t>(j, "n_heads", file);
  c.n_kv_heads = field<std::int64_t>(j, "n_kv_heads", file);
  c.head_dim = field<std::int64_t>(j, "head_dim", file);
  c.vocab_size = field<std::int64_t>(j, "vocab_size", file);
  c.max_seq_len = field<std::int64_t>(j, "max_seq_len_tokens", file);
  c.sliding_window = field<std::int64_t>(j, "sliding_window_tokens", file);
  c.rope_theta = field<float>(j, "rope_theta", file);
  c.rope_factors = field<std::vector<float>>(j, "rope_factors", file);
  c.norm_eps = field<float>(j, "norm_eps", file);
  c.tied_embeddings = field<bool>(j, "tied_embeddings", file);
  c.qkv_bias = field<bool>(j, "qkv_bias", file);
  c.qk_norm = field<bool>(j, "qk_norm", file);
  const auto residual = field<std::string>(j, "residual", file);
  c.residual = named(precision_from_name(residual), "residual", residual, file);
  visit_newer_fields(c, [&](const char* key, auto& value) {
    using Value = std::decay_t<decltype(value)>;
    if (!j.contains(key)) return;
    if constexpr (std::is_same_v<Value, Activation>) {
      const auto text = field<std::string>(j, key, file);
      value = named(activation_from_name(text), key, text, file);
    } else {
      value = field<Value>(j, key, file);
    }
  });
  check(c, file);
  return c;
}

std::uint64_t parse_hash(const std::string& text, const std::string& file) {
  if (text.size() != 16 || text.find_first_not_of("0123456789abcdef") != std::string::npos) {
    throw FormatError(file, "xxh3_64", "16 hex digits", text.substr(0, 40));
  }
  return std::stoull(text, nullptr, 16);
}

std::uint64_t expected_bytes(const DatasetInfo& d, const std::string& file) {
  const std::int64_t limit = std::int64_t{1} << 40;
  if (d.rows < 1 || d.cols < 1 || d.rows > limit / d.cols) {
    throw FormatError(file, d.name, "a sensible shape", fmt::format("{} x {}", d.rows, d.cols));
  }
  if (d.kind == DatasetInfo::Kind::vector) return static_cast<std::uint64_t>(d.rows * d.cols) * 4;
  if (d.kind == DatasetInfo::Kind::bytes) return static_cast<std::uint64_t>(d.rows * d.cols);
  if (d.cols % col_multiple(d.format) != 0) {
    throw FormatError(file, d.name, fmt::format("columns in multiples of {}", col_multiple(d.format)),
                      std::to_string(d.cols));
  }
  return PackedMatrix{d.format, d.rows, d.cols, nullptr}.bytes();
}

DatasetInfo parse_dataset(const json& j, const std::string& file) {
  DatasetInfo d;
  d.name = field<std::string>(j, "name", file);
  const auto kind = field<std::string>(j, "kind", file);
  if (kind == "vector") {
    d.kind = DatasetInfo::Kind::vector;
  } else if (kind == "bytes") {
    d.kind = DatasetInfo::Kind::bytes;
  } else if (kind == "matrix") {
    const auto format = field<std::string>(j, "format", file);
    d.format = named(format_from_name(format), "format", format, file);
  } else {
    throw FormatError(file, "kind of " + d.name, "matrix, vector or bytes", kind);
  }
  d.rows = field<std::int64_t>(j, "rows", file);
  d.cols = field<std::int64_t>(j, "cols", file);
  d.bytes = field<std::uint64_t>(j, "size_bytes", file);
  d.checksum = parse_hash(field<std::string>(j, "xxh3_64", file), file);
  if (d.bytes != expected_bytes(d, file)) {
    throw FormatError(file, "size_bytes of " + d.name, std::to_string(expected_bytes(d, file)),
                      std::to_string(d.bytes));
  }
  return d;
}

}  // namespace

const DatasetInfo* FileInfo::find(std::string_view dataset) const {
  for (const DatasetInfo& d : datasets) {
    if (d.name == dataset) return &d;
  }
  return nullptr;
}

std::uint64_t FileInfo::bytes() const {
  std::uint64_t sum = 0;
  for (const DatasetInfo& d : datasets) sum += d.bytes;
  return sum;
}

namespace {
std::uint64_t aligned(std::uint64_t bytes) {
  return (bytes + kDatasetAlignment - 1) / kDatasetAlignment * kDatasetAlignment;
}
}  // namespace

std::uint64_t FileInfo::mapped_bytes() const {
  std::uint64_t sum = 0;
  for (const DatasetInfo& d : datasets) sum += aligned(d.bytes);
  return sum;
}

namespace {

// Of so many rows of a dataset.
std::uint64_t bytes_of_rows(const DatasetInfo& d, std::int64_t rows) {
  if (rows == d.rows || d.rows == 0) return d.bytes;
  const auto panels = [](std::int64_t n) { return static_cast<std::uint64_t>((n + kPanelRows - 1) / kPanelRows); };
  return d.bytes / panels(d.rows) * panels(rows);
}

// Bytes of a part, each dataset's passed through `count`.
template <typename Count>
std::uint64_t sum_of(const Manifest& m, const ModelPart& part, const Count& count) {
  const TensorSlice slice = part.rows(m.config);
  std::uint64_t sum = 0;
  const auto add = [&](const std::string& file, bool whole) {
    for (const DatasetInfo& d : m.file(file).datasets) {
      const IndexRange rows = whole ? IndexRange{0, d.rows} : rows_of(m.config, slice, d.name, d.rows);
      sum += count(d, bytes_of_rows(d, rows.size()));
    }
  };
  for (std::int64_t i = part.first_layer; i < part.last_layer; ++i) add(layer_file_name(i), false);
  if (part.embedding || (part.reads_output_head() && m.config.tied_embeddings)) add(embed_file_name(), part.embedding);
  if (part.reads_output_head()) add(output_file_name(), false);
  return sum;
}

}  // namespace

IndexRange rows_of(const ModelConfig& c, const TensorSlice& s, std::string_view dataset, std::int64_t rows) {
  const auto of_heads = [&](const IndexRange& heads) {
    return IndexRange{heads.first * c.head_dim, heads.last * c.head_dim};
  };
  if (dataset == "wq") return of_heads(s.heads);
  if (dataset == "wk" || dataset == "wv") return of_heads(s.kv_heads);
  if (dataset == "wo") return s.attention_out;
  if (dataset == "w_gate" || dataset == "w_up") return s.hidden;
  if (dataset == "w_down") return s.feed_forward_out;
  if (dataset == "w_gate_experts" || dataset == "w_up_experts") return {0, c.n_experts * s.expert_hidden.size()};
  if (dataset == "w_down_experts") return {0, c.n_experts * s.feed_forward_out.size()};
  if (dataset == "output" || dataset == "embed") return s.vocabulary;  // as the output head
  return {0, rows};
}

std::uint64_t weight_bytes(const Manifest& m, const ModelPart& part) {
  return sum_of(m, part, [](const DatasetInfo&, std::uint64_t bytes) { return bytes; });
}

std::uint64_t read_bytes(const Manifest& m, const ModelPart& part) {
  return sum_of(m, part, [&](const DatasetInfo& d, std::uint64_t bytes) {
    if (!holds_experts(d.name) || m.config.n_experts == 0) return bytes;
    return bytes / static_cast<std::uint64_t>(m.config.n_experts) * static_cast<std::uint64_t>(m.config.n_experts_used);
  });
}

bool holds_experts(std::string_view dataset) {
  return dataset.ends_with("_experts");
}

std::uint64_t mapped_bytes(const Manifest& m, const ModelPart& part) {
  return sum_of(m, part, [](const DatasetInfo&, std::uint64_t bytes) { return aligned(bytes); });
}

const FileInfo& Manifest::file(std::string_view file_name) const {
  for (const FileInfo& f : files) {
    if (f.name == file_name) return f;
  }
  throw FormatError(kManifestName, "files", "an entry for " + std::string(file_name), "none");
}

std::string embed_file_name() {
  return "embed.h5";
}
std::string output_file_name() {
  return "output.h5";
}
std::string tokenizer_file_name() {
  return "tokenizer.h5";
}
std::string layer_file_name(std::int64_t layer) {
  return fmt::format("layer_{:04}.h5", layer);
}

std::string to_json(const Manifest& m) {
  json files = json::array();
  for (const FileInfo& f : m.files) {
    json datasets = json::array();
    for (const DatasetInfo& d : f.datasets) {
      json entry = {{"name", d.name}, {"kind", kind_name(d.kind)}, {"rows", d.rows},
                    {"cols", d.cols}, {"size_bytes", d.bytes},     {"xxh3_64", hex(d.checksum)}};
      if (d.kind == DatasetInfo::Kind::matrix) {
        entry["format"] = name(d.format);
        if (!is_float(d.format)) entry["group_cols"] = kGroupCols;
      }
      datasets.push_back(std::move(entry));
    }
    files.push_back({{"name", f.name}, {"datasets", std::move(datasets)}});
  }
  const json all = {{"creator", "jupiter"},     {"format_version", format_version(m.config)},
                    {"source", m.source},       {"quantization", m.quantization},
                    {"notes", m.notes},         {"config", config_json(m.config)},
                    {"files", std::move(files)}};
  return all.dump(1) + "\n";
}

Manifest parse_manifest(const std::string& text, const std::string& file) {
  const json j = parse_json(text, file);
  if (!j.is_object()) throw FormatError(file, "content", "a JSON object", j.type_name());
  const int version = field<int>(j, "format_version", file);
  if (version < 1 || version > kFormatVersion) {
    throw FormatError(file, "format_version", fmt::format("1 to {} (convert the model again)", kFormatVersion),
                      std::to_string(version));
  }
  Manifest m;
  m.source = field<std::string>(j, "source", file);
  m.quantization = field<std::string>(j, "quantization", file);
  m.notes = field<std::vector<std::string>>(j, "notes", file);
  m.config = parse_config(object_field(j, "config", file, false), file);
  for (const json& f : object_field(j, "files", file, true)) {
    if (!f.is_object()) throw FormatError(file, "files", "objects", f.type_name());
    FileInfo info;
    info.name = field<std::string>(f, "name", file);
    if (info.name.empty() || info.name.find('/') != std::string::npos) {
      throw FormatError(file, "file name", "a plain name", info.name);
    }
    for (const json& d : object_field(f, "datasets", file, true)) {
      if (!d.is_object()) throw FormatError(file, "datasets", "objects", d.type_name());
      info.datasets.push_back(parse_dataset(d, file));
    }
    m.files.push_back(std::move(info));
  }
  m.hash = hash_bytes(text);
  return m;
}

Manifest read_manifest(const std::filesystem::path& folder) {
  if (!std::filesystem::is_directory(folder)) {
    throw FormatError(folder.string(), "model", "a folder that `jupiter convert` made",
                      std::filesystem::exists(folder) ? "a file (convert it first)" : "nothing");
  }
  const std::filesystem::path path = folder / kManifestName;
  if (!std::filesystem::exists(path)) {
    throw FormatError(folder.string(), kManifestName, "the manifest that `jupiter convert` writes last",
                      "none (an unfinished conversion, or not a model)");
  }
  return parse_manifest(read_file(path, kMaxManifestBytes), path.string());
}

}  // namespace jupiter

// What a conversion would write, without writing it.
#include <fmt/format.h>

#include "io/convert/synth.hpp"
#include "io/error.hpp"
#include "io/files.hpp"
#include "io/hash.hpp"

namespace jupiter {

namespace {

constexpr std::uint64_t kTokenBytes = 12;  // of a token's text, end, type and score, and its share of merges

DatasetInfo dataset(const TensorSpec& spec, Format format) {
  DatasetInfo d;
  d.name = spec.canonical.substr(spec.canonical.rfind('.') + 1);
  d.rows = std::max<std::int64_t>(spec.rows, 1);
  d.cols = spec.cols;
  d.kind = spec.rows > 0 ? DatasetInfo::Kind::matrix : DatasetInfo::Kind::vector;
  d.format = spec.rows > 0 && !d.name.ends_with("router") ? format : Format::f32;  // as a conversion stores routers
  d.bytes = spec.rows > 0 ? PackedMatrix{d.format, spec.rows, spec.cols, nullptr}.bytes()
                          : static_cast<std::uint64_t>(spec.cols) * sizeof(float);
  return d;
}

}  // namespace

Manifest synth_manifest(const ModelConfig& config, GgufType type) {
  Manifest m;
  m.config = config;
  if (type == GgufType::f32) m.config.residual = Precision::f32;
  m.source = "random";
  m.quantization = "keep";
  m.notes.emplace_back("only a manifest: there are no weights");
  FileInfo tokenizer{tokenizer_file_name(), {}}, embed{embed_file_name(), {}}, output{output_file_name(), {}};
  const std::uint64_t tokens = static_cast<std::uint64_t>(config.vocab_size) * kTokenBytes;
  tokenizer.datasets.push_back(
      {"tokens_text", DatasetInfo::Kind::bytes, Format::f32, 1, static_cast<std::int64_t>(tokens), tokens, 0});
  std::vector<FileInfo> layers;
  for (std::int64_t i = 0; i < config.n_layers; ++i) layers.push_back({layer_file_name(i), {}});
  const Format format = *packed_format(type);
  std::size_t at = 0;  // specs go layer by layer
  for (const TensorSpec& spec : tensor_specs(config)) {
    const bool is_output = spec.canonical == "output" || spec.canonical == "output_norm";
    if (spec.canonical == "output" && config.tied_embeddings) continue;
    if (spec.canonical == "embed") {
      embed.datasets.push_back(dataset(spec, format));
    } else if (is_output) {
      output.datasets.push_back(dataset(spec, format));
    } else {
      while (!spec.canonical.starts_with(fmt::format("layers.{}.", at))) ++at;
      layers[at].datasets.push_back(dataset(spec, format));
    }
  }
  m.files = {tokenizer, embed};
  m.files.insert(m.files.end(), layers.begin(), layers.end());
  m.files.push_back(output);
  m.hash = hash_bytes(to_json(m));
  return m;
}

void write_synth_manifest(const Manifest& manifest, const std::filesystem::path& folder) {
  if (std::filesystem::exists(folder / layer_file_name(0))) {
    throw UsageError(fmt::format("{}: expected a folder without weights, found a model", folder.string()));
  }
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error) throw RunError(folder.string() + ": cannot be created: " + error.message());
  write_file_atomically(folder / kManifestName, to_json(manifest));
}

}  // namespace jupiter

// The manifest says what a model folder holds, file by file and dataset by dataset. It lies on every board, and the
// hash of its bytes is the model's hash.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "io/model/model_config.hpp"
#include "io/model/packed.hpp"
#include "io/model/tensor_slice.hpp"

namespace jupiter {

inline constexpr int kFormatVersion = 2;  // the newest that is read; a manifest has the oldest that can say it all
inline constexpr const char* kManifestName = "manifest.json";
inline constexpr std::uint64_t kDatasetAlignment = 64 << 10;  // bytes; pages are 16 KiB on some boards

// A dataset of a shard file. Matrices have rows and cols; vectors are f32 with rows 1; other data (tokenizer) is u8
// with rows 1.
struct DatasetInfo {
  enum class Kind : std::uint8_t { matrix, vector, bytes };
  std::string name;
  Kind kind = Kind::matrix;
  Format format = Format::f32;  // matrices
  std::int64_t rows = 0;
  std::int64_t cols = 0;
  std::uint64_t bytes = 0;
  std::uint64_t checksum = 0;  // XXH3-64 of the dataset's bytes
};

struct FileInfo {
  std::string name;
  std::vector<DatasetInfo> datasets;
  const DatasetInfo* find(std::string_view dataset) const;
  std::uint64_t bytes() const;         // of its datasets
  std::uint64_t mapped_bytes() const;  // with the gaps between them, which become resident with their neighbours
};

struct Manifest {
  ModelConfig config;
  std::string source;              // file name of what was converted
  std::string quantization;        // the --quant of the conversion
  std::vector<std::string> notes;  // what the conversion changed
  std::vector<FileInfo> files;
  std::uint64_t hash = 0;  // of the manifest file's bytes; not part of them

  const FileInfo& file(std::string_view file_name) const;  // FormatError where there is none
};

std::string embed_file_name();
std::string output_file_name();
std::string tokenizer_file_name();
std::string layer_file_name(std::int64_t layer);

// Which parts a board holds: layers [first_layer, last_layer), embedding, output head.
struct ModelPart {
  std::int64_t first_layer = 0;
  std::int64_t last_layer = 0;
  bool embedding = false;
  bool output_head = false;
  std::optional<TensorSlice> slice = std::nullopt;  // of a board in a tensor group; none: all rows of every matrix
  // Rows of the output head that this board computes, where stages share it. A stage that is not the last one helps.
  std::optional<IndexRange> vocabulary = std::nullopt;

  TensorSlice rows(const ModelConfig& config) const {
    TensorSlice rows = slice.value_or(whole_slice(config));
    if (vocabulary) rows.vocabulary = *vocabulary;
    return rows;
  }
  bool reads_output_head() const { return output_head || vocabulary.has_value(); }
  bool helps_with_output_head() const { return !output_head && vocabulary.has_value(); }
};
// Whether a dataset holds all experts of a layer, of which a token reads only some.
bool holds_experts(std::string_view dataset);
// The rows of a layer's matrix that a slice has (of experts: as many as it has of all together); all of `rows` for
// other datasets. The embedding is not sliced.
IndexRange rows_of(const ModelConfig& config, const TensorSlice& slice, std::string_view dataset, std::int64_t rows);
// Bytes of the part's matrices and vectors. Tied embeddings count once.
std::uint64_t weight_bytes(const Manifest& manifest, const ModelPart& part);
// Of those, what one token reads: of the experts only those that it uses.
std::uint64_t read_bytes(const Manifest& manifest, const ModelPart& part);
// Bytes that they take once they are mapped and read.
std::uint64_t mapped_bytes(const Manifest& manifest, const ModelPart& part);

std::string to_json(const Manifest& manifest);
Manifest parse_manifest(const std::string& text, const std::string& file_name);
Manifest read_manifest(const std::filesystem::path& folder);

}  // namespace jupiter

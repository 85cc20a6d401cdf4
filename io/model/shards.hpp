// HDF5 shard files: one per layer, plus embedding, output head and tokenizer. Datasets are contiguous and aligned to
// 64 KiB, so that a stage maps a file and multiplies from the page cache (io/README.md describes the format).
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <utility>

#include "io/files.hpp"
#include "io/mapped_file.hpp"
#include "io/model/manifest.hpp"
#include "io/tokenizer/tokenizer_data.hpp"

namespace jupiter {

// Writes one shard file beside its final place; finish() makes it durable and hands it over. The caller puts it in
// place, once all files of the model are whole. Without finish() the destructor removes the file.
class ShardWriter {
 public:
  ShardWriter(const std::filesystem::path& folder, const std::string& name, const ModelConfig& config);
  ~ShardWriter();
  ShardWriter(const ShardWriter&) = delete;
  ShardWriter& operator=(const ShardWriter&) = delete;

  // A packed matrix whose panels are written by fill(panel index, zeroed bytes of the panel), in ascending order.
  void write_matrix(const std::string& dataset, Format format, std::int64_t rows, std::int64_t cols,
                    const std::function<void(std::int64_t panel, std::byte* bytes)>& fill);
  void write_vector(const std::string& dataset, std::span<const float> values);
  void write_bytes(const std::string& dataset, std::span<const std::byte> bytes, const std::string& meaning);
  std::pair<FileInfo, NewFile> finish();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// A mapped shard file whose datasets lie where the manifest says and have the shapes that it says.
class ShardFile {
 public:
  // verify: also checks every checksum, unless the file was found whole before and has not changed since
  // (VerifiedFiles). FormatError names the file and the dataset.
  ShardFile(const std::filesystem::path& folder, const FileInfo& info, bool verify);

  bool has(std::string_view dataset) const { return info_.find(dataset) != nullptr; }
  PackedMatrix matrix(const std::string& dataset, std::int64_t rows, std::int64_t cols) const;
  std::span<const float> vector(const std::string& dataset, std::int64_t size) const;
  std::span<const std::byte> bytes(const std::string& dataset) const;
  std::uint64_t mapped_bytes() const { return mapping_.bytes().size(); }
  const std::string& name() const { return mapping_.path(); }

 private:
  const std::byte* find(const std::string& dataset, DatasetInfo::Kind kind, const DatasetInfo** info) const;
  FileInfo info_;
  MappedFile mapping_;
  std::vector<std::uint64_t> offsets_;  // by dataset
};

// The problems of all datasets, one line each; empty where the file is whole.
std::vector<std::string> verify_shard(const std::filesystem::path& folder, const FileInfo& info);

// Write and read the tokenizer as datasets of tokenizer.h5.
void write_tokenizer(ShardWriter& writer, const TokenizerData& tokenizer);
TokenizerData read_tokenizer(const ShardFile& file, std::int64_t vocab_size);

}  // namespace jupiter

// Logits of a text under some model, saved to compare others with: HDF5, f16 log-probabilities (their largest error,
// 2^-7 between -32 and -16, adds about 1e-5 to a KL divergence).
#pragma once

#include <filesystem>
#include <memory>
#include <span>
#include <vector>

#include "io/float16.hpp"
#include "io/mapped_file.hpp"
#include "io/tokenizer/tokenizer_data.hpp"

namespace jupiter {

struct ReferenceInfo {
  std::vector<TokenId> tokens;  // of the text
  std::int64_t window = 0;      // tokens that were evaluated together
  std::int64_t vocab_size = 0;
  std::string model_hash;  // of what wrote it; "transformers" for the script's
};

class ReferenceWriter {
 public:
  // RunError where the file cannot be written. Rows: one per token.
  ReferenceWriter(const std::filesystem::path& path, const ReferenceInfo& info);
  ~ReferenceWriter();
  void write(std::int64_t row, std::span<const f16_t> log_probabilities);
  void finish();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

class ReferenceFile {
 public:
  explicit ReferenceFile(const std::filesystem::path& path);  // FormatError
  const ReferenceInfo& info() const { return info_; }
  const std::string& name() const { return mapping_.path(); }
  std::span<const f16_t> row(std::int64_t row) const {
    return {rows_ + row * info_.vocab_size, static_cast<std::size_t>(info_.vocab_size)};
  }

 private:
  ReferenceInfo info_;
  MappedFile mapping_;
  const f16_t* rows_ = nullptr;
};

}  // namespace jupiter

// GGUF v2 and v3 files: metadata, tensor directory, and what they say about the model and its tokenizer.
// The file is hostile until proven otherwise: every size is checked before use, every fault is a FormatError.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "io/formats/gguf_quants.hpp"
#include "io/mapped_file.hpp"
#include "io/model/model_config.hpp"
#include "io/tokenizer/tokenizer_data.hpp"

namespace jupiter {

// An array's elements as they lie in the file.
struct GgufArray {
  std::uint32_t element_type = 0;  // GGUF's number
  std::uint64_t count = 0;
  std::span<const std::byte> bytes;
};
using GgufValue = std::variant<std::uint64_t, std::int64_t, double, bool, std::string_view, GgufArray>;

// A parsed file: looks at the bytes it was parsed from, owns none of them.
class Gguf {
 public:
  const std::string& file_name() const { return file_name_; }

  // Metadata: nullptr or empty where the key is absent, FormatError where its type or range is wrong.
  const GgufValue* find(std::string_view key) const;
  std::optional<std::int64_t> find_int(std::string_view key) const;
  std::optional<double> find_number(std::string_view key) const;
  std::optional<bool> find_bool(std::string_view key) const;
  std::optional<std::string_view> find_string(std::string_view key) const;
  std::optional<std::vector<std::string_view>> find_strings(std::string_view key) const;
  std::optional<std::vector<std::int64_t>> find_ints(std::string_view key) const;  // any integer element type
  std::optional<std::vector<float>> find_floats(std::string_view key) const;       // f32 elements

  const std::vector<StoredTensor>& tensors() const { return tensors_; }
  const StoredTensor* find_tensor(std::string_view name) const;

  // What the metadata says, checked. FormatError on unknown architectures, RoPE scalings, tokenizers. context: as for
  // open_model_source().
  ModelConfig config(std::int64_t context = 0) const;
  TokenizerData tokenizer_data() const;

 private:
  friend class GgufParser;
  std::string file_name_;
  std::map<std::string_view, GgufValue> values_;
  std::vector<StoredTensor> tensors_;
  std::map<std::string_view, std::size_t> tensor_index_;
};

// The result looks at `bytes`. FormatError names `file_name`, the thing, what was expected and found.
Gguf parse_gguf(std::span<const std::byte> bytes, std::string_view file_name);

// A GGUF file on disk, mapped.
class GgufFile {
 public:
  explicit GgufFile(const std::string& path);

  const Gguf& content() const { return content_; }
  const MappedFile& mapping() const { return mapping_; }
  ModelConfig config(std::int64_t context = 0) const { return content_.config(context); }
  TokenizerData tokenizer_data() const { return content_.tokenizer_data(); }
  const StoredTensor* find_tensor(std::string_view name) const { return content_.find_tensor(name); }

 private:
  MappedFile mapping_;
  Gguf content_;
};

}  // namespace jupiter

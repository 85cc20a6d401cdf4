// Safetensors files: a JSON header that places tensors in the bytes behind it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "io/formats/gguf_quants.hpp"
#include "io/mapped_file.hpp"

namespace jupiter {

// Looks at the bytes it was parsed from.
class Safetensors {
 public:
  bool has(std::string_view name) const { return entries_.find(name) != entries_.end(); }
  std::vector<std::string_view> names() const;
  // FormatError where there is none of that name, or its type is not F32, F16 or BF16.
  StoredTensor tensor(std::string_view name) const;
  // The bytes of a tensor of U8 with this shape (rows first); FormatError where it is not that.
  std::span<const std::byte> bytes(std::string_view name, const std::vector<std::int64_t>& shape) const;

 private:
  struct Entry {
    std::string dtype;
    std::vector<std::int64_t> shape;  // rows first, as the file has it
    const std::byte* data = nullptr;
    std::size_t bytes = 0;
  };
  // FormatError where there is none of that name.
  const std::pair<const std::string, Entry>& entry(std::string_view name) const;
  friend class SafetensorsParser;
  std::string file_name_;
  std::map<std::string, Entry, std::less<>> entries_;
};

// FormatError, naming `file_name`, for a header that is too long or no JSON, and for tensors that lie outside the
// file, overlap, or leave bytes unaccounted for.
Safetensors parse_safetensors(std::span<const std::byte> bytes, std::string_view file_name);

class SafetensorsFile {
 public:
  explicit SafetensorsFile(const std::string& path)
      : mapping_(path), content_(parse_safetensors(mapping_.bytes(), path)) {}
  const Safetensors& content() const { return content_; }

 private:
  MappedFile mapping_;
  Safetensors content_;
};

}  // namespace jupiter

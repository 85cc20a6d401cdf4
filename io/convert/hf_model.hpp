// A Hugging Face model folder: config.json, safetensors files, tokenizer.json and what stands beside it.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "io/formats/safetensors.hpp"
#include "io/json_fields.hpp"
#include "io/model/model_config.hpp"
#include "io/tokenizer/tokenizer_data.hpp"

namespace jupiter {

class HfFolder {
 public:
  // Maps the safetensors files: model.safetensors, or all that model.safetensors.index.json names. context: as for
  // open_model_source().
  explicit HfFolder(const std::string& path, std::int64_t context = 0);

  // FormatError for architectures that we do not know, and for options that would change the result and are not
  // implemented.
  ModelConfig config() const;
  // FormatError where the tokenizer is none of the kinds that TokenizerData can describe.
  TokenizerData tokenizer_data() const;

  bool has_tensor(std::string_view name) const { return files_by_tensor_.find(name) != files_by_tensor_.end(); }
  std::vector<std::string_view> tensor_names() const;
  StoredTensor tensor(std::string_view name) const;
  // As Safetensors::bytes().
  std::span<const std::byte> bytes(std::string_view name, const std::vector<std::int64_t>& shape) const;

  const std::string& path() const { return path_; }

 private:
  const Safetensors& file_of(std::string_view tensor) const;
  void open_weights(const std::string& file_name);
  std::string path_;
  std::int64_t context_;
  std::vector<std::unique_ptr<SafetensorsFile>> files_;
  std::map<std::string, const SafetensorsFile*, std::less<>> files_by_tensor_;
};

// config.json alone. has_output: the weights hold an output head of their own.
ModelConfig parse_hf_config(const JsonObject& json, bool has_output, std::int64_t context = 0);

}  // namespace jupiter

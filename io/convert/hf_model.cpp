// The weights' files of a folder.
#include "io/convert/hf_model.hpp"

#include <filesystem>
#include <set>

#include "io/error.hpp"
#include "io/files.hpp"

namespace jupiter {

namespace {

JsonObject read_json(const std::string& path) {
  return parse_json_object(read_file(path, kMaxJsonBytes), path);
}

}  // namespace

HfFolder::HfFolder(const std::string& path, std::int64_t context) : path_(path), context_(context) {
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

const Safetensors& HfFolder::file_of(std::string_view tensor) const {
  const auto it = files_by_tensor_.find(tensor);
  if (it == files_by_tensor_.end()) throw FormatError(path_, "tensor " + std::string(tensor), "its weights", "nothing");
  return it->second->content();
}

StoredTensor HfFolder::tensor(std::string_view name) const {
  return file_of(name).tensor(name);
}

std::span<const std::byte> HfFolder::bytes(std::string_view name, const std::vector<std::int64_t>& shape) const {
  return file_of(name).bytes(name, shape);
}

ModelConfig HfFolder::config() const {
  ModelConfig c = parse_hf_config(read_json(path_ + "/config.json"), has_tensor("lm_head.weight"), context_);
  if (c.model_name.empty()) {
    const std::filesystem::path folder = std::filesystem::path(path_).lexically_normal();
    c.model_name = (folder.has_filename() ? folder : folder.parent_path()).filename().string();
  }
  return c;
}

}  // namespace jupiter

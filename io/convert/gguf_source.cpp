// Maps GGUF tensors to canonical ones and undoes llama.cpp's interleaving of Q and K.
#include "io/convert/gguf_source.hpp"

#include <set>

#include "io/error.hpp"
#include "io/formats/gguf.hpp"

namespace jupiter {

namespace {

// Frequencies that converters write out; they follow from the configuration or were read with it.
bool is_rope_table(std::string_view name) {
  return name == "rope_freqs.weight" || name == "rope_factors_long.weight" || name == "rope_factors_short.weight" ||
         name.ends_with(".attn_rot_embd") || name.ends_with(".attn_rot_embd.weight");
}

// llama.cpp computes RoPE of these architectures on neighbouring pairs, so its converter reorders Q and K.
bool is_interleaved(Architecture a) {
  return a == Architecture::llama || a == Architecture::granite || a == Architecture::granitemoe ||
         a == Architecture::smollm3;
}

}  // namespace

std::unique_ptr<ModelSource> open_gguf_source(const std::string& path, std::int64_t context) {
  auto file = std::make_shared<const GgufFile>(path);
  ModelConfig config = file->config(context);
  TokenizerData tokenizer = file->tokenizer_data();
  if (std::ssize(tokenizer.tokens) != config.vocab_size) {
    throw FormatError(path, "metadata tokenizer.ggml.tokens", std::to_string(config.vocab_size) + " (embedding rows)",
                      std::to_string(tokenizer.tokens.size()));
  }
  const bool interleaved = is_interleaved(config.architecture);
  std::vector<SourceTensor> tensors;
  std::set<std::string, std::less<>> used;
  const auto find = [&](const std::string& name) {
    const StoredTensor* tensor = file->find_tensor(name);
    if (tensor == nullptr) throw FormatError(path, "tensor " + name, "its weights", "nothing");
    used.insert(name);
    return *tensor;
  };
  for (const TensorSpec& spec : tensor_specs(config)) {
    tensors.push_back(source_tensor(find, spec.gguf, spec, config, interleaved, path));
  }
  for (const StoredTensor& tensor : file->content().tensors()) {
    if (!used.contains(tensor.name) && !is_rope_table(tensor.name)) refuse_tensor(tensor.name, path);
  }
  return std::make_unique<ModelSource>(path, std::move(config), std::move(tokenizer), std::move(tensors), file);
}

}  // namespace jupiter

// Maps GGUF tensors to canonical ones and undoes llama.cpp's interleaving of Q and K.
#include "io/gguf_source.hpp"

#include <set>

#include "io/error.hpp"
#include "io/gguf.hpp"

namespace jupiter {

namespace {

std::string shape_text(const GgufTensor& tensor) {
  std::string text = "[";
  for (const std::int64_t size : tensor.shape) text += (text.size() > 1 ? ", " : "") + std::to_string(size);
  return text + "]";
}

SourceTensor source_tensor(const GgufTensor& from, const TensorSpec& spec, const ModelConfig& config,
                           const std::string& file) {
  const bool vector = spec.rows == 0;
  const std::int64_t rows = vector ? 1 : spec.rows;
  const bool flat = from.shape.size() <= 2 && (!vector || from.shape.size() == 1 || from.rows() == 1);
  if (!flat || from.cols() != spec.cols || from.rows() != rows) {
    throw FormatError(file, "tensor " + spec.gguf,
                      "shape [" + std::to_string(spec.cols) + (vector ? "]" : ", " + std::to_string(rows) + "]"),
                      shape_text(from));
  }
  SourceTensor t;
  t.name = spec.canonical;
  t.format = packed_format(from.type).value();
  t.rows = rows;
  t.cols = spec.cols;
  t.stored = from.type;
  t.data = from.data;
  // llama.cpp computes RoPE of this architecture on neighbouring pairs, so its converter reorders Q and K.
  if (spec.rotary && config.architecture == Architecture::llama) t.interleaved_head_dim = config.head_dim;
  return t;
}

void refuse_unknown(const Gguf& content, const std::set<std::string, std::less<>>& known) {
  for (const GgufTensor& tensor : content.tensors()) {
    // Frequencies that old converters wrote out; they follow from the configuration.
    if (tensor.name == "rope_freqs.weight" || tensor.name.ends_with(".attn_rot_embd.weight") ||
        tensor.name.ends_with(".attn_rot_embd")) {
      continue;
    }
    if (!known.contains(tensor.name)) {
      throw FormatError(content.file_name(), "tensors", "those of the architecture",
                        "also " + std::string(tensor.name.substr(0, 80)));
    }
  }
}

}  // namespace

std::unique_ptr<ModelSource> open_gguf_source(const std::string& path) {
  auto file = std::make_shared<const GgufFile>(path);
  ModelConfig config = file->config();
  TokenizerData tokenizer = file->tokenizer_data();
  if (static_cast<std::int64_t>(tokenizer.tokens.size()) != config.vocab_size) {
    throw FormatError(path, "metadata tokenizer.ggml.tokens", std::to_string(config.vocab_size) + " (embedding rows)",
                      std::to_string(tokenizer.tokens.size()));
  }
  std::vector<SourceTensor> tensors;
  std::set<std::string, std::less<>> known;
  for (const TensorSpec& spec : tensor_specs(config)) {
    const GgufTensor* tensor = file->find_tensor(spec.gguf);
    if (tensor == nullptr) throw FormatError(path, "tensor " + spec.gguf, "its weights", "nothing");
    tensors.push_back(source_tensor(*tensor, spec, config, path));
    known.insert(spec.gguf);
  }
  refuse_unknown(file->content(), known);
  return std::make_unique<ModelSource>(path, std::move(config), std::move(tokenizer), std::move(tensors), file);
}

}  // namespace jupiter

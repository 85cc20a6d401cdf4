// Maps Hugging Face's tensor names to canonical ones; rows are in canonical order already.
#include "io/convert/hf_source.hpp"

#include <set>

#include "io/convert/hf_model.hpp"
#include "io/error.hpp"

namespace jupiter {

namespace {

// Tensors that some folders carry and that follow from others.
bool is_redundant(std::string_view name, const ModelConfig& config) {
  return name.ends_with("rotary_emb.inv_freq") || (config.tied_embeddings && name == "lm_head.weight");
}

}  // namespace

std::unique_ptr<ModelSource> open_hf_source(const std::string& path) {
  const auto folder = std::make_shared<const HfFolder>(path);
  ModelConfig config = folder->config();
  TokenizerData tokenizer = folder->tokenizer_data();
  std::vector<SourceTensor> tensors;
  std::set<std::string, std::less<>> used;
  for (const TensorSpec& spec : tensor_specs(config)) {
    tensors.push_back(source_tensor(folder->tensor(spec.hugging_face), spec, config, false, path));
    used.insert(spec.hugging_face);
  }
  for (const std::string_view name : folder->tensor_names()) {
    if (!used.contains(name) && !is_redundant(name, config)) refuse_tensor(name, path);
  }
  return std::make_unique<ModelSource>(path, std::move(config), std::move(tokenizer), std::move(tensors), folder);
}

}  // namespace jupiter

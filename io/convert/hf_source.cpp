// Maps Hugging Face's tensor names to canonical ones; rows are in canonical order already.
#include "io/convert/hf_source.hpp"

#include <set>

#include "io/convert/hf_model.hpp"
#include "io/convert/mxfp4_rows.hpp"
#include "io/error.hpp"

namespace jupiter {

namespace {

// Tensors that some folders carry and that follow from others.
bool is_redundant(std::string_view name, const ModelConfig& config) {
  return name.ends_with("rotary_emb.inv_freq") || (config.tied_embeddings && name == "lm_head.weight");
}

// A model of texts and pictures has the text model's tensors under names of its own.
std::string name_in_folder(const HfFolder& folder, const std::string& name) {
  if (folder.has_tensor(name) || !name.starts_with("model.")) return name;
  for (const std::string& other : {"language_model." + name, "model.language_model." + name.substr(6)}) {
    if (folder.has_tensor(other)) return other;
  }
  return name;
}

bool is_of_pictures(std::string_view name) {
  if (name.starts_with("model.")) name.remove_prefix(6);
  return name.starts_with("vision_tower.") || name.starts_with("multi_modal_projector.");
}

// Experts whose matrices are MXFP4, in tensors NAME_blocks [experts][rows][groups][16] and NAME_scales without the
// last.
SourceTensor mxfp4_experts(const HfFolder& folder, const TensorSpec& spec) {
  const StoredPlace& place = spec.hugging_face;
  const std::int64_t rows = place.stored_rows != 0 ? place.stored_rows : spec.rows / spec.parts;
  if (spec.cols % kGroupCols != 0) {
    throw FormatError(folder.path(), place.name, "columns in groups of 32", std::to_string(spec.cols));
  }
  const std::int64_t groups = spec.cols / kGroupCols;
  const auto codes = folder.bytes(place.name + "_blocks", {spec.parts, rows, groups, 16});
  const auto exponents = folder.bytes(place.name + "_scales", {spec.parts, rows, groups});
  SourceTensor t;
  t.name = spec.canonical;
  t.format = Format::mxfp4;
  t.stored = GgufType::mxfp4;
  t.rows = spec.rows;
  t.cols = spec.cols;
  t.row_step = place.row_step;
  for (std::int64_t part = 0; part < spec.parts; ++part) {
    const auto row = static_cast<std::size_t>(part * rows + place.first_row);
    t.parts.push_back(codes.data() + row * mxfp4_code_bytes(spec.cols));
    t.exponents.push_back(exponents.data() + row * mxfp4_groups(spec.cols));
  }
  return t;
}

}  // namespace

std::unique_ptr<ModelSource> open_hf_source(const std::string& path, std::int64_t context) {
  const auto folder = std::make_shared<const HfFolder>(path, context);
  ModelConfig config = folder->config();
  std::vector<SourceTensor> tensors;
  std::set<std::string, std::less<>> used;
  bool pictures = false;
  const auto find = [&](const std::string& name) {
    const std::string in_folder = name_in_folder(*folder, name);
    pictures = pictures || in_folder != name;
    used.insert(in_folder);
    return folder->tensor(in_folder);
  };
  for (const TensorSpec& spec : tensor_specs(config)) {
    const std::string& name = spec.hugging_face.name;
    if (spec.parts > 1 && folder->has_tensor(name + "_blocks")) {
      used.insert({name + "_blocks", name + "_scales"});
      tensors.push_back(mxfp4_experts(*folder, spec));
      continue;
    }
    tensors.push_back(source_tensor(find, spec.hugging_face, spec, config, false, path));
    if (spec.stored_less_one) tensors.back().added = 1;
  }
  for (const std::string_view name : folder->tensor_names()) {
    if (pictures && is_of_pictures(name)) continue;  // texts do not pass through them
    if (!used.contains(name) && !is_redundant(name, config)) refuse_tensor(name, path);
  }
  // After the weights, which show that the vocabulary is as large as the configuration says.
  TokenizerData tokenizer = folder->tokenizer_data();
  return std::make_unique<ModelSource>(path, std::move(config), std::move(tokenizer), std::move(tensors), folder);
}

}  // namespace jupiter

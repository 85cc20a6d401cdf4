// Reading of rows in canonical order.
#include "io/convert/model_source.hpp"

#include <cassert>
#include <filesystem>
#include <utility>

#include "io/convert/gguf_source.hpp"
#include "io/convert/hf_source.hpp"
#include "io/error.hpp"
#include "io/mapped_file.hpp"
#include "io/tokenizer/tokenizer.hpp"

namespace jupiter {

namespace {

// Stored place of canonical row r: a head's halves (first, second) are stored as pairs.
std::int64_t stored_row(const SourceTensor& t, std::int64_t r) {
  const std::int64_t d = t.interleaved_head_dim;
  if (d == 0) return r;
  const std::int64_t head = r / d, within = r % d;
  return head * d + 2 * (within % (d / 2)) + within / (d / 2);
}

}  // namespace

namespace {

std::string shape_text(const std::vector<std::int64_t>& columns_first) {
  std::string text = "[";
  for (auto size = columns_first.rbegin(); size != columns_first.rend(); ++size) {
    text += (text.size() > 1 ? ", " : "") + std::to_string(*size);
  }
  return text + "]";
}

}  // namespace

namespace {

// Rows of each part of a spec in its stored tensor.
std::int64_t stored_rows(const StoredPlace& place, const TensorSpec& spec) {
  return place.stored_rows != 0 ? place.stored_rows : spec.rows / spec.parts;
}

// parts: that this stored tensor holds.
void expect_shape(const StoredTensor& stored, const StoredPlace& place, const TensorSpec& spec, std::int64_t parts,
                  std::string_view file) {
  std::vector<std::int64_t> expected = {spec.cols}, found = stored.shape;
  if (spec.rows != 0) expected.push_back(stored_rows(place, spec));
  if (parts > 1) expected.push_back(parts);
  if (spec.rows == 1 && found.size() == 1) found.push_back(1);  // a matrix of one row, written as a vector
  if (found == expected) return;
  throw FormatError(file, "tensor " + std::string(stored.name), "shape " + shape_text(expected), shape_text(found));
}

}  // namespace

SourceTensor source_tensor(const std::function<StoredTensor(const std::string&)>& find, const StoredPlace& place,
                           const TensorSpec& spec, const ModelConfig& config, bool interleaved, std::string_view file) {
  SourceTensor t;
  t.name = spec.canonical;
  t.rows = std::max<std::int64_t>(spec.rows, 1);
  t.cols = spec.cols;
  const std::size_t hole = place.name.find("{}");
  const bool apart = hole != std::string::npos;
  for (std::int64_t part = 0; part < spec.parts; ++part) {
    const StoredTensor stored =
        find(apart ? std::string(place.name).replace(hole, 2, std::to_string(part)) : place.name);
    expect_shape(stored, place, spec, apart ? 1 : spec.parts, file);
    if (part > 0 && stored.type != t.stored) {
      throw FormatError(file, "tensor " + std::string(stored.name),
                        "the type of the other experts, " + gguf_type_name(t.stored), gguf_type_name(stored.type));
    }
    t.stored = stored.type;
    const std::int64_t row = place.first_row + (apart ? 0 : part * stored_rows(place, spec));
    t.parts.push_back(stored.data + static_cast<std::size_t>(row) * t.row_bytes());
  }
  t.format = packed_format(t.stored).value();
  if (spec.rotary && interleaved) t.interleaved_head_dim = config.head_dim;
  return t;
}

void refuse_tensor(std::string_view name, std::string_view file) {
  throw FormatError(file, "tensors", "those that its architecture has", "also " + std::string(name.substr(0, 80)));
}

ModelSource::ModelSource(std::string file, ModelConfig config, TokenizerData tokenizer,
                         std::vector<SourceTensor> tensors, std::shared_ptr<const void> keep)
    : file_(std::move(file)), config_(std::move(config)), tokenizer_(std::move(tokenizer)), keep_(std::move(keep)) {
  for (SourceTensor& t : tensors) {
    std::string key = t.name;
    tensors_.emplace(std::move(key), std::move(t));
  }
  for (const TensorSpec& spec : tensor_specs(config_)) tensor(spec.canonical);
}

const SourceTensor& ModelSource::tensor(std::string_view name) const {
  const auto it = tensors_.find(name);
  if (it == tensors_.end()) throw FormatError(file_, "tensor " + std::string(name), "its weights", "nothing");
  return it->second;
}

const std::byte* ModelSource::row_bytes(const SourceTensor& t, std::int64_t row) const {
  assert(row >= 0 && row < t.rows);
  const std::int64_t stored = t.rows == 1 ? row : stored_row(t, row);
  return t.parts[stored / t.part_rows()] + static_cast<std::size_t>(stored % t.part_rows()) * t.row_bytes();
}

void ModelSource::read_row(const SourceTensor& t, std::int64_t row, QuantizedRow& out) const {
  read_gguf_row(t.stored, row_bytes(t, row), t.cols, out);
}

void ModelSource::read_row_f32(const SourceTensor& t, std::int64_t row, float* out) const {
  dequantize_gguf_row(t.stored, row_bytes(t, row), t.cols, out);
}

std::vector<float> ModelSource::read_vector(std::string_view name) const {
  const SourceTensor& t = tensor(name);
  assert(t.rows == 1);
  std::vector<float> stored(t.cols);
  read_row_f32(t, 0, stored.data());
  std::vector<float> out(stored.size());
  for (std::int64_t i = 0; i < t.cols; ++i) out[i] = stored[stored_row(t, i)] + t.added;
  return out;
}

void ModelSource::release(const SourceTensor& t) const {
  for (const std::byte* part : t.parts) release_mapped_pages(part, t.bytes() / t.parts.size());
}

std::unique_ptr<ModelSource> open_model_source(const std::string& path, std::int64_t context) {
  auto source = std::filesystem::is_directory(path) ? open_hf_source(path, context) : open_gguf_source(path, context);
  const Tokenizer tokenizer(source->tokenizer(), path);  // a broken one is to be found now, not when the model runs
  return source;
}

}  // namespace jupiter

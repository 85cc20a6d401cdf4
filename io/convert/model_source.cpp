// Reading of rows in canonical order.
#include "io/convert/model_source.hpp"

#include <cassert>
#include <filesystem>
#include <utility>

#include "io/convert/gguf_source.hpp"
#include "io/convert/hf_source.hpp"
#include "io/convert/mxfp4_rows.hpp"
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
  if (place.stored_rows != 0) return place.stored_rows;
  return (is_list_of_experts(spec) ? spec.cols : spec.rows) / spec.parts;
}

// parts: that this stored tensor holds.
void expect_shape(const StoredTensor& stored, const StoredPlace& place, const TensorSpec& spec, std::int64_t parts,
                  std::string_view file) {
  std::vector<std::int64_t> expected = {spec.cols}, found = stored.shape;
  if (is_list_of_experts(spec)) expected = {stored_rows(place, spec)};
  if (spec.rows != 0) expected.push_back(stored_rows(place, spec));
  if (place.transposed) std::swap(expected[0], expected[1]);
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
  t.rows = is_list_of_experts(spec) ? spec.cols : std::max<std::int64_t>(spec.rows, 1);
  t.cols = is_list_of_experts(spec) ? 1 : spec.cols;
  t.row_step = place.row_step;
  if (place.transposed) t.column_step = stored_rows(place, spec);
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
    // Of blocks no single element can be read.
    if ((place.transposed || is_list_of_experts(spec)) && !is_float(packed_format(t.stored).value())) {
      throw FormatError(file, "tensor " + std::string(stored.name), "type F32, F16 or BF16", gguf_type_name(t.stored));
    }
    const std::size_t part_bytes = static_cast<std::size_t>(stored_rows(place, spec)) * t.row_bytes();
    const std::size_t row_bytes = place.transposed ? gguf_row_bytes(t.stored, 1) : t.row_bytes();
    t.parts.push_back(stored.data + static_cast<std::size_t>(apart ? 0 : part) * part_bytes +
                      static_cast<std::size_t>(place.first_row) * row_bytes);
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

ModelSource::StoredRow ModelSource::stored(const SourceTensor& t, std::int64_t row) const {
  assert(row >= 0 && row < t.rows);
  const std::int64_t at = t.rows == 1 ? row : stored_row(t, row), part = at / t.part_rows();
  const auto of_part = static_cast<std::size_t>(at % t.part_rows() * t.row_step);
  if (!t.exponents.empty()) {
    return {t.parts[part] + of_part * mxfp4_code_bytes(t.cols), t.exponents[part] + of_part * mxfp4_groups(t.cols)};
  }
  return {t.parts[part] + of_part * (t.column_step > 0 ? gguf_row_bytes(t.stored, 1) : t.row_bytes()), nullptr};
}

void ModelSource::read_row(const SourceTensor& t, std::int64_t row, QuantizedRow& out) const {
  const StoredRow at = stored(t, row);
  if (at.exponents != nullptr) return read_mxfp4_row(at.bytes, at.exponents, t.cols, out);
  read_gguf_row(t.stored, at.bytes, t.cols, out);
}

void ModelSource::read_row_f32(const SourceTensor& t, std::int64_t row, float* out) const {
  const StoredRow at = stored(t, row);
  if (at.exponents != nullptr) {
    QuantizedRow split(Format::mxfp4, t.cols);
    read_mxfp4_row(at.bytes, at.exponents, t.cols, split);
    return dequantize_row(Format::mxfp4, t.cols, split, out);
  }
  if (t.column_step == 0) return dequantize_gguf_row(t.stored, at.bytes, t.cols, out);
  const std::size_t step = static_cast<std::size_t>(t.column_step) * gguf_row_bytes(t.stored, 1);
  for (std::int64_t c = 0; c < t.cols; ++c) {
    dequantize_gguf_row(t.stored, at.bytes + static_cast<std::size_t>(c) * step, 1, out + c);
  }
}

std::vector<float> ModelSource::read_vector(std::string_view name) const {
  const SourceTensor& t = tensor(name);
  assert(t.rows == 1 || t.cols == 1);
  std::vector<float> stored(t.rows * t.cols);
  for (std::int64_t r = 0; r < t.rows; ++r) read_row_f32(t, r, &stored[r]);
  if (t.rows > 1) return stored;  // a list of experts
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

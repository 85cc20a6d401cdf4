// Conversion of a model source into a folder of shards, one tensor row at a time: memory stays below a few MiB
// whatever the model's size (the source is mapped).
#pragma once

#include <filesystem>
#include <functional>
#include <optional>
#include <string_view>

#include "io/convert/model_source.hpp"
#include "io/model/manifest.hpp"

namespace jupiter {

enum class Quantization : std::uint8_t {
  keep,  // what the source has, losslessly
  q4,    // 4 bits with minimum in groups of 32; embedding and head 8 bits
  q8,
  f16,
  f32,
};
std::string_view name(Quantization quantization);
std::optional<Quantization> quantization_from_name(std::string_view text);

struct ConvertOptions {
  Quantization quantization = Quantization::keep;
  std::optional<Precision> residual;  // default: f16; f32 with Quantization::f32
  std::function<void(std::uint64_t done_bytes, std::uint64_t total_bytes)> progress;  // of the source's bytes
};

// Writes every file under a hidden name, then renames all of them, the manifest last: a failure leaves nothing that
// looks like a model, and a model that was there before is whole until then. FormatError for NaN or infinite weights,
// RunError for a full disk.
Manifest convert_model(const ModelSource& source, const std::filesystem::path& folder, const ConvertOptions& options);

}  // namespace jupiter

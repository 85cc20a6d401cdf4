// Models of random weights in known shapes: speed depends on the shape alone.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "io/convert/model_source.hpp"
#include "io/model/manifest.hpp"

namespace jupiter {

// "tiny, smollm2-135m, ...": for help and messages.
std::string synth_shape_names();
std::optional<ModelConfig> synth_shape(std::string_view name);

// Random weights (seeded) of one stored type for all matrices: uniform, with a standard deviation of about 0.02.
// Tensors of equal size are different stretches of one random pool, so memory is that of the largest tensor. Its
// vocabulary is the 256 bytes and fillers.
std::unique_ptr<ModelSource> synth_source(const ModelConfig& config, GgufType type, std::uint64_t seed);

// The manifest of such a model, without weights (checksums are 0): enough to plan with.
Manifest synth_manifest(const ModelConfig& config, GgufType type);
// Into a folder that holds no weights. UsageError where it does.
void write_synth_manifest(const Manifest& manifest, const std::filesystem::path& folder);

}  // namespace jupiter

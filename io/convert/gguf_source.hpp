// A GGUF file as a source of canonical tensors.
#pragma once

#include <memory>
#include <string>

#include "io/convert/model_source.hpp"

namespace jupiter {

// Refuses tensors that the architecture as we compute it does not use: ignoring them would change the answer.
std::unique_ptr<ModelSource> open_gguf_source(const std::string& path, std::int64_t context);

}  // namespace jupiter

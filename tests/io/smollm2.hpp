// The tokenizer of SmolLM2-135M-Instruct, where jobs/test.sh has put the model.
#pragma once

#include <cstdlib>
#include <filesystem>
#include <optional>

#include "io/formats/gguf.hpp"
#include "io/model/manifest.hpp"
#include "io/model/model_files.hpp"
#include "test_files.hpp"

namespace jupiter::test {

inline constexpr const char* kNoSmolLM2 =
    "needs the SmolLM2 model: run bash jobs/test.sh, or set JUPITER_TEST_GGUF to its GGUF file";

inline std::optional<TokenizerData> smollm2_tokenizer() {
  const char* file = std::getenv("JUPITER_TEST_GGUF");
  if (file != nullptr) return GgufFile(file).tokenizer_data();
  const std::string folder = source_path("models/smollm2-135m");
  if (!std::filesystem::exists(folder)) return std::nullopt;
  return load_tokenizer(folder, read_manifest(folder), false);
}

}  // namespace jupiter::test

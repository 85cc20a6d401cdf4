// GGUF's tensor types: block sizes, lossless splitting into our packed formats, and plain dequantisation.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "io/model/packed.hpp"

namespace jupiter {

enum class GgufType : std::uint32_t {  // GGUF's numbers
  f32 = 0,
  f16 = 1,
  q4_0 = 2,
  q4_1 = 3,
  q5_0 = 6,
  q5_1 = 7,
  q8_0 = 8,
  q2_k = 10,
  q3_k = 11,
  q4_k = 12,
  q5_k = 13,
  q6_k = 14,
  iq4_nl = 20,
  iq4_xs = 23,
  bf16 = 30,
  mxfp4 = 39,
};

// Empty where the number is none of the above.
std::optional<GgufType> gguf_type_from_number(std::uint32_t number);
// GGUF's own name of any type number, known to us or not: "Q2_K", "type 99".
std::string gguf_type_name(std::uint32_t number);
inline std::string gguf_type_name(GgufType type) {
  return gguf_type_name(static_cast<std::uint32_t>(type));
}
// "F32, F16, ...": for messages.
std::string_view gguf_type_list();

struct GgufBlock {
  std::int64_t cols;  // columns in a block
  std::size_t bytes;
};
GgufBlock gguf_block(GgufType type);
// cols must be a multiple of the block's columns.
std::size_t gguf_row_bytes(GgufType type, std::int64_t cols);

// A tensor as it lies in a file's memory: GGUF's, or a float one of a safetensors file.
struct StoredTensor {
  std::string_view name;
  GgufType type = GgufType::f32;
  std::vector<std::int64_t> shape;  // columns first, as GGUF has it
  const std::byte* data = nullptr;
  std::size_t bytes = 0;

  std::int64_t cols() const { return shape.empty() ? 1 : shape[0]; }
  std::int64_t rows() const;  // product of all but the first
};

// The format that holds this type without loss; empty: none does.
std::optional<Format> packed_format(GgufType type);

// Splits one row of a quantised type; `out` is made for packed_format(type) and cols. Lossless.
void read_gguf_row(GgufType type, const std::byte* row, std::int64_t cols, QuantizedRow& out);

// Any type, floats too: out[cols].
void dequantize_gguf_row(GgufType type, const std::byte* row, std::int64_t cols, float* out);

}  // namespace jupiter

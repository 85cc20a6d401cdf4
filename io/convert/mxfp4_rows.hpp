// MXFP4 as gpt-oss's folders have it: 4-bit codes and exponents in two tensors of bytes, codes in the order of columns.
#pragma once

#include <cstddef>
#include <cstdint>

#include "io/model/packed.hpp"

namespace jupiter {

// Of a row of cols weights, a multiple of 32.
constexpr std::size_t mxfp4_code_bytes(std::int64_t cols) {
  return static_cast<std::size_t>(cols / 2);
}
constexpr std::size_t mxfp4_groups(std::int64_t cols) {
  return static_cast<std::size_t>(cols / kGroupCols);
}

// Byte j of the codes has column 2j in its lower and 2j + 1 in its upper nibble. `out` is made for Format::mxfp4.
void read_mxfp4_row(const std::byte* codes, const std::byte* exponents, std::int64_t cols, QuantizedRow& out);

}  // namespace jupiter

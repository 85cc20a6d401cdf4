#include "io/convert/mxfp4_rows.hpp"

#include <cassert>
#include <cstring>

namespace jupiter {

void read_mxfp4_row(const std::byte* codes, const std::byte* exponents, std::int64_t cols, QuantizedRow& out) {
  assert(cols % kGroupCols == 0 && std::ssize(out.q) == cols);
  // Hugging Face's exponents count from 127 and its codes are half of our levels: the number in the file is the same.
  std::memcpy(out.sub_scales.data(), exponents, mxfp4_groups(cols));
  for (std::int64_t c = 0; c < cols; c += 2) {
    const auto both = std::to_integer<unsigned>(codes[c / 2]);
    out.q[c] = static_cast<std::uint8_t>(both & 15u);
    out.q[c + 1] = static_cast<std::uint8_t>(both >> 4);
  }
}

}  // namespace jupiter

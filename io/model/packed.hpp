// Packed weights: the one layout that files hold and every instruction set multiplies from (io/README.md describes it
// for readers in other languages). A matrix of rows x cols is a run of panels of 16 output rows; a panel is contiguous.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

#include "io/buffer.hpp"

namespace jupiter {

inline constexpr std::int64_t kPanelRows = 16;        // output rows interleaved in a panel
inline constexpr std::int64_t kGroupCols = 32;        // columns that share a scale (and int8 activations' group)
inline constexpr std::int64_t kSuperblockCols = 256;  // columns that share the upper scales of K-quants

// How a weight is stored. q is the unsigned integer in the file.
enum class Format : std::uint8_t {
  f32 = 0,   // plain rows
  f16 = 1,   // plain rows
  bf16 = 2,  // plain rows
  q4 = 3,    // scale * (q - 8)                      GGUF Q4_0
  q4m = 4,   // scale * q + min                      GGUF Q4_1
  q5 = 5,    // scale * (q - 16)                     GGUF Q5_0
  q5m = 6,   // scale * q + min                      GGUF Q5_1
  q8 = 7,    // scale * (q - 128)                    GGUF Q8_0
  q4k = 8,   // (d * scale) * q - (dmin * min)       GGUF Q4_K
  q5k = 9,   // (d * scale) * q - (dmin * min)       GGUF Q5_K
  q6k = 10,  // (d * scale) * (q - 32), scale per 16 columns   GGUF Q6_K
};

std::string_view name(Format format);
std::optional<Format> format_from_name(std::string_view text);

constexpr bool is_float(Format f) {
  return f == Format::f32 || f == Format::f16 || f == Format::bf16;
}
constexpr bool is_k_quant(Format f) {
  return f == Format::q4k || f == Format::q5k || f == Format::q6k;
}
constexpr bool has_min(Format f) {
  return f == Format::q4m || f == Format::q5m || f == Format::q4k || f == Format::q5k;
}
// What is subtracted from the stored integer.
constexpr int zero_point(Format f) {
  switch (f) {
    case Format::q4:
      return 8;
    case Format::q5:
      return 16;
    case Format::q8:
      return 128;
    case Format::q6k:
      return 32;
    default:
      return 0;
  }
}
// Columns must be a multiple of this.
constexpr std::int64_t col_multiple(Format f) {
  return is_float(f) ? 1 : is_k_quant(f) ? kSuperblockCols : kGroupCols;
}

// Byte offsets of a panel's sections, in the order they lie; each starts on a multiple of 64 bytes from the panel's
// start. G = cols/32 groups, S = cols/256 superblocks, i = row in the panel (0..15), c = column within four.
// Float formats have no sections: a panel is 16 plain rows.
struct PanelLayout {
  std::size_t super_scales = 0;  // q4k q5k q6k: f16 d[S][16]
  std::size_t super_mins = 0;    // q4k q5k: f16 dmin[S][16]
  std::size_t scales = 0;        // f16 [G][16]; q4k q5k: u8 [G][16]; q6k: i8 [2G][16] (16 columns each)
  std::size_t mins = 0;          // q4m q5m: f16 [G][16]; q4k q5k: u8 [G][16]
  // low bits. 4-bit part (q4* q5* q6k): per group 4 x 64 bytes; byte r*64 + i*4 + c holds column 4r+c in its lower
  // and column 16+4r+c in its upper nibble. q8: per group 8 x 64 bytes; byte r*64 + i*4 + c holds column 4r+c.
  std::size_t low = 0;
  // high bits. q5*: per group 8 little-endian u64; bit i*4+c of word j is bit 4 of column 4j+c.
  // q6k: per group 2 x 64 bytes; bits 2t,2t+1 of byte h*64 + i*4 + c are bits 4,5 of column 4(4h+t)+c.
  std::size_t high = 0;
  std::size_t bytes = 0;  // whole panel
};

// cols must be a positive multiple of col_multiple(format).
PanelLayout panel_layout(Format format, std::int64_t cols);

// A view of packed weights; owns nothing. rows need not be a multiple of 16: the last panel is padded with zeros.
struct PackedMatrix {
  Format format = Format::f32;
  std::int64_t rows = 0;
  std::int64_t cols = 0;
  const std::byte* data = nullptr;  // 64-byte aligned

  std::int64_t panels() const { return (rows + kPanelRows - 1) / kPanelRows; }
  std::size_t panel_bytes() const { return panel_layout(format, cols).bytes; }
  std::size_t bytes() const { return static_cast<std::size_t>(panels()) * panel_bytes(); }
  const std::byte* panel(std::int64_t p) const { return data + static_cast<std::size_t>(p) * panel_bytes(); }
  // Rows [first, last) as a matrix of its own. first is a multiple of kPanelRows; last too, or the end.
  PackedMatrix slice(std::int64_t first, std::int64_t last) const {
    return {format, last - first, cols, first < last ? panel(first / kPanelRows) : data};
  }
};

// Integers and scales of one row in plain order: what packing reads and unpacking gives back.
// Quantised formats only. Scales are kept in the precision that the format stores.
struct QuantizedRow {
  Buffer<std::uint8_t> q;              // [cols], stored integers
  Buffer<std::uint16_t> scales;        // f16 bits [G] of q4 q4m q5 q5m q8
  Buffer<std::uint16_t> mins;          // f16 bits [G] of q4m q5m
  Buffer<std::uint16_t> super_scales;  // f16 bits [S] of K-quants
  Buffer<std::uint16_t> super_mins;    // f16 bits [S] of q4k q5k
  Buffer<std::uint8_t> sub_scales;     // [G] of q4k q5k, [2G] (int8 bits) of q6k
  Buffer<std::uint8_t> sub_mins;       // [G] of q4k q5k
  QuantizedRow(Format format, std::int64_t cols);
};

// Writes row i (0..15) of a panel whose bytes are `panel`; the panel starts zeroed.
void pack_row(Format format, std::int64_t cols, const QuantizedRow& row, std::int64_t i, std::byte* panel);
// The inverse of pack_row.
void unpack_row(Format format, std::int64_t cols, const std::byte* panel, std::int64_t i, QuantizedRow& row);
// A padding row: multiplies to exactly zero.
void pack_zero_row(Format format, std::int64_t cols, std::int64_t i, std::byte* panel);

// A split row of a quantised format as f32: out[cols].
void dequantize_row(Format format, std::int64_t cols, const QuantizedRow& row, float* out);
// One row of any format as f32: out[cols]. The truth that quantised kernels are tested against.
void dequantize_row(const PackedMatrix& matrix, std::int64_t row, float* out);

}  // namespace jupiter

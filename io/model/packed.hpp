// Packed weights: the one layout that files hold and every instruction set multiplies from (io/README.md describes it
// for readers in other languages). A matrix of rows x cols is a run of panels of 16 output rows; a panel is contiguous.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

#include "io/buffer.hpp"

namespace jupiter {

inline constexpr std::int64_t kPanelRows = 16;        // output rows interleaved in a panel
inline constexpr std::int64_t kGroupCols = 32;        // columns that share a scale (and int8 activations' group)
inline constexpr std::int64_t kSuperblockCols = 256;  // columns that share the upper scales of K-quants

// How a weight is stored. q is the unsigned integer in the file, level[q] the one that a format's table has for it.
enum class Format : std::uint8_t {
  f32 = 0,     // plain rows
  f16 = 1,     // plain rows
  bf16 = 2,    // plain rows
  q4 = 3,      // scale * (q - 8)                      GGUF Q4_0
  q4m = 4,     // scale * q + min                      GGUF Q4_1
  q5 = 5,      // scale * (q - 16)                     GGUF Q5_0
  q5m = 6,     // scale * q + min                      GGUF Q5_1
  q8 = 7,      // scale * (q - 128)                    GGUF Q8_0
  q4k = 8,     // (d * scale) * q - (dmin * min)       GGUF Q4_K
  q5k = 9,     // (d * scale) * q - (dmin * min)       GGUF Q5_K
  q6k = 10,    // (d * scale) * (q - 32), scale per 16 columns            GGUF Q6_K
  q2k = 11,    // (d * scale) * q - (dmin * min), both per 16 columns     GGUF Q2_K
  q3k = 12,    // (d * scale) * (q - 4), scale per 16 columns             GGUF Q3_K
  iq4nl = 13,  // scale * (level[q] - 128)             GGUF IQ4_NL
  iq4xs = 14,  // (d * scale) * (level[q] - 128)       GGUF IQ4_XS
  mxfp4 = 15,  // 2^(exponent - 128) * (level[q] - 16)                    GGUF MXFP4, Hugging Face's blocks and scales
};
inline constexpr Format kLastFormat = Format::mxfp4;

std::string_view name(Format format);
std::optional<Format> format_from_name(std::string_view text);

constexpr bool is_float(Format f) {
  return f == Format::f32 || f == Format::f16 || f == Format::bf16;
}

// How the scales of a quantised format are stored.
enum class Scales : std::uint8_t {
  half,       // f16 for each group
  two_level,  // f16 for each superblock, times a small integer for each group or half of one
  exponent,   // a power of two for each group
};

// What a quantised format is made of. Sections of a panel and kernels follow from this alone.
struct FormatParts {
  Scales scales = Scales::half;
  int low_bits = 4;            // of q in the low section: 2, 4 or 8
  int high_bits = 0;           // of q in the high section, above those: 0, 1 or 2
  int zero_point = 0;          // subtracted from q, or from its level
  bool min = false;            // something is added to all weights of a group
  int scales_per_group = 1;    // 2: one for 16 columns each (and a minimum for each)
  bool signed_scales = false;  // the small integers of two levels
  bool levels = false;         // q chooses one of 16 integers
};
constexpr FormatParts parts(Format f) {
  switch (f) {
    case Format::q4:
      return {.zero_point = 8};
    case Format::q4m:
      return {.min = true};
    case Format::q5:
      return {.high_bits = 1, .zero_point = 16};
    case Format::q5m:
      return {.high_bits = 1, .min = true};
    case Format::q8:
      return {.low_bits = 8, .zero_point = 128};
    case Format::q4k:
      return {.scales = Scales::two_level, .min = true};
    case Format::q5k:
      return {.scales = Scales::two_level, .high_bits = 1, .min = true};
    case Format::q6k:
      return {
          .scales = Scales::two_level, .high_bits = 2, .zero_point = 32, .scales_per_group = 2, .signed_scales = true};
    case Format::q2k:
      return {.scales = Scales::two_level, .low_bits = 2, .min = true, .scales_per_group = 2};
    case Format::q3k:
      return {.scales = Scales::two_level,
              .low_bits = 2,
              .high_bits = 1,
              .zero_point = 4,
              .scales_per_group = 2,
              .signed_scales = true};
    case Format::iq4nl:
      return {.zero_point = 128, .levels = true};
    case Format::iq4xs:
      return {.scales = Scales::two_level, .zero_point = 128, .signed_scales = true, .levels = true};
    case Format::mxfp4:
      return {.scales = Scales::exponent, .zero_point = 16, .levels = true};
    default:
      return {};
  }
}

// The integers that q stands for where parts().levels: with the zero point, so that all are positive.
using Levels = std::array<std::uint8_t, 16>;
constexpr Levels levels(Format f) {
  // Twice the numbers of 4 bits that OCP's microscaling formats have: 0, 0.5, 1, 1.5, 2, 3, 4, 6 and their negatives.
  if (f == Format::mxfp4) return {16, 17, 18, 19, 20, 22, 24, 28, 16, 15, 14, 13, 12, 10, 8, 4};
  // llama.cpp's levels -127 to 113, denser about zero.
  return {1, 24, 45, 63, 79, 93, 106, 118, 129, 141, 153, 166, 181, 197, 217, 241};
}

constexpr bool has_super_scales(Format f) {
  return parts(f).scales == Scales::two_level;
}
constexpr bool has_min(Format f) {
  return parts(f).min;
}
// What is subtracted from the stored integer, or from its level.
constexpr int zero_point(Format f) {
  return parts(f).zero_point;
}
// Columns must be a multiple of this.
constexpr std::int64_t col_multiple(Format f) {
  return is_float(f) ? 1 : has_super_scales(f) ? kSuperblockCols : kGroupCols;
}
// The integer that the scale multiplies.
constexpr int weight_integer(Format f, std::uint8_t q) {
  return (parts(f).levels ? int{levels(f)[q]} : int{q}) - zero_point(f);
}
// 2^(exponent - 128), the unit of mxfp4; infinity for 255, which stands for "not a number".
float exponent_scale(std::uint8_t exponent);

// Byte offsets of a panel's sections, in the order they lie; each starts on a multiple of 64 bytes from the panel's
// start. G = cols/32 groups, S = cols/256 superblocks, i = row in the panel (0..15), c = column within four.
// Float formats have no sections: a panel is 16 plain rows.
struct PanelLayout {
  std::size_t super_scales = 0;  // two levels: f16 d[S][16]
  std::size_t super_mins = 0;    // two levels with a minimum: f16 dmin[S][16]
  // half: f16 [G][16]; two levels: bytes [G][16], or [2G][16] for 16 columns each; exponent: u8 [G][16].
  // q2k: the lower nibble is the scale, the upper one the minimum.
  std::size_t scales = 0;
  std::size_t mins = 0;  // half: f16 [G][16]; two levels: u8 [G][16]; q2k: with the scales
  // low bits. 4: per group 4 x 64 bytes; byte r*64 + i*4 + c holds column 4r+c in its lower and column 16+4r+c in its
  // upper nibble. 8: per group 8 x 64 bytes; byte r*64 + i*4 + c holds column 4r+c. 2: as two high bits.
  std::size_t low = 0;
  // high bits. 1: per group 8 little-endian u64; bit i*4+c of word j belongs to column 4j+c.
  // 2: per group 2 x 64 bytes; bits 2t,2t+1 of byte h*64 + i*4 + c belong to column 4(4h+t)+c.
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
  Buffer<std::uint16_t> scales;        // half: f16 bits [G]
  Buffer<std::uint16_t> mins;          // half with a minimum: f16 bits [G]
  Buffer<std::uint16_t> super_scales;  // two levels: f16 bits [S]
  Buffer<std::uint16_t> super_mins;    // two levels with a minimum: f16 bits [S]
  Buffer<std::uint8_t> sub_scales;     // two levels: [G] or [2G], int8 bits where signed; exponent: [G]
  Buffer<std::uint8_t> sub_mins;       // two levels with a minimum: [G] or [2G]
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

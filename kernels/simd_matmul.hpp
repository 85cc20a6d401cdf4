// The quantised matmul, once for every instruction set: a tile of kSubPanels * Isa::kLanes outputs by kRows rows stays
// in registers over all of K; a group of weights is unpacked once for all rows of the tile.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/kernel_table.hpp"
#include "kernels/simd_lanes.hpp"

namespace jupiter {
namespace {

// What follows from a format's parts: bytes of each section per group of 32 columns, and what the integers are.
template <Format kFormat>
struct Traits {
  static constexpr FormatParts kParts = parts(kFormat);
  static constexpr bool kTwoLevels = kParts.scales == Scales::two_level;
  static constexpr bool kMin = kParts.min;
  static constexpr int kScales = kParts.scales_per_group;
  static constexpr bool kHalfMins = kMin && kScales == 2;  // in the upper nibbles of the scales' bytes
  static constexpr int kFactorBytes = kParts.scales == Scales::half ? 32 : 16;  // one for each row
  static constexpr int kScaleBytes = kFactorBytes * kScales;
  static constexpr int kMinBytes = kMin && !kHalfMins ? kFactorBytes : 0;
  static constexpr int kLowBytes = 64 * kParts.low_bits;
  static constexpr int kHighBytes = 64 * kParts.high_bits;
  static constexpr int kGroupBytes = kScaleBytes + kMinBytes + kLowBytes + kHighBytes + (kTwoLevels ? 8 : 0);
  static constexpr Levels kLevels = levels(kFormat);
  // Whether the integers need all eight bits: some instruction sets want them signed, without their zero point.
  static constexpr bool kEightBits = kParts.zero_point == 128;
  static constexpr int kMaxWeight = kEightBits      ? 255
                                    : kParts.levels ? 31
                                                    : (1 << (kParts.low_bits + kParts.high_bits)) - 1;
};

// Prefetched ahead of the group in work. The far distance fills the second level cache from memory; the near one the
// first level, whose few outstanding misses the activations need too (one distance for both: 18 % slower at 8 rows).
constexpr int kNearBytes = 8192;
constexpr int kFarBytes = 24576;

// Where the sections of one panel start.
struct Panel {
  const std::byte* start;
  const std::byte* super_scales;
  const std::byte* super_mins;
  const std::byte* scales;
  const std::byte* mins;
  const std::byte* low;
  const std::byte* high;
};
JUPITER_INLINE Panel panel_at(const std::byte* p, const PanelLayout& at) {
  return {p, p + at.super_scales, p + at.super_mins, p + at.scales, p + at.mins, p + at.low, p + at.high};
}

// Rows of one block of activations (kernel_table.hpp): consecutive groups lie `block_rows` entries apart.
struct Activations {
  const std::int8_t* values;
  const float* scales;
  const std::int32_t* offsets;
  const std::int32_t* half_offsets;
  const float* scaled_sums;
  std::int64_t block_rows;

  JUPITER_INLINE void skip(std::int64_t entries) {
    values += entries * kGroupCols;
    scales += entries;
    offsets += entries;
    half_offsets += 2 * entries;
    scaled_sums += entries;
  }
};

// One group of 32 columns of Isa::kLanes outputs: eight quads of columns, and the f32 factors.
template <class Isa>
struct Group {
  typename Isa::Bytes quads[8];
  typename Isa::F scale[2];
  typename Isa::F min[2];
};

template <class Isa, Format kFormat>
JUPITER_INLINE void load_factors(const Panel& p, std::int64_t g, int lane, Group<Isa>& out) {
  using T = Traits<kFormat>;
  const std::byte* scales = p.scales + g * T::kScaleBytes;
  if constexpr (T::kParts.scales == Scales::half) {
    out.scale[0] = Isa::load_f16(scales + lane * 2);
    if constexpr (T::kMin) out.min[0] = Isa::load_f16(p.mins + g * T::kMinBytes + lane * 2);
  } else if constexpr (T::kParts.scales == Scales::exponent) {
    // Half of 2^(e - 127), as exponent_scale() has it.
    const auto doubled = Isa::template shift_left<23>(Isa::load_u8_int(scales + lane));
    out.scale[0] = Isa::mul(Isa::as_float(Isa::larger_int(doubled, Isa::set1_int(1 << 22))), Isa::set1(0.5f));
  } else {
    const std::int64_t super = (g * kGroupCols / kSuperblockCols) * kPanelRows * 2 + lane * 2;
    const auto d = Isa::load_f16(p.super_scales + super);
    for (int half = 0; half < T::kScales; ++half) {
      const std::byte* at = scales + half * T::kFactorBytes + lane;
      if constexpr (T::kHalfMins) {
        const auto both = Isa::load_u8_int(at);
        const auto dmin = Isa::load_f16(p.super_mins + super);
        out.scale[half] = Isa::mul(d, Isa::to_float(Isa::and_int(both, Isa::set1_int(15))));
        out.min[half] = Isa::mul(dmin, Isa::to_float(Isa::template shift_right<4>(both)));
      } else if constexpr (T::kParts.signed_scales) {
        out.scale[half] = Isa::mul(d, Isa::load_i8(at));
      } else {
        out.scale[half] = Isa::mul(d, Isa::load_u8(at));
      }
    }
    if constexpr (T::kMin && !T::kHalfMins) {
      const auto dmin = Isa::load_f16(p.super_mins + super);
      out.min[0] = Isa::negate(Isa::mul(dmin, Isa::load_u8(p.mins + g * T::kMinBytes + lane)));
    }
  }
}

template <class Isa, Format kFormat>
JUPITER_INLINE void load_low_bits(const std::byte* low, typename Isa::Bytes* quads) {
  constexpr int kBits = Traits<kFormat>::kParts.low_bits;
  if constexpr (kBits == 8) {
    for (int j = 0; j < 8; ++j) quads[j] = Isa::load_q8(low + j * 64);
  } else if constexpr (kBits == 4) {
    for (int j = 0; j < 4; ++j) {
      const auto both = Isa::load_bytes(low + j * 64);
      quads[j] = Isa::low_nibbles(both);
      quads[j + 4] = Isa::high_nibbles(both);
    }
  } else {
    for (int h = 0; h < 2; ++h) {
      const auto four = Isa::load_bytes(low + h * 64);
      quads[4 * h] = Isa::template two_bits<0>(four);
      quads[4 * h + 1] = Isa::template two_bits<1>(four);
      quads[4 * h + 2] = Isa::template two_bits<2>(four);
      quads[4 * h + 3] = Isa::template two_bits<3>(four);
    }
  }
}

template <class Isa, Format kFormat>
JUPITER_INLINE void load_quads(const Panel& p, std::int64_t g, int lane, Group<Isa>& out) {
  using T = Traits<kFormat>;
  load_low_bits<Isa, kFormat>(p.low + g * T::kLowBytes + lane * 4, out.quads);
  const std::byte* high = p.high + g * T::kHighBytes;
  if constexpr (T::kParts.high_bits == 1) {
    constexpr int kBit = T::kParts.low_bits;
    for (int j = 0; j < 8; ++j) out.quads[j] = Isa::template add_bit<kBit>(out.quads[j], high + j * 8 + lane / 2);
  } else if constexpr (T::kParts.high_bits == 2) {
    for (int h = 0; h < 2; ++h) {
      const auto bits = Isa::load_bytes(high + h * 64 + lane * 4);
      out.quads[4 * h] = Isa::template add_bits45<0>(out.quads[4 * h], bits);
      out.quads[4 * h + 1] = Isa::template add_bits45<1>(out.quads[4 * h + 1], bits);
      out.quads[4 * h + 2] = Isa::template add_bits45<2>(out.quads[4 * h + 2], bits);
      out.quads[4 * h + 3] = Isa::template add_bits45<3>(out.quads[4 * h + 3], bits);
    }
  }
  if constexpr (T::kParts.levels) {
    for (int j = 0; j < 8; ++j) out.quads[j] = Isa::template lookup<T::kEightBits>(T::kLevels, out.quads[j]);
  }
}

// acc + the group's share for kRows rows from row r on; the order of the fused steps is dot_row's in reference.cpp.
template <class Isa, Format kFormat, int kRows>
JUPITER_INLINE void add_group(const Group<Isa>& w, const Activations& x, int r, typename Isa::F* acc) {
  using T = Traits<kFormat>;
  constexpr int kZero = T::kEightBits && Isa::kSignedQ8 ? 0 : T::kParts.zero_point;
  constexpr int kQuads = 8 / T::kScales;
  for (int part = 0; part < T::kScales; ++part) {
    typename Isa::I sums[kRows];
    for (int i = 0; i < kRows; ++i) {
      if constexpr (kZero == 0) {
        sums[i] = Isa::set1_int(0);
      } else {
        const std::int32_t offset = T::kScales == 2 ? x.half_offsets[2 * (r + i) + part] : x.offsets[r + i];
        sums[i] = Isa::template times<kZero>(offset);
      }
    }
    Isa::template dot<T::kMaxWeight, kQuads, kRows>(w.quads + part * kQuads, x.values + r * kGroupCols + part * 16,
                                                    sums);
    for (int i = 0; i < kRows; ++i) {
      auto product = Isa::mul(Isa::to_float(sums[i]), w.scale[part]);
      if constexpr (T::kHalfMins) {
        const auto offset = static_cast<float>(x.half_offsets[2 * (r + i) + part]);  // at most 16 * 127
        product = Isa::fma(Isa::set1(offset), w.min[part], product);
      }
      acc[i] = Isa::fma(product, Isa::set1(x.scales[r + i]), acc[i]);
    }
  }
  if constexpr (T::kMin && !T::kHalfMins) {
    for (int i = 0; i < kRows; ++i) acc[i] = Isa::fma(w.min[0], Isa::set1(x.scaled_sums[r + i]), acc[i]);
  }
}

// Panels follow each other, and so do their sections: one stream in the order of addresses covers all of them.
template <Format kFormat>
JUPITER_INLINE void prefetch_group(const std::byte* panel, std::int64_t g) {
  constexpr int kBytes = Traits<kFormat>::kGroupBytes;
  const std::byte* p = panel + g * kBytes;
  for (int i = 0; i < kBytes; i += 64) {
    __builtin_prefetch(p + i + kNearBytes, 0, 3);
    __builtin_prefetch(p + i + kFarBytes, 0, 2);
  }
}

// out[r][lane ...] of kRows rows and kSubPanels * kLanes outputs.
template <class Isa, Format kFormat, int kSubPanels, int kRows>
void multiply_tile(const Panel& p, std::int64_t groups, int lane, Activations x, float* out, std::int64_t stride) {
  typename Isa::F acc[kSubPanels][kRows];
  for (int s = 0; s < kSubPanels; ++s) {
    for (int r = 0; r < kRows; ++r) acc[s][r] = Isa::set1(0.0f);
  }
  for (std::int64_t g = 0; g < groups; ++g) {
    prefetch_group<kFormat>(p.start, g);
    for (int s = 0; s < kSubPanels; ++s) {
      Group<Isa> w;
      load_factors<Isa, kFormat>(p, g, lane + s * Isa::kLanes, w);
      load_quads<Isa, kFormat>(p, g, lane + s * Isa::kLanes, w);
      constexpr int kTogether = kRows < Isa::kInterleave ? kRows : Isa::kInterleave;
      constexpr int kWhole = kRows / kTogether * kTogether;
#pragma GCC unroll 16
      for (int r = 0; r < kWhole; r += kTogether) add_group<Isa, kFormat, kTogether>(w, x, r, acc[s] + r);
      if constexpr (kWhole < kRows) add_group<Isa, kFormat, kRows - kWhole>(w, x, kWhole, acc[s] + kWhole);
    }
    x.skip(x.block_rows);
  }
  for (int s = 0; s < kSubPanels; ++s) {
    for (int r = 0; r < kRows; ++r) Isa::store(out + r * stride + s * Isa::kLanes, acc[s][r]);
  }
}

// All 16 outputs of a panel for `rows` <= kRows rows.
template <class Isa, Format kFormat, int kRows>
JUPITER_INLINE void multiply_rows(const Panel& p, std::int64_t groups, const Activations& x, std::int64_t rows,
                                  float* out, std::int64_t stride) {
  if constexpr (kRows > 1) {
    if (rows < kRows) return multiply_rows<Isa, kFormat, kRows - 1>(p, groups, x, rows, out, stride);
  }
  constexpr int kAll = kWide / Isa::kLanes;
  constexpr int kSubPanels = kAll * kRows <= Isa::kTileRegisters ? kAll : 1;
  for (int s = 0; s < kAll; s += kSubPanels) {
    multiply_tile<Isa, kFormat, kSubPanels, kRows>(p, groups, s * Isa::kLanes, x, out + s * Isa::kLanes, stride);
  }
}

// A panel times a block of rows, cut evenly into tiles.
template <class Isa, Format kFormat>
void multiply_block(const Panel& p, std::int64_t groups, const Activations& block, float* out, std::int64_t stride) {
  const std::int64_t tiles = (block.block_rows + Isa::kTileRows - 1) / Isa::kTileRows;
  for (std::int64_t t = 0; t < tiles; ++t) {
    const std::int64_t first = block.block_rows * t / tiles, last = block.block_rows * (t + 1) / tiles;
    Activations x = block;
    x.skip(first);
    multiply_rows<Isa, kFormat, Isa::kTileRows>(p, groups, x, last - first, out + first * stride, stride);
  }
}

// Panels that stay in the second level cache while all blocks of rows pass by.
constexpr std::int64_t kResidentBytes = 256 * 1024;

template <class Isa, Format kFormat>
void multiply_panels(const PackedMatrix& w, PanelRange panels, const QuantizedRows& x, const MatrixView<float>& out) {
  const PanelLayout layout = panel_layout(kFormat, w.cols);
  const std::int64_t groups = w.cols / kGroupCols, blocks = (x.rows + kRowBlock - 1) / kRowBlock;
  const std::int64_t fitting = kResidentBytes / static_cast<std::int64_t>(layout.bytes);
  const std::int64_t step = fitting > 1 ? fitting : 1;
  for (std::int64_t base = panels.first; base < panels.last; base += step) {
    const std::int64_t end = base + step < panels.last ? base + step : panels.last;
    for (std::int64_t b = 0; b < blocks; ++b) {
      const std::int64_t first = x.rows * b / blocks, rows = x.rows * (b + 1) / blocks - first;
      Activations block = {x.values, x.scales, x.offsets, x.half_offsets, x.scaled_sums, rows};
      block.skip(first * groups);
      for (std::int64_t n = base; n < end; ++n) {
        const Panel p = panel_at(w.data + static_cast<std::size_t>(n) * layout.bytes, layout);
        const std::int64_t valid = w.rows - n * kPanelRows;
        float* to = out.data + first * out.stride + n * kPanelRows;
        if (valid >= kPanelRows) {
          multiply_block<Isa, kFormat>(p, groups, block, to, out.stride);
          continue;
        }
        float whole[kRowBlock * kPanelRows];
        multiply_block<Isa, kFormat>(p, groups, block, whole, kPanelRows);
        for (std::int64_t r = 0; r < rows; ++r) {
          for (std::int64_t i = 0; i < valid; ++i) to[r * out.stride + i] = whole[r * kPanelRows + i];
        }
      }
    }
  }
}

template <class Isa>
void matmul_quantized(const PackedMatrix& w, PanelRange panels, const QuantizedRows& x, MatrixView<float> out) {
  switch (w.format) {
    case Format::q4:
      return multiply_panels<Isa, Format::q4>(w, panels, x, out);
    case Format::q4m:
      return multiply_panels<Isa, Format::q4m>(w, panels, x, out);
    case Format::q5:
      return multiply_panels<Isa, Format::q5>(w, panels, x, out);
    case Format::q5m:
      return multiply_panels<Isa, Format::q5m>(w, panels, x, out);
    case Format::q8:
      return multiply_panels<Isa, Format::q8>(w, panels, x, out);
    case Format::q4k:
      return multiply_panels<Isa, Format::q4k>(w, panels, x, out);
    case Format::q5k:
      return multiply_panels<Isa, Format::q5k>(w, panels, x, out);
    case Format::q6k:
      return multiply_panels<Isa, Format::q6k>(w, panels, x, out);
    case Format::q2k:
      return multiply_panels<Isa, Format::q2k>(w, panels, x, out);
    case Format::q3k:
      return multiply_panels<Isa, Format::q3k>(w, panels, x, out);
    case Format::iq4nl:
      return multiply_panels<Isa, Format::iq4nl>(w, panels, x, out);
    case Format::iq4xs:
      return multiply_panels<Isa, Format::iq4xs>(w, panels, x, out);
    case Format::mxfp4:
      return multiply_panels<Isa, Format::mxfp4>(w, panels, x, out);
    default:
      return;  // float formats have matmul_float
  }
}

}  // namespace
}  // namespace jupiter

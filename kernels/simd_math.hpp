// Everything but the quantised matmul and attention, once for every instruction set. Orders of sums and roundings are
// those of reference.cpp.
#pragma once

#include <cstdint>

#include "kernels/kernel_table.hpp"
#include "kernels/simd_lanes.hpp"

namespace jupiter {
namespace {

JUPITER_INLINE std::int64_t part_of(std::int64_t n, std::int64_t i) {
  return n - i < kWide ? n - i : kWide;
}

// ---- quantised activations

template <class Isa>
JUPITER_INLINE std::int32_t largest_magnitude_bits(const float* x, std::int64_t n) {
  auto largest = Isa::magnitude_bits(Isa::load(x));
  for (std::int64_t i = Isa::kLanes; i < n; i += Isa::kLanes) {
    largest = Isa::larger_int(largest, Isa::magnitude_bits(Isa::load(x + i)));
  }
  return Isa::largest_int(largest);
}

template <class Isa>
void quantize_group(const float* x, const QuantizedRows& out, std::int64_t entry) {
  constexpr int kParts = static_cast<int>(kGroupCols) / Isa::kLanes;
  std::int8_t* q = out.values + entry * kGroupCols;
  const std::int32_t bits = largest_magnitude_bits<Isa>(x, kGroupCols);
  const float amax = __builtin_bit_cast(float, bits);
  const bool finite = bits < static_cast<std::int32_t>(kInfinityBits);
  const bool small = !finite || amax < kSmallestAmax;
  const float scale = !finite ? __builtin_nanf("") : small ? 0.0f : amax / 127.0f;
  std::int32_t sum = 0, half = 0;
  if (small) {
    for (int i = 0; i < kGroupCols; ++i) q[i] = 0;
  } else {
    const auto inverse = Isa::set1(127.0f / amax);
    auto total = Isa::set1_int(0);
    for (int i = 0; i < kParts; ++i) {
      const auto rounded = Isa::nearest_int(Isa::mul(Isa::load(x + i * Isa::kLanes), inverse));
      Isa::store_i8(q + i * Isa::kLanes, rounded);
      total = Isa::add_int(total, rounded);
      if (i == kParts / 2 - 1) half = Isa::sum_int(total);
    }
    sum = Isa::sum_int(total);
  }
  out.scales[entry] = scale;
  out.offsets[entry] = -sum;
  out.half_offsets[2 * entry] = -half;
  out.half_offsets[2 * entry + 1] = half - sum;
  out.scaled_sums[entry] = scale * static_cast<float>(sum);
}

template <class Isa>
void quantize_rows(MatrixView<const float> x, const QuantizedRows& out) {
  const std::int64_t groups = out.cols / kGroupCols, blocks = (out.rows + kRowBlock - 1) / kRowBlock;
  for (std::int64_t b = 0; b < blocks; ++b) {
    const std::int64_t first = out.rows * b / blocks, rows = out.rows * (b + 1) / blocks - first;
    for (std::int64_t r = 0; r < rows; ++r) {
      const float* row = x.data + (first + r) * x.stride;
      for (std::int64_t g = 0; g < groups; ++g) {
        quantize_group<Isa>(row + g * kGroupCols, out, first * groups + g * rows + r);
      }
    }
  }
}

// ---- float matmul

template <class Isa, Format kFormat>
JUPITER_INLINE Lanes<Isa> load_weights(const std::byte* row, std::int64_t k, std::int64_t n) {
  constexpr int kBytes = kFormat == Format::f32 ? 4 : 2;
  alignas(64) std::byte padded[kWide * kBytes];
  const std::byte* p = row + k * kBytes;
  if (n < kWide) {
    __builtin_memset(padded, 0, sizeof padded);
    __builtin_memcpy(padded, p, static_cast<std::size_t>(n) * kBytes);
    p = padded;
  }
  Lanes<Isa> out;
  for (int i = 0; i < Lanes<Isa>::kParts; ++i) {
    const std::byte* at = p + i * Isa::kLanes * kBytes;
    if constexpr (kFormat == Format::f32) out.v[i] = Isa::load(reinterpret_cast<const float*>(at));
    if constexpr (kFormat == Format::f16) out.v[i] = Isa::load_f16(at);
    if constexpr (kFormat == Format::bf16) out.v[i] = Isa::load_bf16(at);
  }
  return out;
}

// One step of up to 16 columns for kRows x kOutputs outputs.
template <class Isa, Format kFormat, int kRows, int kOutputs>
JUPITER_INLINE void float_step(const std::byte* weights, std::int64_t row_bytes, const float* x, std::int64_t x_stride,
                               std::int64_t k, std::int64_t part, Lanes<Isa> (&sums)[kRows][kOutputs]) {
  Lanes<Isa> rows[kRows];
  for (int r = 0; r < kRows; ++r) rows[r] = load_part<Isa>(x + r * x_stride + k, part);
  for (int o = 0; o < kOutputs; ++o) {
    const auto w = load_weights<Isa, kFormat>(weights + o * row_bytes, k, part);
    for (int r = 0; r < kRows; ++r) sums[r][o] = fma<Isa>(rows[r], w, sums[r][o]);
  }
}

// kRows x kOutputs outputs at once, so that their sums hide each other's latency.
template <class Isa, Format kFormat, int kRows, int kOutputs>
void float_tile(const PackedMatrix& w, std::int64_t n, const MatrixView<const float>& x, std::int64_t m, float* out,
                std::int64_t stride) {
  const std::int64_t row_bytes = w.cols * (kFormat == Format::f32 ? 4 : 2);
  const std::byte* weights = w.data + n * row_bytes;
  const float* rows = x.data + m * x.stride;
  Lanes<Isa> sums[kRows][kOutputs];
  for (int r = 0; r < kRows; ++r) {
    for (int o = 0; o < kOutputs; ++o) sums[r][o] = set1<Isa>(0.0f);
  }
  std::int64_t k = 0;
  for (; k + kWide <= w.cols; k += kWide) {
    float_step<Isa, kFormat, kRows, kOutputs>(weights, row_bytes, rows, x.stride, k, kWide, sums);
  }
  if (k < w.cols) float_step<Isa, kFormat, kRows, kOutputs>(weights, row_bytes, rows, x.stride, k, w.cols - k, sums);
  for (int r = 0; r < kRows; ++r) {
    for (int o = 0; o < kOutputs; ++o) out[(m + r) * stride + n + o] = tree_sum<Isa>(sums[r][o]);
  }
}

template <class Isa, Format kFormat, int kOutputs>
JUPITER_INLINE void float_outputs(const PackedMatrix& w, std::int64_t n, const MatrixView<const float>& x,
                                  const MatrixView<float>& out) {
  std::int64_t m = 0;
  for (; m + Isa::kFloatTile <= x.rows; m += Isa::kFloatTile) {
    float_tile<Isa, kFormat, Isa::kFloatTile, kOutputs>(w, n, x, m, out.data, out.stride);
  }
  for (; m < x.rows; ++m) float_tile<Isa, kFormat, 1, kOutputs>(w, n, x, m, out.data, out.stride);
}

template <class Isa, Format kFormat>
void float_panels(const PackedMatrix& w, PanelRange panels, const MatrixView<const float>& x,
                  const MatrixView<float>& out) {
  const std::int64_t end = panels.last * kPanelRows < w.rows ? panels.last * kPanelRows : w.rows;
  std::int64_t n = panels.first * kPanelRows;
  for (; n + Isa::kFloatTile <= end; n += Isa::kFloatTile) float_outputs<Isa, kFormat, Isa::kFloatTile>(w, n, x, out);
  for (; n < end; ++n) float_outputs<Isa, kFormat, 1>(w, n, x, out);
}

template <class Isa>
void matmul_float(const PackedMatrix& w, PanelRange panels, MatrixView<const float> x, MatrixView<float> out) {
  switch (w.format) {
    case Format::f32:
      return float_panels<Isa, Format::f32>(w, panels, x, out);
    case Format::f16:
      return float_panels<Isa, Format::f16>(w, panels, x, out);
    case Format::bf16:
      return float_panels<Isa, Format::bf16>(w, panels, x, out);
    default:
      return;  // quantised formats have matmul_quantized
  }
}

// ---- element by element

template <class Isa>
void rms_norm(const float* x, const float* weight, std::int64_t n, float eps, float* out) {
  Lanes<Isa> sums = set1<Isa>(0.0f);
  for (std::int64_t i = 0; i < n; i += kWide) {
    const auto v = load_part<Isa>(x + i, part_of(n, i));
    sums = fma<Isa>(v, v, sums);
  }
  const auto scale = set1<Isa>(1.0f / __builtin_sqrtf(tree_sum<Isa>(sums) / static_cast<float>(n) + eps));
  for (std::int64_t i = 0; i < n; i += kWide) {
    const std::int64_t part = part_of(n, i);
    const auto scaled = mul<Isa>(load_part<Isa>(x + i, part), scale);
    store_part<Isa>(out + i, mul<Isa>(scaled, load_part<Isa>(weight + i, part)), part);
  }
}

template <class Isa>
void rope(float* x, const float* cos, const float* sin, std::int64_t head_dim) {
  const std::int64_t half = head_dim / 2;
  for (std::int64_t i = 0; i < half; i += kWide) {
    const std::int64_t part = part_of(half, i);
    const auto a = load_part<Isa>(x + i, part), b = load_part<Isa>(x + half + i, part);
    const auto c = load_part<Isa>(cos + i, part), s = load_part<Isa>(sin + i, part);
    store_part<Isa>(x + i, fma<Isa>(a, c, negate<Isa>(mul<Isa>(b, s))), part);
    store_part<Isa>(x + half + i, fma<Isa>(b, c, mul<Isa>(a, s)), part);
  }
}

template <class Isa>
void swiglu(const float* gate, const float* up, std::int64_t n, float* out) {
  const auto one = set1<Isa>(1.0f);
  for (std::int64_t i = 0; i < n; i += kWide) {
    const std::int64_t part = part_of(n, i);
    const auto g = load_part<Isa>(gate + i, part);
    const auto silu = div<Isa>(g, add<Isa>(one, exp<Isa>(negate<Isa>(g))));
    store_part<Isa>(out + i, mul<Isa>(silu, load_part<Isa>(up + i, part)), part);
  }
}

template <class Isa>
void geglu(const float* gate, const float* up, std::int64_t n, float* out) {
  const auto one = set1<Isa>(1.0f), linear = set1<Isa>(kGeluLinear), cubic = set1<Isa>(kGeluCubic);
  for (std::int64_t i = 0; i < n; i += kWide) {
    const std::int64_t part = part_of(n, i);
    const auto g = load_part<Isa>(gate + i, part);
    const auto u = mul<Isa>(fma<Isa>(mul<Isa>(g, g), cubic, linear), g);
    const auto gelu = div<Isa>(g, add<Isa>(one, exp<Isa>(negate<Isa>(u))));
    store_part<Isa>(out + i, mul<Isa>(gelu, load_part<Isa>(up + i, part)), part);
  }
}

template <class Isa>
void bounded_swiglu(const float* gate, const float* up, std::int64_t n, float* out) {
  const auto one = set1<Isa>(1.0f), slope = set1<Isa>(-kBoundedSlope);
  for (std::int64_t i = 0; i < n; i += kWide) {
    const std::int64_t part = part_of(n, i);
    const auto g = at_most<Isa>(load_part<Isa>(gate + i, part), kBound);
    const auto below = at_most<Isa>(load_part<Isa>(up + i, part), kBound);
    const auto u = negate<Isa>(at_most<Isa>(negate<Isa>(below), kBound));
    const auto silu = div<Isa>(g, add<Isa>(one, exp<Isa>(mul<Isa>(g, slope))));
    store_part<Isa>(out + i, mul<Isa>(silu, add<Isa>(u, one)), part);
  }
}

template <class Isa>
void softcap(float cap, std::int64_t n, float* x) {
  for (std::int64_t i = 0; i < n; i += kWide) {
    const std::int64_t part = part_of(n, i);
    store_part<Isa>(x + i, capped<Isa>(load_part<Isa>(x + i, part), cap), part);
  }
}

template <class Isa>
void add(float* x, const float* y, std::int64_t n) {
  for (std::int64_t i = 0; i < n; i += kWide) {
    const std::int64_t part = part_of(n, i);
    store_part<Isa>(x + i, add<Isa>(load_part<Isa>(x + i, part), load_part<Isa>(y + i, part)), part);
  }
}

template <class Isa>
void exponential(const float* x, std::int64_t n, float* out) {
  for (std::int64_t i = 0; i < n; i += kWide) {
    const std::int64_t part = part_of(n, i);
    store_part<Isa>(out + i, exp<Isa>(load_part<Isa>(x + i, part)), part);
  }
}

// ---- narrow types

template <class Isa, Format kFormat>
void widen_as(const void* x, std::int64_t n, float* out) {
  for (std::int64_t i = 0; i < n; i += kWide) {
    const std::int64_t part = part_of(n, i);
    store_part<Isa>(out + i, load_weights<Isa, kFormat>(static_cast<const std::byte*>(x), i, part), part);
  }
}

template <class Isa>
void widen(Precision from, const void* x, std::int64_t n, float* out) {
  if (from == Precision::f16) return widen_as<Isa, Format::f16>(x, n, out);
  if (from == Precision::bf16) return widen_as<Isa, Format::bf16>(x, n, out);
  __builtin_memcpy(out, x, static_cast<std::size_t>(n) * 4);
}

// The smallest magnitude (its bits) that does not fit: what rounds to infinity in the narrow type.
constexpr std::int32_t first_too_large(Precision to) {
  return to == Precision::f16 ? 0x477ff000 : to == Precision::bf16 ? 0x7f7f8000 : 0x7f800000;
}

template <class Isa, Precision kTo>
JUPITER_INLINE void store_narrow(std::uint16_t* out, const Lanes<Isa>& v) {
  for (int i = 0; i < Lanes<Isa>::kParts; ++i) {
    if constexpr (kTo == Precision::f16) Isa::store_f16(out + i * Isa::kLanes, v.v[i]);
    if constexpr (kTo == Precision::bf16) Isa::store_bf16(out + i * Isa::kLanes, v.v[i]);
  }
}

template <class Isa, Precision kTo>
bool narrow_to(const float* x, std::int64_t n, void* out) {
  auto largest = Isa::set1_int(0);
  for (std::int64_t i = 0; i < n; i += kWide) {
    const std::int64_t part = part_of(n, i);
    const auto v = load_part<Isa>(x + i, part);
    for (int k = 0; k < Lanes<Isa>::kParts; ++k) largest = Isa::larger_int(largest, Isa::magnitude_bits(v.v[k]));
    if constexpr (kTo != Precision::f32) {
      auto* to = static_cast<std::uint16_t*>(out) + i;
      if (part == kWide) {
        store_narrow<Isa, kTo>(to, v);
      } else {
        std::uint16_t all[kWide];
        store_narrow<Isa, kTo>(all, v);
        __builtin_memcpy(to, all, static_cast<std::size_t>(part) * 2);
      }
    }
  }
  if constexpr (kTo == Precision::f32) __builtin_memcpy(out, x, static_cast<std::size_t>(n) * 4);
  return Isa::largest_int(largest) < first_too_large(kTo);
}

template <class Isa>
bool narrow(Precision to, const float* x, std::int64_t n, void* out) {
  if (to == Precision::f16) return narrow_to<Isa, Precision::f16>(x, n, out);
  if (to == Precision::bf16) return narrow_to<Isa, Precision::bf16>(x, n, out);
  return narrow_to<Isa, Precision::f32>(x, n, out);
}

}  // namespace
}  // namespace jupiter

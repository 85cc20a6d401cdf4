// The reference kernels: plain loops that define every sum's order and every rounding. The other tables give the same
// bits. std::fma and std::sqrt are correctly rounded everywhere; nothing else of libm is used.
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "kernels/kernel_table.hpp"
#include "kernels/numerics.hpp"

namespace jupiter {
namespace {

using Lanes = std::array<float, kSumLanes>;

// Sum of 16 lanes: halves are added until one is left.
float tree_sum(Lanes s) {
  for (std::size_t half = kSumLanes / 2; half > 0; half /= 2) {
    for (std::size_t i = 0; i < half; ++i) s[i] += s[i + half];
  }
  return s[0];
}

// e^x with a relative error below 1.2e-7; 0 below kExpLow, saturated above kExpHigh, NaN stays NaN.
float exp_reference(float x) {
  if (x < kExpLow) return 0.0f;
  const float clamped = x > kExpHigh ? kExpHigh : x;
  const float shifted = std::fma(clamped, kLog2E, kRoundMagic);
  const float n = shifted - kRoundMagic;  // clamped / ln 2, nearest integer
  const float r = std::fma(n, -kLn2Low, std::fma(n, -kLn2High, clamped));
  float p = kExpPoly[0];
  for (int i = 1; i < kExpTerms; ++i) p = std::fma(p, r, kExpPoly[i]);
  const std::uint32_t power = (std::bit_cast<std::uint32_t>(shifted) << 23) + kOneBits;  // 2^n
  return p * std::bit_cast<float>(power);
}

// ---- quantised activations

struct QuantizedGroup {
  std::array<std::int8_t, kGroupCols> q{};
  float scale = 0;
  std::int32_t sum = 0;
  std::array<std::int32_t, 2> half_sums{};
};

QuantizedGroup quantize_group(const float* x) {
  std::uint32_t amax_bits = 0;  // magnitudes order as their bits do; NaN is above infinity
  for (int i = 0; i < kGroupCols; ++i) {
    const std::uint32_t bits = std::bit_cast<std::uint32_t>(x[i]) & 0x7fffffffu;
    amax_bits = bits > amax_bits ? bits : amax_bits;
  }
  QuantizedGroup group;
  const float amax = std::bit_cast<float>(amax_bits);
  if (amax_bits >= kInfinityBits) {
    group.scale = std::numeric_limits<float>::quiet_NaN();
  } else if (amax >= kSmallestAmax) {
    group.scale = amax / 127.0f;
    const float inverse = 127.0f / amax;
    for (std::size_t i = 0; i < kGroupCols; ++i) {
      const float rounded = x[i] * inverse + kRoundMagic;
      group.q[i] = static_cast<std::int8_t>(std::bit_cast<std::int32_t>(rounded) - kRoundMagicBits);
      group.sum += group.q[i];
      group.half_sums[i / (kGroupCols / 2)] += group.q[i];
    }
  }
  return group;
}

void quantize_rows(MatrixView<const float> x, const QuantizedRows& out) {
  for (std::int64_t b = 0; b < out.blocks(); ++b) {
    const RowBlock at = out.block(b);
    for (std::int64_t r = 0; r < at.rows; ++r) {
      for (std::int64_t g = 0; g < out.groups(); ++g) {
        const QuantizedGroup group = quantize_group(x.row(at.first + r) + g * kGroupCols);
        const std::int64_t i = out.index(at, r, g);
        std::memcpy(out.values + i * kGroupCols, group.q.data(), kGroupCols);
        out.scales[i] = group.scale;
        out.offsets[i] = -group.sum;
        for (std::size_t half = 0; half < 2; ++half) out.half_offsets[2 * i + half] = -group.half_sums[half];
        out.scaled_sums[i] = group.scale * static_cast<float>(group.sum);
      }
    }
  }
}

// ---- quantised matmul

// The f32 factors of one group of a row of weights, or of each of its halves of 16 columns.
struct GroupFactors {
  std::array<float, 2> scale{};
  std::array<float, 2> min{};
};

// The products of two levels are exact: 11 bits times at most 8.
GroupFactors group_factors(Format f, const QuantizedRow& row, std::int64_t g) {
  const FormatParts p = parts(f);
  const std::int64_t s = g * kGroupCols / kSuperblockCols;
  GroupFactors factors;
  if (p.scales == Scales::half) {
    factors.scale[0] = f16_to_f32(row.scales[g]);
    if (p.min) factors.min[0] = f16_to_f32(row.mins[g]);
    return factors;
  }
  for (int half = 0; half < p.scales_per_group; ++half) {
    const std::int64_t at = g * p.scales_per_group + half;
    if (p.scales == Scales::exponent) {
      factors.scale[half] = exponent_scale(row.sub_scales[at]);
      continue;
    }
    const int scale = p.signed_scales ? int{static_cast<std::int8_t>(row.sub_scales[at])} : int{row.sub_scales[at]};
    factors.scale[half] = f16_to_f32(row.super_scales[s]) * static_cast<float>(scale);
    if (p.min) factors.min[half] = -(f16_to_f32(row.super_mins[s]) * static_cast<float>(row.sub_mins[at]));
  }
  return factors;
}

std::int32_t integer_dot(Format f, const std::uint8_t* w, const std::int8_t* x, int n) {
  std::int32_t sum = 0;
  for (int k = 0; k < n; ++k) sum += weight_integer(f, w[k]) * x[k];
  return sum;
}

// One output: groups in ascending order. A group with one scale is a fused step, and one more for its minimum; one with
// two is a step for each half, whose minimum joins the half's integer sum before.
float dot_row(Format f, const QuantizedRow& w, const QuantizedRows& x, const RowBlock& at, std::int64_t r) {
  const int halves = parts(f).scales_per_group, n = static_cast<int>(kGroupCols) / halves;
  float acc = 0.0f;
  for (std::int64_t g = 0; g < x.groups(); ++g) {
    const std::int64_t i = x.index(at, r, g);
    const std::int8_t* q = x.values + i * kGroupCols;
    const std::uint8_t* wq = w.q.data() + g * kGroupCols;
    const GroupFactors factors = group_factors(f, w, g);
    for (int half = 0; half < halves; ++half) {
      const std::int32_t sum = integer_dot(f, wq + half * n, q + half * n, n);
      float product = static_cast<float>(sum) * factors.scale[half];
      if (has_min(f) && halves == 2) {
        product = std::fma(static_cast<float>(x.half_offsets[2 * i + half]), -factors.min[half], product);
      }
      acc = std::fma(product, x.scales[i], acc);
    }
    if (has_min(f) && halves == 1) acc = std::fma(factors.min[0], x.scaled_sums[i], acc);
  }
  return acc;
}

void matmul_quantized(const PackedMatrix& w, PanelRange panels, const QuantizedRows& x, MatrixView<float> out) {
  QuantizedRow weights(w.format, w.cols);
  for (std::int64_t n = panels.first * kPanelRows; n < panels.last * kPanelRows && n < w.rows; ++n) {
    unpack_row(w.format, w.cols, w.panel(n / kPanelRows), n % kPanelRows, weights);
    for (std::int64_t b = 0; b < x.blocks(); ++b) {
      const RowBlock at = x.block(b);
      for (std::int64_t r = 0; r < at.rows; ++r) out.row(at.first + r)[n] = dot_row(w.format, weights, x, at, r);
    }
  }
}

// ---- float matmul: 16 partial sums, column k in lane k % 16; a last short step counts zeros

void matmul_float(const PackedMatrix& w, PanelRange panels, MatrixView<const float> x, MatrixView<float> out) {
  const std::int64_t padded = (w.cols + kSumLanes - 1) / kSumLanes * kSumLanes;
  Buffer<float> weights(padded);
  for (std::int64_t n = panels.first * kPanelRows; n < panels.last * kPanelRows && n < w.rows; ++n) {
    dequantize_row(w, n, weights.data());
    for (std::int64_t m = 0; m < x.rows; ++m) {
      Lanes sum{};
      for (std::int64_t k = 0; k < padded; ++k) {
        float& lane = sum[k % kSumLanes];
        lane = std::fma(k < w.cols ? x.row(m)[k] : 0.0f, weights[k], lane);
      }
      out.row(m)[n] = tree_sum(sum);
    }
  }
}

// ---- element by element

void rms_norm(const float* x, const float* weight, std::int64_t n, float eps, float* out) {
  Lanes sum{};
  for (std::int64_t i = 0; i < n; ++i) {
    float& lane = sum[i % kSumLanes];
    lane = std::fma(x[i], x[i], lane);
  }
  const float scale = 1.0f / std::sqrt(tree_sum(sum) / static_cast<float>(n) + eps);
  for (std::int64_t i = 0; i < n; ++i) out[i] = x[i] * scale * weight[i];
}

void rope(float* x, const float* cos, const float* sin, std::int64_t head_dim) {
  const std::int64_t half = head_dim / 2;
  for (std::int64_t i = 0; i < half; ++i) {
    const float a = x[i], b = x[i + half];
    x[i] = std::fma(a, cos[i], -(b * sin[i]));
    x[i + half] = std::fma(b, cos[i], a * sin[i]);
  }
}

void swiglu(const float* gate, const float* up, std::int64_t n, float* out) {
  for (std::int64_t i = 0; i < n; ++i) out[i] = gate[i] / (1.0f + exp_reference(-gate[i])) * up[i];
}

void geglu(const float* gate, const float* up, std::int64_t n, float* out) {
  for (std::int64_t i = 0; i < n; ++i) {
    const float g = gate[i];
    const float u = std::fma(g * g, kGeluCubic, kGeluLinear) * g;
    out[i] = g / (1.0f + exp_reference(-u)) * up[i];
  }
}

void bounded_swiglu(const float* gate, const float* up, std::int64_t n, float* out) {
  for (std::int64_t i = 0; i < n; ++i) {
    const float g = gate[i] > kBound ? kBound : gate[i];  // NaN stays
    const float below = up[i] > kBound ? kBound : up[i], u = below < -kBound ? -kBound : below;
    out[i] = g / (1.0f + exp_reference(g * -kBoundedSlope)) * (u + 1.0f);
  }
}

// cap * tanh(x / cap) = cap - 2 cap / (e^(2 x / cap) + 1)
void softcap(float cap, std::int64_t n, float* x) {
  const float twice = cap + cap, inverse = 2.0f / cap;
  for (std::int64_t i = 0; i < n; ++i) x[i] = cap - twice / (exp_reference(x[i] * inverse) + 1.0f);
}

void add(float* x, const float* y, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) x[i] += y[i];
}

void widen(Precision from, const void* x, std::int64_t n, float* out) {
  if (from == Precision::f32) {
    std::memcpy(out, x, static_cast<std::size_t>(n) * 4);
    return;
  }
  const auto* bits = static_cast<const std::uint16_t*>(x);
  for (std::int64_t i = 0; i < n; ++i) out[i] = from == Precision::f16 ? f16_to_f32(bits[i]) : bf16_to_f32(bits[i]);
}

bool narrow(Precision to, const float* x, std::int64_t n, void* out) {
  bool fits = true;
  auto* bits = static_cast<std::uint16_t*>(out);
  for (std::int64_t i = 0; i < n; ++i) {
    if (to == Precision::f32) {
      fits &= (std::bit_cast<std::uint32_t>(x[i]) & kInfinityBits) != kInfinityBits;
    } else {
      const std::uint16_t exponent = to == Precision::f16 ? 0x7c00u : 0x7f80u;
      bits[i] = to == Precision::f16 ? f32_to_f16(x[i]) : f32_to_bf16(x[i]);
      fits &= (bits[i] & exponent) != exponent;
    }
  }
  if (to == Precision::f32) std::memcpy(out, x, static_cast<std::size_t>(n) * 4);
  return fits;
}

void exponential(const float* x, std::int64_t n, float* out) {
  for (std::int64_t i = 0; i < n; ++i) out[i] = exp_reference(x[i]);
}

// ---- attention

using Block = std::array<float, kKvBlock>;

Block attention_scores(const AttendBlock& b, std::int64_t row) {
  Block scores{};
  const float* q = b.queries + row * b.head_dim;
  for (std::int64_t d = 0; d < b.head_dim; ++d) {
    for (std::size_t j = 0; j < kKvBlock; ++j) scores[j] = std::fma(q[d], b.keys[d * kKvBlock + j], scores[j]);
  }
  if (b.softcap > 0) softcap(b.softcap, kKvBlock, scores.data());
  return scores;
}

void attend_row(const AttendBlock& b, std::int64_t row) {
  const int first = b.first_visible[row], end = b.end_visible[row];
  const Block scores = attention_scores(b, row);
  float max = b.max[row];
  for (int j = first; j < end; ++j) max = scores[j] > max ? scores[j] : max;  // skips NaN, which its weight keeps
  max += 0.0f;                                                                // one zero, whatever the order
  const float correction = exp_reference(b.max[row] - max);                   // 0 the first time: e^-infinity
  Block weights{};
  for (int j = first; j < end; ++j) weights[j] = exp_reference(scores[j] - max);
  b.max[row] = max;
  float* sums = b.sums + row * kSumLanes;
  for (std::size_t i = 0; i < kSumLanes; ++i) {
    sums[i] = std::fma(sums[i], correction, weights[i] + weights[i + kSumLanes]);
  }
  float* out = b.outputs + row * b.head_dim;
  for (std::int64_t d = 0; d < b.head_dim; ++d) {
    float o = out[d] * correction;
    for (int j = first; j < end; ++j) o = std::fma(weights[j], b.values[j * b.head_dim + d], o);
    out[d] = o;
  }
}

void attend_block(const AttendBlock& block) {
  for (std::int64_t row = 0; row < block.rows; ++row) {
    if (block.first_visible[row] < block.end_visible[row]) attend_row(block, row);
  }
}

void attend_finish(std::int64_t rows, std::int64_t head_dim, const float* sums, float* outputs) {
  for (std::int64_t row = 0; row < rows; ++row) {
    Lanes lanes;
    std::memcpy(lanes.data(), sums + row * kSumLanes, sizeof lanes);
    const float total = tree_sum(lanes);
    for (std::int64_t d = 0; d < head_dim; ++d) outputs[row * head_dim + d] /= total;
  }
}

}  // namespace

const KernelTable& reference_kernels() {
  static const KernelTable table = {"reference", quantize_rows, matmul_quantized, matmul_float, rms_norm, rope,
                                    swiglu,      geglu,         bounded_swiglu,   softcap,      add,      widen,
                                    narrow,      attend_block,  attend_finish,    exponential};
  return table;
}

}  // namespace jupiter

// Attention of query rows to one block of 32 keys, once for every instruction set: rows that see the same keys form
// tiles whose scores, then outputs, stay in registers while keys, then values, pass by once.
#pragma once

#include <cstdint>

#include "kernels/kernel_table.hpp"
#include "kernels/simd_lanes.hpp"

namespace jupiter {
namespace {

constexpr int kBlockKeys = static_cast<int>(kKvBlock);
constexpr int kMaxAttendRows = 8;

// A tile of rows that all see the keys first..end-1.
struct AttendTile {
  const float* keys;
  const float* values;
  std::int64_t head_dim;
  const float* queries;
  float* max;
  float* sums;
  float* outputs;
  int first;
  int end;
  float softcap;
};

template <class Isa>
JUPITER_INLINE void cap_scores(float* scores, float cap) {
  for (int half = 0; half < kBlockKeys; half += kWide) {
    store<Isa>(scores + half, capped<Isa>(load<Isa>(scores + half), cap));
  }
}

// weights[r][j] = exp(score - max) and correction[r] = exp(old max - max)
struct AttendWeights {
  alignas(64) float weights[kMaxAttendRows][kBlockKeys];
  alignas(64) float correction[kWide];
};

// Scores of all 32 lanes, seen or not: scores[r][j] = sum over d of q[r][d] * key[j][d].
template <class Isa, int kRows>
JUPITER_INLINE void score_tile(const AttendTile& t, float scores[][kBlockKeys]) {
  Lanes<Isa> acc[kRows][2];
  for (int r = 0; r < kRows; ++r) acc[r][0] = acc[r][1] = set1<Isa>(0.0f);
  for (std::int64_t d = 0; d < t.head_dim; ++d) {
    const auto k0 = load<Isa>(t.keys + d * kBlockKeys), k1 = load<Isa>(t.keys + d * kBlockKeys + kWide);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const auto q = set1<Isa>(t.queries[r * t.head_dim + d]);
      acc[r][0] = fma<Isa>(q, k0, acc[r][0]);
      acc[r][1] = fma<Isa>(q, k1, acc[r][1]);
    }
  }
  for (int r = 0; r < kRows; ++r) {
    store<Isa>(scores[r], acc[r][0]);
    store<Isa>(scores[r] + kWide, acc[r][1]);
  }
}

template <class Isa>
JUPITER_INLINE float largest(const Lanes<Isa>& a) {
  auto all = a.v[0];
  for (int i = 1; i < Lanes<Isa>::kParts; ++i) all = Isa::larger(all, a.v[i]);
  return Isa::largest(all);
}

// Scores become weights in place; max, correction and sums of the rows are brought up to date.
template <class Isa, int kRows>
JUPITER_INLINE void weigh_tile(const AttendTile& t, AttendWeights& w) {
  const bool whole = t.first == 0 && t.end == kBlockKeys;
  alignas(64) float fall[kWide] = {};  // old max - new max
  for (int r = 0; r < kRows; ++r) {
    float* s = w.weights[r];
    if (!whole) {
      for (int j = 0; j < kBlockKeys; ++j) s[j] = j >= t.first && j < t.end ? s[j] : -__builtin_inff();
    }
    const auto old = set1<Isa>(t.max[r]);
    const auto larger2 = larger<Isa>(load<Isa>(s + kWide), larger<Isa>(load<Isa>(s), old));  // skips NaN
    const float max = largest<Isa>(larger2) + 0.0f;
    fall[r] = t.max[r] - max;
    t.max[r] = max;
    for (int half = 0; half < 2; ++half) {
      store<Isa>(s + half * kWide, exp<Isa>(sub<Isa>(load<Isa>(s + half * kWide), set1<Isa>(max))));
    }
    if (!whole) {
      for (int j = 0; j < kBlockKeys; ++j) s[j] = j >= t.first && j < t.end ? s[j] : 0.0f;
    }
  }
  store<Isa>(w.correction, exp<Isa>(load<Isa>(fall)));
  for (int r = 0; r < kRows; ++r) {
    const auto both = add<Isa>(load<Isa>(w.weights[r]), load<Isa>(w.weights[r] + kWide));
    float* sums = t.sums + r * kSumLanes;
    store<Isa>(sums, fma<Isa>(load<Isa>(sums), set1<Isa>(w.correction[r]), both));
  }
}

// outputs[r][d ...] = outputs * correction + sum over seen j of weights[r][j] * value[j], kParts x 16 columns.
template <class Isa, int kRows, int kParts>
JUPITER_INLINE void output_tile(const AttendTile& t, const AttendWeights& w, std::int64_t d) {
  Lanes<Isa> acc[kRows][kParts];
  for (int r = 0; r < kRows; ++r) {
    for (int i = 0; i < kParts; ++i) {
      const auto old = load<Isa>(t.outputs + r * t.head_dim + d + i * kWide);
      acc[r][i] = mul<Isa>(old, set1<Isa>(w.correction[r]));
    }
  }
  for (int j = t.first; j < t.end; ++j) {
    const float* value = t.values + j * t.head_dim + d;
    Lanes<Isa> v[kParts];
    for (int i = 0; i < kParts; ++i) v[i] = load<Isa>(value + i * kWide);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const auto weight = set1<Isa>(w.weights[r][j]);
      for (int i = 0; i < kParts; ++i) acc[r][i] = fma<Isa>(weight, v[i], acc[r][i]);
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int i = 0; i < kParts; ++i) store<Isa>(t.outputs + r * t.head_dim + d + i * kWide, acc[r][i]);
  }
}

// The last columns where head_dim is no multiple of 16.
inline void output_rest(const AttendTile& t, const AttendWeights& w, int rows, std::int64_t d) {
  for (int r = 0; r < rows; ++r) {
    for (std::int64_t i = d; i < t.head_dim; ++i) {
      float o = t.outputs[r * t.head_dim + i] * w.correction[r];
      for (int j = t.first; j < t.end; ++j) o = __builtin_fmaf(w.weights[r][j], t.values[j * t.head_dim + i], o);
      t.outputs[r * t.head_dim + i] = o;
    }
  }
}

// kHeadDim: known to the compiler, which then addresses all rows from one pointer; 0: any.
template <class Isa, int kRows, int kHeadDim>
void attend_tile(AttendTile t) {
  if constexpr (kHeadDim != 0) t.head_dim = kHeadDim;
  AttendWeights w;
  score_tile<Isa, kRows>(t, w.weights);
  if (t.softcap > 0) {
    for (int r = 0; r < kRows; ++r) cap_scores<Isa>(w.weights[r], t.softcap);
  }
  weigh_tile<Isa, kRows>(t, w);
  std::int64_t d = 0;
  for (; d + 2 * kWide <= t.head_dim; d += 2 * kWide) output_tile<Isa, kRows, 2>(t, w, d);
  for (; d + kWide <= t.head_dim; d += kWide) output_tile<Isa, kRows, 1>(t, w, d);
  if (d < t.head_dim) output_rest(t, w, kRows, d);
}

template <class Isa, int kRows>
JUPITER_INLINE void attend_rows(const AttendTile& t, std::int64_t rows) {
  if constexpr (kRows > 1) {
    if (rows < kRows) return attend_rows<Isa, kRows - 1>(t, rows);
  }
  if (t.head_dim == 64) return attend_tile<Isa, kRows, 64>(t);
  if (t.head_dim == 128) return attend_tile<Isa, kRows, 128>(t);
  attend_tile<Isa, kRows, 0>(t);
}

template <class Isa>
void attend_block(const AttendBlock& b) {
  static_assert(Isa::kAttendRows <= kMaxAttendRows);
  for (std::int64_t row = 0; row < b.rows;) {
    const int first = b.first_visible[row], end = b.end_visible[row];
    std::int64_t same = row + 1;
    while (same < b.rows && b.first_visible[same] == first && b.end_visible[same] == end) ++same;
    const std::int64_t count = same - row, tiles = (count + Isa::kAttendRows - 1) / Isa::kAttendRows;
    for (std::int64_t i = 0; i < tiles && first < end; ++i) {
      const std::int64_t from = row + count * i / tiles, to = row + count * (i + 1) / tiles;
      const AttendTile t = {b.keys,
                            b.values,
                            b.head_dim,
                            b.queries + from * b.head_dim,
                            b.max + from,
                            b.sums + from * kSumLanes,
                            b.outputs + from * b.head_dim,
                            first,
                            end,
                            b.softcap};
      attend_rows<Isa, Isa::kAttendRows>(t, to - from);
    }
    row = same;
  }
}

template <class Isa>
void attend_finish(std::int64_t rows, std::int64_t head_dim, const float* sums, float* outputs) {
  for (std::int64_t r = 0; r < rows; ++r) {
    const auto total = set1<Isa>(tree_sum<Isa>(load<Isa>(sums + r * kSumLanes)));
    float* out = outputs + r * head_dim;
    for (std::int64_t d = 0; d < head_dim; d += kWide) {
      const std::int64_t part = head_dim - d < kWide ? head_dim - d : kWide;
      store_part<Isa>(out + d, div<Isa>(load_part<Isa>(out + d, part), total), part);
    }
  }
}

}  // namespace
}  // namespace jupiter

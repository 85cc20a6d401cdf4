// The function table that stands between the model and the instruction sets. Reference kernels in plain C++ define the
// truth; the others compute the same bits (kernels/README.md says how each sum is ordered).
#pragma once

#include <cassert>
#include <cstdint>
#include <string_view>
#include <vector>

#include "io/buffer.hpp"
#include "io/float16.hpp"
#include "io/model/model_config.hpp"
#include "io/model/packed.hpp"

namespace jupiter {

inline constexpr std::int64_t kKvBlock = 32;   // positions in a block of the KV cache; blocks are aligned to position
inline constexpr std::int64_t kSumLanes = 16;  // partial sums of every reduction that is not over K of a matmul

// Rows of activations lie in blocks of up to 16, the largest tile of outputs that the kernels hold in registers; a tile
// reads its activations as one stream. The split is even: 17 rows are 8 and 9.
inline constexpr std::int64_t kRowBlock = 16;
struct RowBlock {
  std::int64_t first = 0;
  std::int64_t rows = 0;
};

// Activations quantised per row and group of 32 columns: value = scale * q, q in -127..127, nearest even.
// A view. Inside a block the order is [group][row of the block][...], blocks follow each other.
struct QuantizedRows {
  std::int64_t rows = 0;
  std::int64_t cols = 0;          // multiple of 32
  std::int8_t* values = nullptr;  // rows * cols
  float* scales = nullptr;        // rows * groups
  // What integer sums start from, times the weights' zero point: minus the sum of the group's integers, and of each
  // half's 16.
  std::int32_t* offsets = nullptr;       // rows * groups
  std::int32_t* half_offsets = nullptr;  // rows * groups * 2
  float* scaled_sums = nullptr;          // rows * groups: scale * sum, for formats with a minimum

  std::int64_t groups() const { return cols / kGroupCols; }
  std::int64_t blocks() const { return (rows + kRowBlock - 1) / kRowBlock; }
  RowBlock block(std::int64_t b) const {
    const std::int64_t first = rows * b / blocks();
    return {first, rows * (b + 1) / blocks() - first};
  }
  // Index of (row r of the block, group g) in scales, offsets and scaled_sums; its 32 integers start at 32 times that.
  std::int64_t index(const RowBlock& at, std::int64_t r, std::int64_t g) const {
    return at.first * groups() + g * at.rows + r;
  }
  // That block alone, of it n_cols columns in whole groups, which lie side by side. Other slices of rows are no view,
  // since blocks of another number of rows begin elsewhere.
  QuantizedRows only(const RowBlock& at, std::int64_t first_col, std::int64_t n_cols) const {
    const std::int64_t i = index(at, 0, first_col / kGroupCols);
    return {at.rows, n_cols, values + i * kGroupCols, scales + i, offsets + i, half_offsets + 2 * i, scaled_sums + i};
  }
};

// Owns the arrays of up to max_rows x max_cols.
class QuantizedBuffer {
 public:
  QuantizedBuffer(std::int64_t max_rows, std::int64_t max_cols)
      : values_(max_rows * max_cols),
        scales_(max_rows * (max_cols / kGroupCols)),
        offsets_(scales_.size()),
        half_offsets_(2 * scales_.size()),
        scaled_sums_(scales_.size()) {}
  QuantizedRows view(std::int64_t rows, std::int64_t cols) {
    assert(static_cast<std::size_t>(rows * cols) <= values_.size() && cols % kGroupCols == 0);
    return {rows, cols, values_.data(), scales_.data(), offsets_.data(), half_offsets_.data(), scaled_sums_.data()};
  }
  std::size_t bytes() const {
    return values_.bytes() + scales_.bytes() + offsets_.bytes() + half_offsets_.bytes() + scaled_sums_.bytes();
  }

 private:
  Buffer<std::int8_t> values_;
  Buffer<float> scales_;
  Buffer<std::int32_t> offsets_;
  Buffer<std::int32_t> half_offsets_;
  Buffer<float> scaled_sums_;
};

struct PanelRange {
  std::int64_t first = 0;
  std::int64_t last = 0;  // one past the end
};

// Query rows that look at one block of 32 keys of one KV head (online softmax, Milakov & Gimelshein 2018).
struct AttendBlock {
  const float* keys = nullptr;    // [head_dim][32]: transposed, lane = position % 32
  const float* values = nullptr;  // [32][head_dim]
  std::int64_t head_dim = 0;
  std::int64_t rows = 0;
  const float* queries = nullptr;               // [rows][head_dim], scaled by 1/sqrt(head_dim) already
  const std::int32_t* first_visible = nullptr;  // [rows]: lanes first_visible <= lane < end_visible are seen
  const std::int32_t* end_visible = nullptr;    // [rows], 0..32; a row that sees nothing is left alone
  float* max = nullptr;                         // [rows], starts at -infinity
  float* sums = nullptr;                        // [rows][16] lane sums (lane = position % 16), start at 0
  float* outputs = nullptr;                     // [rows][head_dim], start at 0
  float softcap = 0;                            // > 0: score = softcap * tanh(score / softcap)
};

struct KernelTable {
  std::string_view name;

  // x: rows x cols; out: the same shape. Non-finite input gives scale NaN in its group and no undefined behaviour.
  void (*quantize_rows)(MatrixView<const float> x, const QuantizedRows& out);
  // out[m][n] = sum over k of x[m][k] * w[n][k], n over the rows of the given panels (clipped to w.rows); out.cols is
  // w.rows. Any quantised format. The sum runs over groups in ascending order.
  void (*matmul_quantized)(const PackedMatrix& w, PanelRange panels, const QuantizedRows& x, MatrixView<float> out);
  // The same for float formats with float activations.
  void (*matmul_float)(const PackedMatrix& w, PanelRange panels, MatrixView<const float> x, MatrixView<float> out);

  // out[i] = x[i] / sqrt(mean(x^2) + eps) * weight[i]
  void (*rms_norm)(const float* x, const float* weight, std::int64_t n, float eps, float* out);
  // Rotates pairs (i, i + head_dim/2) of one head in place; cos and sin: [head_dim/2].
  void (*rope)(float* x, const float* cos, const float* sin, std::int64_t head_dim);
  // out[i] = silu(gate[i]) * up[i]; out may be gate.
  void (*swiglu)(const float* gate, const float* up, std::int64_t n, float* out);
  // The same with GELU in its tanh form.
  void (*geglu)(const float* gate, const float* up, std::int64_t n, float* out);
  // gpt-oss's: out[i] = g * sigmoid(kBoundedSlope g) * (u + 1) of g = min(gate[i], kBound), u = up[i] within kBound.
  void (*bounded_swiglu)(const float* gate, const float* up, std::int64_t n, float* out);
  // x[i] = cap * tanh(x[i] / cap), cap > 0
  void (*softcap)(float cap, std::int64_t n, float* x);
  // x[i] += y[i]
  void (*add)(float* x, const float* y, std::int64_t n);
  // f32 <-> the narrow types, nearest even. narrow: false if a value does not fit (f16 overflow, or not finite).
  void (*widen)(Precision from, const void* x, std::int64_t n, float* out);
  bool (*narrow)(Precision to, const float* x, std::int64_t n, void* out);

  void (*attend_block)(const AttendBlock& block);
  // outputs[r][i] /= sum of sums[r]
  void (*attend_finish)(std::int64_t rows, std::int64_t head_dim, const float* sums, float* outputs);
  // exp(x[i]) for x <= 0 (softmax, sampler); relative error stated in kernels/README.md.
  void (*exponential)(const float* x, std::int64_t n, float* out);
};

const KernelTable& reference_kernels();
// Every table that this machine can run, best first, reference last.
const std::vector<const KernelTable*>& available_kernels();
// The first of them, or the one that the environment variable JUPITER_KERNELS names (UsageError where there is none).
const KernelTable& kernels();

}  // namespace jupiter

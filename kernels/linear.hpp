// Multiplication of activation rows with packed weights: quantises each input once for all matrices that read it.
#pragma once

#include <span>

#include "kernels/runtime.hpp"
#include "kernels/tensor_group.hpp"

namespace jupiter {

// Rows of activations in the forms that the kernels read; integers only where a quantised matrix reads them.
struct LinearView {
  MatrixView<const float> floats;
  QuantizedRows integers = {};
};

// Rounds these columns of x, in block b of the rows of `integers`.
void quantize_block(const KernelTable& kernels, MatrixView<const float> x, const IndexRange& columns,
                    const QuantizedRows& integers, std::int64_t b);

// Owns the integers. Made once for the largest batch.
class LinearInput {
 public:
  LinearInput(std::int64_t max_rows, std::int64_t max_cols);

  // Looks at x (which must stay alive); quantises it where one of the matrices needs that.
  void set(const Runtime& rt, MatrixView<const float> x, bool quantised);
  // The same where each board of a group has its columns of x only. They are exchanged as the matrices read them; those
  // of x itself only where that is as floats.
  void gather(const Runtime& rt, const TensorGroup& group, std::span<const IndexRange> columns, MatrixView<float> x,
              bool quantised);

  LinearView view() const { return {floats_, integers_}; }
  const QuantizedRows& integers() const { return integers_; }
  std::size_t bytes() const { return buffer_.bytes(); }

 private:
  void quantize(const Runtime& rt, MatrixView<const float> x, const IndexRange& columns);
  MatrixView<const float> floats_;
  QuantizedRows integers_;
  QuantizedBuffer buffer_;
};

// out[m][n] = sum_k x[m][k] w[n][k] + bias[n]
struct Product {
  PackedMatrix w;
  MatrixView<float> out;
  const float* bias = nullptr;  // [w.rows] or null
};

struct BoundProduct {
  LinearView x;
  Product product;
};

// All products in one parallel region, each of its own input or all of one.
void multiply(const Runtime& rt, std::span<const BoundProduct> products);
void multiply(const Runtime& rt, const LinearView& x, std::span<const Product> products);

// Sets x and multiplies: quantises only if a matrix is quantised.
void multiply(const Runtime& rt, LinearInput& input, MatrixView<const float> x, std::span<const Product> products);
// Gathers x and multiplies.
void multiply(const Runtime& rt, LinearInput& input, const TensorGroup& group, std::span<const IndexRange> columns,
              MatrixView<float> x, std::span<const Product> products);

}  // namespace jupiter

// Static division of panels over threads; slices short enough that the main thread can move messages in between.
#include "kernels/linear.hpp"

#include <algorithm>
#include <vector>

namespace jupiter {

namespace {

// Multiplications between two polls: about half a millisecond of a slow core.
constexpr std::int64_t kSliceWork = 1 << 23;

void add_bias(const Product& p, PanelRange panels) {
  if (p.bias == nullptr) return;
  const std::int64_t first = panels.first * kPanelRows, last = std::min(panels.last * kPanelRows, p.w.rows);
  for (std::int64_t m = 0; m < p.out.rows; ++m) {
    float* row = p.out.row(m);
    for (std::int64_t n = first; n < last; ++n) row[n] += p.bias[n];
  }
}

void multiply_panels(const Runtime& rt, const LinearView& x, const Product& p, PanelRange panels) {
  if (is_float(p.w.format)) {
    rt.kernels.matmul_float(p.w, panels, x.floats, p.out);
  } else {
    rt.kernels.matmul_quantized(p.w, panels, x.integers, p.out);
  }
  add_bias(p, panels);
}

// What a panel costs: products of more rows take longer.
std::int64_t cost_of_panel(const Product& p) {
  return std::max<std::int64_t>(p.out.rows, 1);
}

// The panels of all products stand one after the other, each as long as its cost; a thread owns those that begin in its
// run.
void multiply_share(const Runtime& rt, std::span<const BoundProduct> products, int thread, std::int64_t total) {
  const Slice mine = slice_of(total, thread, rt.pool.size());
  std::int64_t base = 0;
  for (const auto& [x, p] : products) {
    const std::int64_t cost = cost_of_panel(p), panels = p.w.panels();
    const auto panel_at = [&](std::int64_t place) {
      return std::clamp<std::int64_t>((place - base + cost - 1) / cost, 0, panels);
    };
    const std::int64_t first = mine.first > base ? panel_at(mine.first) : 0;
    const std::int64_t last = mine.last > base ? panel_at(mine.last) : 0;
    const std::int64_t panel_work = kPanelRows * p.w.cols * cost;
    const std::int64_t step = std::max<std::int64_t>(1, kSliceWork / panel_work);
    for (std::int64_t at = first; at < last; at += step) {
      multiply_panels(rt, x, p, {at, std::min(at + step, last)});
      rt.pool.poll(thread);
    }
    base += panels * cost;
  }
}

}  // namespace

LinearInput::LinearInput(std::int64_t max_rows, std::int64_t max_cols) : buffer_(max_rows, max_cols) {}

void LinearInput::set(const Runtime& rt, MatrixView<const float> x, bool quantised) {
  floats_ = x;
  if (!quantised) return;
  integers_ = buffer_.view(x.rows, x.cols);
  quantize(rt, x, {0, x.cols});
}

void quantize_block(const KernelTable& kernels, MatrixView<const float> x, const IndexRange& columns,
                    const QuantizedRows& integers, std::int64_t b) {
  const RowBlock at = integers.block(b);
  kernels.quantize_rows(x.columns(columns.first, columns.size()).slice(at.first, at.rows),
                        integers.only(at, columns.first, columns.size()));
}

// Columns [columns) of x.
void LinearInput::quantize(const Runtime& rt, MatrixView<const float> x, const IndexRange& columns) {
  for_rows(rt, integers_.blocks(), 1, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t b = first; b < last; ++b) quantize_block(rt.kernels, x, columns, integers_, b);
  });
}

void LinearInput::gather(const Runtime& rt, const TensorGroup& group, std::span<const IndexRange> columns,
                         MatrixView<float> x, bool quantised) {
  if (columns.empty()) return set(rt, x, quantised);
  if (quantised && in_groups(columns)) {
    floats_ = {};
    integers_ = buffer_.view(x.rows, x.cols);
    quantize(rt, x, columns[group.board]);
    return jupiter::gather(group, columns, std::span(&integers_, 1));
  }
  jupiter::gather(group, columns, x);
  set(rt, x, quantised);
}

void multiply(const Runtime& rt, std::span<const BoundProduct> products) {
  std::int64_t total = 0;
  for (const BoundProduct& p : products) total += p.product.w.panels() * cost_of_panel(p.product);
  rt.pool.run([&](int thread) { multiply_share(rt, products, thread, total); });
}

void multiply(const Runtime& rt, const LinearView& x, std::span<const Product> products) {
  std::vector<BoundProduct> bound;
  for (const Product& p : products) bound.push_back({x, p});
  multiply(rt, bound);
}

namespace {
bool is_quantised(std::span<const Product> products) {
  return std::any_of(products.begin(), products.end(), [](const Product& p) { return !is_float(p.w.format); });
}
}  // namespace

void multiply(const Runtime& rt, LinearInput& input, MatrixView<const float> x, std::span<const Product> products) {
  input.set(rt, x, is_quantised(products));
  multiply(rt, input.view(), products);
}

void multiply(const Runtime& rt, LinearInput& input, const TensorGroup& group, std::span<const IndexRange> columns,
              MatrixView<float> x, std::span<const Product> products) {
  input.gather(rt, group, columns, x, is_quantised(products));
  multiply(rt, input.view(), products);
}

}  // namespace jupiter

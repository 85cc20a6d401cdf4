// Rows on the wire: widened and narrowed by the kernels, or 8-bit rows as conversion makes them: [dim] bytes, then
// [dim/32] scales.
#include "kernels/wire.hpp"

#include <array>
#include <atomic>
#include <cmath>
#include <cstring>

#include "io/enum_names.hpp"
#include "io/error.hpp"
#include "io/float16.hpp"
#include "io/model/quantize.hpp"

namespace jupiter {

namespace {

constexpr std::array<std::string_view, 2> kWireNames = {"exact", "q8"};
constexpr std::int64_t kMinRows = 16;  // of a thread

std::int64_t q8_row_bytes(std::int64_t dim) {
  return dim + dim / kGroupCols * 2;
}

bool row_to_q8(const float* x, QuantizedRow& row, std::byte* bytes) {
  const std::size_t dim = row.q.size();
  quantize_q8(x, static_cast<std::int64_t>(dim), row);
  std::memcpy(bytes, row.q.data(), dim);
  std::memcpy(bytes + dim, row.scales.data(), row.scales.size() * sizeof(f16_t));
  bool fits = true;
  for (const f16_t scale : row.scales) fits &= std::isfinite(f16_to_f32(scale));
  return fits;
}

void row_from_q8(const std::byte* bytes, QuantizedRow& row, float* x) {
  const std::size_t dim = row.q.size();
  std::memcpy(row.q.data(), bytes, dim);
  std::memcpy(row.scales.data(), bytes + dim, row.scales.size() * sizeof(f16_t));
  dequantize_row(Format::q8, static_cast<std::int64_t>(dim), row, x);
}

}  // namespace

std::string_view name(Wire wire) {
  return kWireNames[index_of(wire)];
}

std::optional<Wire> wire_from_name(std::string_view text) {
  return enum_from_name<Wire>(kWireNames, text);
}

std::int64_t wire_row_bytes(Wire wire, const ModelConfig& config) {
  if (wire == Wire::exact) return config.dim * bytes_of(config.residual);
  if (config.dim % kGroupCols != 0) {
    throw UsageError("--wire q8: expected a model of a multiple of 32 dimensions, found " + std::to_string(config.dim));
  }
  return q8_row_bytes(config.dim);
}

void to_wire(const Runtime& rt, Wire wire, Precision precision, MatrixView<const float> x, std::byte* bytes) {
  bool fits = true;
  if (wire == Wire::exact) {
    // No bit is lost: forward_block rounded to this precision already.
    fits = rt.kernels.narrow(precision, x.data, x.rows * x.cols, bytes);
  } else {
    std::atomic<bool> all = true;
    for_rows(rt, x.rows, kMinRows, [&](std::int64_t first, std::int64_t last) {
      QuantizedRow row(Format::q8, x.cols);
      for (std::int64_t i = first; i < last; ++i) {
        if (!row_to_q8(x.row(i), row, bytes + i * q8_row_bytes(x.cols))) all = false;
      }
    });
    fits = all;
  }
  if (!fits) throw RunError("residual: a value does not fit " + std::string(wire == Wire::q8 ? "q8" : name(precision)));
}

void from_wire(const Runtime& rt, Wire wire, Precision precision, const std::byte* bytes, MatrixView<float> x) {
  for_rows(rt, x.rows, kMinRows, [&](std::int64_t first, std::int64_t last) {
    if (wire == Wire::exact) {
      const std::int64_t row_bytes = x.cols * bytes_of(precision);
      return rt.kernels.widen(precision, bytes + first * row_bytes, (last - first) * x.cols, x.row(first));
    }
    QuantizedRow row(Format::q8, x.cols);
    for (std::int64_t i = first; i < last; ++i) row_from_q8(bytes + i * q8_row_bytes(x.cols), row, x.row(i));
  });
}

}  // namespace jupiter

// Pieces in a plain order: row by row, or block by block as the kernels read them.
#include "kernels/tensor_group.hpp"

#include <cstring>
#include <string>

#include "io/error.hpp"

namespace jupiter {

namespace {

// The columns of every board; none where the boards have all of them.
std::vector<IndexRange> columns_of(std::span<const TensorSlice> slices, IndexRange TensorSlice::*rows,
                                   std::int64_t count) {
  std::vector<IndexRange> columns;
  for (const TensorSlice& s : slices) columns.push_back(s.*rows);
  if (columns.front() == IndexRange{0, count}) columns.clear();
  return columns;
}

void expect_bytes(int board, std::size_t expected, std::size_t found) {
  if (found == expected) return;
  throw PeerError("piece of board " + std::to_string(board) + " of the tensor group: expected " +
                  std::to_string(expected) + " bytes, found " + std::to_string(found));
}

// Exchanges the rows of this board's columns, element_bytes each. pack(row, to) and unpack(row, columns, from) copy
// those of one row.
template <typename Pack, typename Unpack>
void exchange_rows(const TensorGroup& group, std::span<const IndexRange> columns, std::int64_t rows,
                   std::size_t element_bytes, const Pack& pack, const Unpack& unpack) {
  const auto row_bytes = [&](const IndexRange& c) { return static_cast<std::size_t>(c.size()) * element_bytes; };
  const std::size_t mine = row_bytes(columns[group.board]);
  std::vector<std::byte> piece(static_cast<std::size_t>(rows) * mine);
  for (std::int64_t i = 0; i < rows; ++i) pack(i, piece.data() + static_cast<std::size_t>(i) * mine);
  group.link->exchange(std::move(piece), [&](int board, std::span<const std::byte> bytes) {
    const IndexRange& c = columns[board];
    expect_bytes(board, static_cast<std::size_t>(rows) * row_bytes(c), bytes.size());
    for (std::int64_t i = 0; i < rows; ++i) unpack(i, c, bytes.data() + static_cast<std::size_t>(i) * row_bytes(c));
  });
}

// What follows from integers and scales (reference.cpp has the same sums).
void complete(const QuantizedRows& x) {
  const std::int64_t n = x.rows * x.groups();
  for (std::int64_t i = 0; i < n; ++i) {
    const std::int8_t* q = x.values + i * kGroupCols;
    std::int32_t halves[2] = {};
    for (std::int64_t k = 0; k < kGroupCols; ++k) halves[k / (kGroupCols / 2)] += q[k];
    const std::int32_t sum = halves[0] + halves[1];
    x.offsets[i] = -sum;
    x.half_offsets[2 * i] = -halves[0];
    x.half_offsets[2 * i + 1] = -halves[1];
    x.scaled_sums[i] = x.scales[i] * static_cast<float>(sum);
  }
}

}  // namespace

TensorGroup::TensorGroup(const ModelConfig& config) : slices{whole_slice(config)} {}

TensorGroup::TensorGroup(const ModelConfig& c, std::vector<TensorSlice> all, int number, GroupLink& boards)
    : slices(std::move(all)),
      board(number),
      link(&boards),
      attended(attended_columns(c, slices)),
      attention_out(columns_of(slices, &TensorSlice::attention_out, c.dim)),
      hidden(columns_of(slices, &TensorSlice::hidden, c.hidden_dim)),
      feed_forward_out(columns_of(slices, &TensorSlice::feed_forward_out, c.dim)),
      expert_hidden(columns_of(slices, &TensorSlice::expert_hidden, c.expert_hidden_dim)) {}

void gather(const TensorGroup& group, std::span<const IndexRange> columns, MatrixView<float> x) {
  if (columns.empty()) return;
  const IndexRange& mine = columns[group.board];
  const auto bytes_of_row = [](const IndexRange& c) { return static_cast<std::size_t>(c.size()) * sizeof(float); };
  exchange_rows(
      group, columns, x.rows, sizeof(float),
      [&](std::int64_t i, std::byte* to) { std::memcpy(to, x.row(i) + mine.first, bytes_of_row(mine)); },
      [&](std::int64_t i, const IndexRange& c, const std::byte* from) {
        std::memcpy(x.row(i) + c.first, from, bytes_of_row(c));
      });
}

void gather(const KernelTable& kernels, const TensorGroup& group, std::span<const IndexRange> columns,
            Precision precision, MatrixView<float> x) {
  if (precision == Precision::f32) return gather(group, columns, x);
  if (columns.empty()) return;
  const IndexRange& mine = columns[group.board];
  exchange_rows(
      group, columns, x.rows, static_cast<std::size_t>(bytes_of(precision)),
      [&](std::int64_t i, std::byte* to) {
        kernels.narrow(precision, x.row(i) + mine.first, mine.size(), to);  // exact: it was rounded before
      },
      [&](std::int64_t i, const IndexRange& c, const std::byte* from) {
        kernels.widen(precision, from, c.size(), x.row(i) + c.first);
      });
}

void gather(const TensorGroup& group, std::span<const IndexRange> columns, std::span<const QuantizedRows> matrices) {
  if (columns.empty()) return;
  constexpr std::size_t group_bytes = kGroupCols + sizeof(float);  // integers and scale
  std::int64_t rows = 0;
  for (const QuantizedRows& x : matrices) rows += x.rows;
  // Of each block of rows the integers, then the scales.
  const auto visit = [&](const IndexRange& c, const auto& visit_part) {
    std::size_t at = 0;
    for (const QuantizedRows& x : matrices) {
      for (std::int64_t b = 0; b < x.blocks(); ++b) {
        const QuantizedRows part = x.only(x.block(b), c.first, c.size());
        const auto n = static_cast<std::size_t>(part.rows * part.groups());
        visit_part(part, at, n);
        at += n * group_bytes;
      }
    }
  };
  const auto bytes_of_piece = [&](const IndexRange& c) {
    return static_cast<std::size_t>(rows * (c.size() / kGroupCols)) * group_bytes;
  };
  const IndexRange& mine = columns[group.board];
  std::vector<std::byte> piece(bytes_of_piece(mine));
  visit(mine, [&](const QuantizedRows& part, std::size_t at, std::size_t n) {
    std::memcpy(piece.data() + at, part.values, n * kGroupCols);
    std::memcpy(piece.data() + at + n * kGroupCols, part.scales, n * sizeof(float));
  });
  group.link->exchange(std::move(piece), [&](int board, std::span<const std::byte> bytes) {
    expect_bytes(board, bytes_of_piece(columns[board]), bytes.size());
    visit(columns[board], [&](const QuantizedRows& part, std::size_t at, std::size_t n) {
      std::memcpy(part.values, bytes.data() + at, n * kGroupCols);
      std::memcpy(part.scales, bytes.data() + at + n * kGroupCols, n * sizeof(float));
      complete(part);
    });
  });
}

}  // namespace jupiter

// A tensor group: boards that compute each layer together, each the rows of its slice, and exchange what the next
// product reads. Results are gathered, never summed (parallel/DESIGN.md, decision 12), so every board then has the same
// bits that a board alone would have.
#pragma once

#include <cstddef>
#include <functional>
#include <span>
#include <vector>

#include "io/model/tensor_slice.hpp"
#include "kernels/kernel_table.hpp"

namespace jupiter {

// How the boards of a group reach each other.
class GroupLink {
 public:
  virtual ~GroupLink() = default;
  // Sends `mine` to every other board of the group, and passes each of their pieces to take() as it arrives. All boards
  // call it in the same order. PeerError where a piece does not come.
  virtual void exchange(std::vector<std::byte> mine,
                        const std::function<void(int board, std::span<const std::byte> piece)>& take) = 0;
};

struct TensorGroup {
  // A board alone.
  explicit TensorGroup(const ModelConfig& config);
  // link must outlive it.
  TensorGroup(const ModelConfig& config, std::vector<TensorSlice> slices, int board, GroupLink& link);

  const TensorSlice& mine() const { return slices[static_cast<std::size_t>(board)]; }

  std::vector<TensorSlice> slices;  // by board
  int board = 0;                    // this one
  GroupLink* link = nullptr;        // none: this board has everything
  // Columns by board, from the slices. Empty: every board computes all of them, and nothing is exchanged.
  std::vector<IndexRange> attended, attention_out, hidden, feed_forward_out, expert_hidden;
};

// Each fills in the columns of the other boards; this board's columns are there. Nothing happens where `columns` is
// empty.
void gather(const TensorGroup& group, std::span<const IndexRange> columns, MatrixView<float> x);
// Values that were rounded to `precision`, which is how they travel.
void gather(const KernelTable& kernels, const TensorGroup& group, std::span<const IndexRange> columns,
            Precision precision, MatrixView<float> x);
// Columns in whole groups of 32, of one or several matrices of the same width in one exchange.
void gather(const TensorGroup& group, std::span<const IndexRange> columns, std::span<const QuantizedRows> matrices);

}  // namespace jupiter

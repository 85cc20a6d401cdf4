// The end of the model: which rows pass it, what comes out, and how boards share the vocabulary: those of a tensor
// group, or the stages of a pipeline (shared_head.hpp). Every board computes the logits of its tokens. To the leader
// travel the best of them and a digest, or, in a group, all logits where sampling needs them.
#pragma once

#include <functional>
#include <span>
#include <vector>

#include "kernels/kernel_table.hpp"
#include "parallel/comm/message.hpp"

namespace jupiter {

// What is wanted of rows of a frame.
struct OutputHeadNeed {
  bool logits = true;           // else only the rows after the final norm
  std::int64_t candidates = 0;  // that many best logits of each row are enough; 0: all
};

// What the end of the model made of some rows of the frame.
struct OutputHeadRows {
  MatrixView<const float> logits;           // [rows][vocab_size]; beside the candidates asked for some may be -infinity
  MatrixView<const float> hidden;           // [rows][dim], after the final norm
  std::vector<std::uint64_t> digests = {};  // row_digest() of each row; empty where the logits are all there

  std::uint64_t digest(std::int64_t row) const;
};
// Passes rows of the frame through the final norm and, if need.logits, at most kMaxDrawnRows of them through the output
// head. What it returns is valid until the next call.
using OutputHeadPass = std::function<OutputHeadRows(std::span<const std::int64_t> rows, const OutputHeadNeed& need)>;

// The sum over panels of 16 tokens, modulo 2^64, of XXH3-64 of their logits, seeded with the panel's number. So boards
// that share the vocabulary by whole panels digest their parts, and the sum is the digest of the row. first: the first
// token of this part, a multiple of 16.
std::uint64_t row_digest(std::span<const float> logits, std::int64_t first = 0);

// A command of a group's leader to the other boards: these rows of the frame pass the output head.
struct HeadRows {
  std::vector<std::int64_t> rows;
  std::int64_t candidates = 0;
};
Message encode_head_rows(const HeadRows& asked);
// PeerError where there are too many rows, or one that is not below `rows`.
HeadRows decode_head_rows(const Message& message, std::int64_t rows);

// What the last stage asks the stages that share its head: rows of the residual as they travel between stages, of which
// so many best logits are wanted (at least 1).
struct HeadStates {
  std::int64_t rows = 0;
  std::int64_t candidates = 0;
  std::vector<std::byte> residual;  // [rows], each of wire_row_bytes()
};
Message encode_head_states(const HeadStates& asked);
// PeerError where rows are missing or too many.
HeadStates decode_head_states(const Message& message, std::int64_t row_bytes);

// A board's answer: logits are those of tokens [first, first + logits.cols).
Message encode_head_logits(MatrixView<const float> logits, std::int64_t first, std::int64_t candidates);
// Writes the answer of the board that has tokens [first, last) into rows of whole logits, and adds its digests.
// PeerError where its size or a token is not what was asked for.
void take_head_logits(const Message& message, std::int64_t first, std::int64_t last, std::int64_t candidates,
                      MatrixView<float> logits, std::span<std::uint64_t> digests);

}  // namespace jupiter

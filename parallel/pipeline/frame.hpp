// A frame: rows that travel through the stages together, of one or several sequences; and the last rank's answer to it.
#pragma once

#include <vector>

#include "io/model/model_config.hpp"
#include "io/tokenizer/tokenizer_data.hpp"
#include "kernels/sampler.hpp"
#include "kernels/token_tree.hpp"
#include "parallel/comm/message.hpp"
#include "parallel/plan/stage_memory.hpp"

namespace jupiter {

using SequenceId = std::uint32_t;

constexpr std::size_t kMaxSegments = 64;  // of one answer

// Rows of one sequence: consecutive positions, or rows of its token tree.
// Consecutive rows are committed at once. What a stage holds of the sequence from first_position on is forgotten first:
// that is how windows of an evaluation follow each other in one sequence.
struct FrameRun {
  enum Flags : std::uint32_t {
    sample = 1,     // the last row passes the output head, and a token is drawn from it
    every_row = 2,  // all rows pass the output head; their logits go to the last stage's sink
    tree = 4,       // rows are tree nodes (Frame::links); the last rank verifies them. Rows may be gone: rejected
    draft = 8,      // with sample: the last rank goes on with a tree of drafted tokens
    hidden = 16,    // all rows, after the final norm, go to the last stage's other sink; no logits are computed
    digest =
        32,  // all rows pass the output head and count in the sequence's digest: an answer's tokens, computed again
  };
  SequenceId sequence = 0;
  std::int32_t first_position = 0;
  std::int32_t rows = 0;
  std::uint32_t flags = 0;
  std::uint32_t epoch = 0;  // of the segment that became this run
  Verdict verdict;          // tree: the newest that rank 0 knew
};

// What the stages spent on a frame so far, seconds: the last rank and rank 0 learn from it what width costs.
struct FrameCost {
  double sum_s = 0;
  double most_s = 0;
};

struct Frame {
  std::vector<FrameRun> runs;
  std::vector<TokenId> tokens;  // [rows]; the last rank's sampler and drafters read them
  std::vector<TreeLink> links;  // [rows of trees]
  FrameCost cost;
  // Residual as it travels, [rows][dim] in the model's precision; empty before the first stage.
  std::vector<std::byte> residual;

  std::int64_t rows() const { return static_cast<std::int64_t>(tokens.size()); }
};

// What receivers check a frame against.
struct FrameLimits {
  std::int64_t max_rows = 0;
  std::int64_t max_position = 0;  // positions are below
  std::int64_t vocab_size = 0;
  std::int64_t residual_row_bytes = 0;
  std::uint64_t max_message_bytes() const;
};

Message encode(const Frame& frame, std::uint64_t id);
// PeerError where a size or a number is outside the limits.
Frame decode_frame(const Message& message, const FrameLimits& limits);

// Drafted tokens that travel as one run. Epochs count the misses of a sequence: after one, what is on its way is stale.
struct Segment {
  std::uint32_t epoch = 0;
  std::vector<TreeLink> links;
  std::vector<TokenId> tokens;
};

// What a frame meant for one of its sequences.
struct SequenceResult {
  SequenceId sequence = 0;
  std::vector<TokenId> tokens;  // new ones, in order
  Verdict verdict;              // where the last of them stands; tree runs only
  std::uint32_t epoch = 0;      // the newest; queued segments of older ones are void
  std::vector<Segment> segments;
};

// The last rank's answer to a frame: also the credit for one more. late: answers none, but adds segments to what was
// answered before; its message has the number 0.
struct FrameResult {
  FrameCost cost;
  std::vector<SequenceResult> sequences;
  bool late = false;
};

Message encode_result(std::uint64_t frame_id, const FrameResult& result);
FrameResult decode_result(const Message& message, const FrameLimits& limits);

// What the last rank tells the stages between, past the frames: which drafted token of a sequence is right.
struct SequenceVerdict {
  SequenceId sequence = 0;
  Verdict verdict;
};
Message encode_verdict(std::uint64_t id, const SequenceVerdict& verdict);
// PeerError where it is no verdict, of another size, or about a node that its parent does not precede. Whether it is
// about anything that the receiver still knows is the receiver's to see.
SequenceVerdict decode_verdict(const Message& message);

}  // namespace jupiter

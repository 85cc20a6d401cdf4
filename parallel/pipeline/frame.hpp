// A frame: rows that travel through the stages together, of one or several sequences; and the last rank's answer to it.
#pragma once

#include <algorithm>
#include <numeric>
#include <vector>

#include "io/model/model_config.hpp"
#include "io/tokenizer/tokenizer_data.hpp"
#include "kernels/sampler.hpp"
#include "kernels/token_tree.hpp"
#include "parallel/comm/message.hpp"
#include "parallel/plan/stage_memory.hpp"

namespace jupiter {

using SequenceId = std::uint32_t;

constexpr std::size_t kMaxSegments = 64;      // of one answer
constexpr std::size_t kMostTopLogprobs = 20;  // of one token
constexpr std::size_t kMostStages = 256;      // of one pipeline

// Rows of one sequence: either consecutive positions, or nodes of its token tree. Consecutive rows are committed at
// once. Before they are computed, a stage forgets what it holds of the sequence from first_position on; so the windows
// of an evaluation can follow each other in one sequence.
struct FrameRun {
  enum Flags : std::uint32_t {
    sample = 1,     // the last row passes the output head, and a token is drawn from it
    every_row = 2,  // all rows pass the output head; their logits go to the last stage's sink
    tree = 4,       // rows are tree nodes (Frame::links), which the last rank verifies; rejected ones may be gone
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
  Verdict verdict = {};     // tree: the newest that rank 0 knew

  // Rows at consecutive positions.
  static FrameRun consecutive(SequenceId sequence, std::int64_t first_position, std::int64_t rows,
                              std::uint32_t flags = 0) {
    return {.sequence = sequence,
            .first_position = static_cast<std::int32_t>(first_position),
            .rows = static_cast<std::int32_t>(rows),
            .flags = flags};
  }
};

// Seconds that each stage spent on a frame so far, by stage. The last rank learns from it what a frame costs by its
// rows, and rank 0 what share of the time each stage computes.
struct FrameCost {
  std::vector<double> stage_s;

  double sum_s() const { return std::accumulate(stage_s.begin(), stage_s.end(), 0.0); }
  double most_s() const { return stage_s.empty() ? 0 : *std::max_element(stage_s.begin(), stage_s.end()); }
};

struct Frame {
  std::vector<FrameRun> runs;
  std::vector<TokenId> tokens;  // [rows]; the last rank's sampler and drafters read them
  std::vector<TreeLink> links;  // [rows of trees]
  FrameCost cost;
  // Residual as it travels, [rows][dim] in the model's precision; empty before the first stage.
  std::vector<std::byte> residual;

  std::int64_t rows() const { return std::ssize(tokens); }
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

// Drafted tokens that travel as one run. Epochs count the misses of a sequence: a miss makes all earlier segments void.
struct Segment {
  std::uint32_t epoch = 0;
  std::vector<TreeLink> links;
  std::vector<TokenId> tokens;
};

// What the last rank found out about one sequence of a frame.
struct SequenceResult {
  SequenceId sequence = 0;
  std::vector<TokenId> tokens;  // new ones, in order
  Verdict verdict;              // where the last of them stands; tree runs only
  std::uint32_t epoch = 0;      // the newest one; queued segments of older epochs are void
  std::vector<Segment> segments;
  std::vector<TokenLogprob> logprobs = {};  // as many for each of the tokens, where they are wanted
};

// The last rank's answer to a frame, which is also the credit for one more frame.
struct FrameResult {
  FrameCost cost;
  std::vector<SequenceResult> sequences;
  // A late result answers no frame and is no credit. It only adds segments behind a root that was answered before,
  // because a drafter on another rank found something in the meantime.
  bool late = false;
};

// The run as which a segment travels. verdict: the newest that rank 0 knows of the sequence.
inline FrameRun tree_run(SequenceId sequence, const Segment& segment, const Verdict& verdict) {
  return {.sequence = sequence,
          .rows = static_cast<std::int32_t>(segment.tokens.size()),
          .flags = FrameRun::tree,
          .epoch = segment.epoch,
          .verdict = verdict};
}

// frame_id: number of the frame that it answers; of a late result it has no meaning.
Message encode_result(std::uint64_t frame_id, const FrameResult& result);
// PeerError where a size or a number is outside the limits, or a late result has tokens.
FrameResult decode_result(const Message& message, const FrameLimits& limits);

// What the last rank sends to the stages between, past the frames: which drafted token of a sequence is right.
struct SequenceVerdict {
  SequenceId sequence = 0;
  Verdict verdict;
};
Message encode_verdict(std::uint64_t id, const SequenceVerdict& verdict);
// PeerError where it is no verdict, has another size, or names a parent that does not precede its node. Whether the
// receiver still knows these nodes is not checked here.
SequenceVerdict decode_verdict(const Message& message);

}  // namespace jupiter

// Times of stages and of whole schedules, from a profile. Prefill with chunks that follow each other through the stages
// (intra-sequence pipeline parallelism, arXiv 2504.08242) is a flow shop (parallel/DESIGN.md, decision 7). Messages
// take time from the boards, too. Chunk i is computed on stage r at
//   C(i, r) = max(C(i-1, r) + send_s + receive_s, C(i, r-1) + arrive_s) + t_r(n_i, context_i),
// where t_r is compute_s() of n_i rows after context_i tokens. A stage that waits takes its message at once, which
// arrive_s includes; a stage that computes takes it when it is done, which costs receive_s.
#pragma once

#include <optional>
#include <span>
#include <vector>

#include "parallel/plan/profile.hpp"

namespace jupiter {

// The boards of a tensor group, and what they exchange in each layer.
struct GroupCost {
  struct Member {
    const BoardProfile* board;
    double share;
  };
  std::vector<Member> members;  // the leader first
  GatherCost gather;
  int gathers = 0;       // of each layer
  double row_bytes = 0;  // that a board receives in all gathers of a layer, for one row
  bool repeat_attention_out = false;
  bool repeat_feed_forward_out = false;
  double repeated = 0;  // share of a layer's rows that every board computes

  // Seconds of one layer: the slowest board's, and the gathers.
  double layer_s(std::int64_t n, std::int64_t context) const;
};

struct StageCost {
  const BoardProfile* board = nullptr;  // of a group: the leader
  std::int64_t layers = 0;
  bool embedding = false;
  bool output_head = false;
  bool scores = false;   // evaluation: every row of logits is scored
  LinkProfile hop;       // the link into this stage; for the first stage the one on which answers come back
  double row_bytes = 0;  // of one row on the wire: residual and token
  std::optional<GroupCost> group = std::nullopt;  // none: one board
  // A stage that computes some of the last stage's output head, and the link to it.
  struct HeadHelper {
    const BoardProfile* board;
    double share;
    LinkProfile hop;
  };
  std::vector<HeadHelper> head_helpers = {};  // of a last stage that shares its head
  double head_share = 0;                      // of a stage that helps the last one

  // Seconds of computing n rows after `context` tokens, of which head_rows pass the output head, kMaxDrawnRows at a
  // time:
  //   layers * layer(n, context) + embedding(n) + output head(head_rows)
  double compute_s(std::int64_t n, std::int64_t context, std::int64_t head_rows) const;
  // Seconds for which receiving and sending n rows keep this stage from computing. What the first stage receives and
  // the last one sends is an answer instead.
  double receive_s(std::int64_t n) const;
  double send_s(std::int64_t n) const;
  // Seconds of a frame of decoded rows (one: plain decoding) at this context, all of which pass the output head. The
  // stages of a pipeline compute it after a wait, which costs wake_s.
  double decode_s(std::int64_t context, std::int64_t rows = 1) const;
  // Seconds that a stage which helps spends on these rows of the last stage's output head.
  double help_s(std::int64_t head_rows) const;
  // Seconds that n rows are on their way into this stage.
  double arrive_s(std::int64_t n) const;
};

// Times of one chunk on one stage, which computes from start_s to done_s and sends until busy_until_s.
struct StageTimes {
  double start_s = 0;
  double done_s = 0;
  double busy_until_s = 0;
};
// Lets the next chunk of n rows pass all stages. On entry `times` has the previous chunk's times on each stage (zeros
// before the first chunk), on return this chunk's.
void pass_chunk(std::span<const StageCost> stages, std::int64_t n, std::int64_t context, std::int64_t head_rows,
                std::span<StageTimes> times);

// Seconds to the first token of a prompt in these chunks, C(last chunk, last stage) and the answer's way back.
// every_row: all rows pass the output head (evaluation).
double prefill_s(std::span<const StageCost> stages, std::span<const std::int64_t> chunks, bool every_row = false);

// Seconds of one plainly decoded token at this context: sum over the stages of decode_s and the hops between them.
double decode_step_s(std::span<const StageCost> stages, std::int64_t context);

// Chunk lengths that minimise prefill_s(), by dynamic programming over boundaries on a grid (the multiples of `grain`;
// 0: chosen by the prompt's length). At each boundary it keeps at most `beam` vectors of the stages' finish times, none
// of which is beaten by another one at every stage. So it is exact up to the grid and the beam.
std::vector<std::int64_t> best_chunks(std::span<const StageCost> stages, std::int64_t prompt_tokens,
                                      std::int64_t max_chunk, bool every_row = false, std::int64_t grain = 0,
                                      std::size_t beam = 16);

}  // namespace jupiter

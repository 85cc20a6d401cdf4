// Times of stages and of whole schedules, from a profile. Prefill is a flow shop (parallel/DESIGN.md, decision 7) in
// which messages take time from the boards too: chunk i leaves stage r computed at
// C(i,r) = max(C(i-1,r) + send_s + receive_s, C(i,r-1) + arrive_s) + t_r(n_i, context_i).
// A stage that waits takes its message at once (arrive_s holds that); one that computes takes it in between.
#pragma once

#include <span>

#include "parallel/plan/profile.hpp"

namespace jupiter {

struct StageCost {
  const BoardProfile* board = nullptr;
  std::int64_t layers = 0;
  bool embedding = false;
  bool output_head = false;
  bool scores = false;   // evaluation: every row that passes the output head is scored
  LinkProfile hop;       // into this stage; into the first one: the way of an answer back
  double row_bytes = 0;  // of the residual on the wire, tokens included

  // n rows after `context` tokens, head_rows of them through the output head, at most kMaxDrawnRows at a time.
  double compute_s(std::int64_t n, std::int64_t context, std::int64_t head_rows) const;
  // What moving n rows in and out keeps this stage from computing; at both ends of the pipeline one of them is an
  // answer.
  double receive_s(std::int64_t n) const;
  double send_s(std::int64_t n) const;
  // One decoded token at this context: stages of a pipeline compute it after a wait.
  double decode_s(std::int64_t context) const;
  // n rows on their way into this stage.
  double arrive_s(std::int64_t n) const;
};

// One chunk on one stage: computing, then sending until `busy_until_s`.
struct StageTimes {
  double start_s = 0;
  double done_s = 0;
  double busy_until_s = 0;
};
// The next chunk of n rows passes all stages; times hold those of the chunk before it, then its own.
void pass_chunk(std::span<const StageCost> stages, std::int64_t n, std::int64_t context, std::int64_t head_rows,
                std::span<StageTimes> times);

// Time to the first token of a prompt in these chunks. every_row: all rows pass the output head (evaluation).
double prefill_s(std::span<const StageCost> stages, std::span<const std::int64_t> chunks, bool every_row = false);

// Time of one plainly decoded token at this context.
double decode_step_s(std::span<const StageCost> stages, std::int64_t context);

// Chunk lengths that minimise prefill_s: dynamic programming over boundaries on a grid (multiples of `grain`, 0: chosen
// by length), keeping at each boundary the `beam` best vectors of finish times that none other beats everywhere.
std::vector<std::int64_t> best_chunks(std::span<const StageCost> stages, std::int64_t prompt_tokens,
                                      std::int64_t max_chunk, bool every_row = false, std::int64_t grain = 0,
                                      std::size_t beam = 16);

}  // namespace jupiter

// What speculative decoding is expected to bring (parallel/pipeline/SPECULATION.md has the protocol).
#pragma once

#include <span>

#include "parallel/plan/schedule_cost.hpp"

namespace jupiter {

// Drafts that are right with the same probability at every token, given that those before them are.
struct DraftForecast {
  double hit_rate = 0;          // in [0, 1); 0: plain decoding
  std::int64_t draft_max = 16;  // most drafted tokens of a segment
};

// Between two misses 1/(1-h) tokens are decided on average, in segments of w rows. The first of these segments takes a
// lap; each further one follows a slot behind the one before it, and 1/(1-h^w) segments are needed on average. So with
//   laps a token = 1 - h,   slots a token = (1 - h) (1/(1-h^w) - 1)
// a token takes laps * lap(w) + slots * slot(w) seconds. On one board a slot is a lap.
struct SegmentRate {
  double laps = 1;
  double slots = 0;
};
SegmentRate segments_per_token(double hit_rate, std::int64_t width);

// Seconds for a segment of so many rows: of all stages and the hops between them, and of the slowest stage.
double lap_s(std::span<const StageCost> stages, std::int64_t context, std::int64_t width);
double slot_s(const StageCost& stage, std::int64_t context, std::int64_t width);

// Seconds of one token with the width that suits these stages best. Without drafts it is decode_step_s().
double token_s(std::span<const StageCost> stages, std::int64_t context, const DraftForecast& drafts);

}  // namespace jupiter

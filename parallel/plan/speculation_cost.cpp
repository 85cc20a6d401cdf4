// Laps and slots of segments.
#include "parallel/plan/speculation_cost.hpp"

#include <algorithm>
#include <cmath>

#include "parallel/plan/stage_memory.hpp"

namespace jupiter {

SegmentRate segments_per_token(double hit_rate, std::int64_t width) {
  const double miss = 1 - hit_rate;
  return {miss, miss * (1 / (1 - std::pow(hit_rate, static_cast<double>(width))) - 1)};
}

double lap_s(std::span<const StageCost> stages, std::int64_t context, std::int64_t width) {
  double s = 0;
  for (std::size_t r = 0; r < stages.size(); ++r) {
    s += stages[r].decode_s(context, width);
    if (r > 0) s += stages[r].arrive_s(width);
  }
  return s + (stages.size() > 1 ? stages[0].hop.latency_s : 0.0);
}

double slot_s(const StageCost& stage, std::int64_t context, std::int64_t width) {
  return stage.compute_s(width, context, width) + stage.help_s(width) + stage.receive_s(width) + stage.send_s(width);
}

double token_s(std::span<const StageCost> stages, std::int64_t context, const DraftForecast& drafts) {
  double best = lap_s(stages, context, 1);
  if (drafts.hit_rate <= 0 || drafts.draft_max <= 0) return best;
  const std::int64_t most = std::min(drafts.draft_max + 1, kMaxDrawnRows);
  for (std::int64_t width = 1; width <= most; ++width) {
    double slowest = 0;
    for (const StageCost& s : stages) slowest = std::max(slowest, slot_s(s, context, width));
    const SegmentRate rate = segments_per_token(drafts.hit_rate, width);
    best = std::min(best, rate.laps * lap_s(stages, context, width) + rate.slots * slowest);
  }
  return best;
}

}  // namespace jupiter

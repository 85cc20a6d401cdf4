// Replays a prompt on a profile, and says when each stage works on which chunk.
#pragma once

#include <string>

#include "parallel/plan/schedule_cost.hpp"

namespace jupiter {

struct SimulatedSpan {
  std::size_t stage = 0;
  std::size_t chunk = 0;
  double start_s = 0;
  double end_s = 0;
};

struct Simulation {
  std::vector<std::string> stage_names;
  std::vector<SimulatedSpan> spans;  // ordered by chunk, then by stage
  double ttft_s = 0;
  double decode_tokens_per_s = 0;
  // Share of the time to the first token in which a stage computes nothing.
  double idle_share(std::size_t stage) const;
};

Simulation simulate(std::span<const StageCost> stages, std::span<const std::int64_t> chunks);

// One line for each stage, with `width` characters for the time to the first token. Chunks are shown as digits and
// letters, idle time as dots.
std::string draw(const Simulation& simulation, int width);

}  // namespace jupiter

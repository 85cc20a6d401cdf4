// The recurrence of schedule_cost.cpp, with its intermediate times kept.
#include "parallel/plan/simulator.hpp"

#include <fmt/format.h>

#include <algorithm>

namespace jupiter {

double Simulation::idle_share(std::size_t stage) const {
  double busy = 0;
  for (const SimulatedSpan& s : spans) {
    if (s.stage == stage) busy += s.end_s - s.start_s;
  }
  return ttft_s > 0 ? 1 - busy / ttft_s : 0;
}

Simulation simulate(std::span<const StageCost> stages, std::span<const std::int64_t> chunks) {
  Simulation out;
  for (const StageCost& s : stages) out.stage_names.push_back(fmt::format("{}:{}", s.board->host, s.board->slot));
  std::vector<StageTimes> times(stages.size());
  std::int64_t context = 0;
  for (std::size_t i = 0; i < chunks.size(); ++i) {
    pass_chunk(stages, chunks[i], context, i + 1 == chunks.size() ? 1 : 0, times);
    for (std::size_t r = 0; r < stages.size(); ++r) out.spans.push_back({r, i, times[r].start_s, times[r].done_s});
    context += chunks[i];
  }
  out.ttft_s = prefill_s(stages, chunks);
  out.decode_tokens_per_s = 1 / decode_step_s(stages, context);
  return out;
}

std::string draw(const Simulation& s, int width) {
  std::vector<std::string> lines(s.stage_names.size(), std::string(static_cast<std::size_t>(width), '.'));
  constexpr std::string_view kMarks = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
  for (const SimulatedSpan& span : s.spans) {
    const auto column = [&](double t) {
      return static_cast<std::size_t>(std::clamp(t / s.ttft_s * width, 0.0, static_cast<double>(width)));
    };
    for (std::size_t c = column(span.start_s); c < column(span.end_s); ++c) {
      lines[span.stage][c] = kMarks[span.chunk % kMarks.size()];
    }
  }
  std::string text;
  for (std::size_t r = 0; r < lines.size(); ++r) {
    text += fmt::format("{:<16}|{}| idle {:2.0f} %\n", s.stage_names[r], lines[r], s.idle_share(r) * 100);
  }
  return text + fmt::format("{:<16} 0{:>{}.3f} s\n", "", s.ttft_s, width - 2);
}

}  // namespace jupiter

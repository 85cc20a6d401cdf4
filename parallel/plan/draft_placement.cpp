// The planner makes one split for each board that may hold the draft model, with so much less memory on that board.
#include "parallel/plan/draft_placement.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <optional>

#include "io/error.hpp"

namespace jupiter {

namespace {

constexpr double kAsQuick = 1.02;  // a plan that takes at most so many times the quickest one's time is as good

struct Choice {
  Planner::Candidate candidate;
  std::size_t board = 0;
  double drafts = 0;  // passes of the draft model while a token is elsewhere; none is in time where it is below 1
};

// Passes for which stage `s` has time while a plainly decoded token is on the other stages:
//   (decode step - decode_s of the stage) / (relative * (all layers + output head) on this board).
// head_s: seconds of one row through the output head there.
double drafts_meanwhile(const std::vector<StageCost>& stages, std::size_t s, double head_s, const PlanRequest& r,
                        const DraftNeeds& needs) {
  const std::int64_t context = r.prompt_tokens + r.new_tokens / 2;
  double layers = 0;
  for (const StageCost& stage : stages) layers += static_cast<double>(stage.layers);
  const double pass = needs.relative * (layers * stages[s].board->layer.at(1, context) + head_s);
  return (decode_step_s(stages, context) - stages[s].decode_s(context)) / pass;
}

// may_end: the board may be the last stage, too.
std::optional<Choice> with_draft_on(const Planner& planner, const Profile& profile, std::size_t board, bool may_end,
                                    const PlanRequest& request, const DraftNeeds& needs) {
  const auto found = planner.best_candidate(false, {static_cast<int>(board), needs.bytes, may_end});
  if (!found) return std::nullopt;
  Choice c{*found, board, 0};
  const std::vector<int>& boards = c.candidate.split.boards;
  const auto stage =
      static_cast<std::size_t>(std::find(boards.begin(), boards.end(), static_cast<int>(board)) - boards.begin());
  if (stage + 1 < boards.size()) {
    const CostCurve& head = profile.boards[board].output_head;
    c.drafts =
        drafts_meanwhile(planner.stage_costs(c.candidate.split), stage, head.empty() ? 0 : head.at(1), request, needs);
  }
  return c;
}

}  // namespace

Plan plan_with_draft(const Profile& profile, const Manifest& manifest, const PlanRequest& request,
                     const DraftNeeds& needs) {
  const Planner planner(profile, manifest, request);
  std::vector<Choice> choices;
  double quickest = 0;
  for (std::size_t b = 0; b < profile.boards.size(); ++b) {
    for (const bool may_end : {false, true}) {
      const auto choice = with_draft_on(planner, profile, b, may_end, request, needs);
      if (!choice) continue;
      const double s = choice->candidate.request_s;
      quickest = choices.empty() ? s : std::min(quickest, s);
      choices.push_back(*choice);
    }
  }
  const Choice* best = nullptr;
  for (const Choice& c : choices) {
    if (c.candidate.request_s <= kAsQuick * quickest && (best == nullptr || c.drafts > best->drafts)) best = &c;
  }
  if (best != nullptr) {
    Plan plan = planner.plan_of(best->candidate);
    const BoardProfile& b = profile.boards[best->board];
    plan.draft = {needs.model_hash, b.host, b.slot, needs.bytes};
    return plan;
  }
  std::string budgets;
  for (const BoardProfile& b : profile.boards) {
    budgets += fmt::format("{}{}:{} has {} MiB", budgets.empty() ? "" : ", ", b.host, b.slot, b.memory_bytes >> 20);
  }
  throw MemoryError(
      fmt::format("no plan fits: expected room for {} MiB of draft model beside layers on one board, "
                  "found {}; use a smaller -c, or plan without it",
                  needs.bytes >> 20, budgets));
}

}  // namespace jupiter

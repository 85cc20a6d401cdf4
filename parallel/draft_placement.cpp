// One plan for each board that may hold the draft model: the planner sees that board's budget without it.
#include "parallel/draft_placement.hpp"

#include <fmt/format.h>

#include <optional>

namespace jupiter {

namespace {

constexpr double kAsQuick = 1.02;  // plans this much slower than the quickest are as good

struct Choice {
  Plan plan;
  double request_s = 0;
  double drafts = 0;  // passes of the draft model while a token is elsewhere; below 1: none in time
};

// Passes that stage `s` has time for while a plainly decoded token is on the others. head_s: of a row there.
double drafts_meanwhile(const std::vector<StageCost>& stages, std::size_t s, double head_s, const PlanRequest& r,
                        const DraftNeeds& needs) {
  const std::int64_t context = r.prompt_tokens + r.new_tokens / 2;
  double layers = 0;
  for (const StageCost& stage : stages) layers += static_cast<double>(stage.layers);
  const double pass = needs.relative * (layers * stages[s].board->layer.at(1, context) + head_s);
  return (decode_step_s(stages, context) - stages[s].decode_s(context)) / pass;
}

// may_end: the board may be the last stage, too.
std::optional<Choice> with_draft_on(Profile profile, std::size_t board, bool may_end, const Manifest& manifest,
                                    PlanRequest request, const DraftNeeds& needs) {
  BoardProfile& b = profile.boards[board];
  if (b.memory_bytes < needs.bytes) return std::nullopt;
  b.memory_bytes -= needs.bytes;
  const CostCurve head = b.head;
  if (!may_end) b.head = {};  // as on a board that does not have the head's shard
  request.must_hold = static_cast<int>(board);
  const Planner planner(profile, manifest, request);
  try {
    Choice c{planner.best(), 0, 0};
    c.plan.draft = {needs.model_hash, b.host, b.slot, needs.bytes};
    c.request_s = planner.request_s(c.plan);
    const std::size_t stage = c.plan.draft_stage();
    if (stage + 1 < c.plan.stages.size()) {
      c.drafts = drafts_meanwhile(planner.costs_of(c.plan), stage, head.empty() ? 0 : head.at(1), request, needs);
    }
    return c;
  } catch (const MemoryError&) {
    return std::nullopt;
  }
}

}  // namespace

Plan plan_with_draft(const Profile& profile, const Manifest& manifest, const PlanRequest& request,
                     const DraftNeeds& needs) {
  std::vector<Choice> choices;
  double quickest = 0;
  for (std::size_t b = 0; b < profile.boards.size(); ++b) {
    for (const bool may_end : {false, true}) {
      auto choice = with_draft_on(profile, b, may_end, manifest, request, needs);
      if (!choice) continue;
      quickest = choices.empty() ? choice->request_s : std::min(quickest, choice->request_s);
      choices.push_back(std::move(*choice));
    }
  }
  const Choice* best = nullptr;
  for (const Choice& c : choices) {
    if (c.request_s <= kAsQuick * quickest && (best == nullptr || c.drafts > best->drafts)) best = &c;
  }
  if (best != nullptr) return best->plan;
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

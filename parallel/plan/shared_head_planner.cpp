// Pipelines that share the output head (parallel/pipeline/shared_head.hpp): with which boards, and with which layers.
#include <algorithm>
#include <numeric>

#include "parallel/plan/planner.hpp"
#include "parallel/plan/planner_internal.hpp"

namespace jupiter {

namespace {
constexpr std::size_t kAllCounts = 12;  // up to so many boards every number of stages is tried, else every fourth
constexpr double kWorthIt = 0.98;       // of the cost without sharing: a plan that depends on more must bring something
}  // namespace

// The boards that compute a layer quickest, 2, 3, ... of them, with shares by how quickly they compute the head.
std::vector<Planner::HeadSharing> Planner::head_sharings() const {
  std::vector<int> boards;
  for (int b = 0; b < static_cast<int>(profile_.boards.size()); ++b) {
    if (!profile_.boards[b].output_head.empty()) boards.push_back(b);
  }
  std::stable_sort(boards.begin(), boards.end(),
                   [&](int a, int b) { return profile_.boards[a].layer.at(1, 0) < profile_.boards[b].layer.at(1, 0); });
  const std::size_t step = boards.size() > kAllCounts ? 4 : 1;
  std::vector<HeadSharing> all;
  for (std::size_t n = std::max<std::size_t>(2, step); n <= boards.size(); n += step) {
    HeadSharing s{{boards.begin(), boards.begin() + static_cast<std::ptrdiff_t>(n)}, {}};
    for (const int b : s.boards) s.shares.push_back(1 / profile_.boards[b].output_head.at(1));
    const double sum = std::accumulate(s.shares.begin(), s.shares.end(), 0.0);
    for (double& share : s.shares) share /= sum;
    all.push_back(std::move(s));
  }
  return all;
}

void Planner::share_head(StageCost& stage, int board, const HeadSharing& sharing) const {
  for (std::size_t i = 0; i < sharing.boards.size(); ++i) {
    const int other = sharing.boards[i];
    if (!stage.output_head && other == board) stage.head_share = sharing.shares[i];
    if (!stage.output_head || other == board) continue;
    stage.head_helpers.push_back({&profile_.boards[other], sharing.shares[i], profile_.hop_into(other)});
  }
}

std::optional<Plan> Planner::best_with_shared_head(const Candidate& alone, double alone_cost) const {
  const bool refused = !request_.share_output_head || request_.workload.every_row ||
                       request_.objective == Objective::prefill || manifest_.config.vocab_size < kPanelRows;
  if (refused) return std::nullopt;
  const ModelConfig& c = manifest_.config;
  const std::int64_t chunk =
      alone.even_chunk > 0 ? alone.even_chunk : std::min(request_.prompt_tokens, request_.workload.chunk_tokens);
  // At most what a stage takes that helps: its share of the head's rows is counted as a whole head.
  const std::uint64_t head_bytes = mapped_bytes(manifest_, {0, 0, false, true}) +
                                   static_cast<std::uint64_t>(kMaxDrawnRows * (c.vocab_size + c.dim)) * sizeof(float);
  std::optional<Split> split;
  std::optional<HeadSharing> sharing;
  double best = 0;
  for (const HeadSharing& s : head_sharings()) {
    for (const std::int64_t width : width_candidates()) {
      std::vector<BoardCost> costs;
      for (const int b : s.boards) {
        const std::uint64_t memory = profile_.boards[b].memory_bytes;
        costs.push_back(board_cost(b, chunk, width, memory - std::min(memory, head_bytes), &s));
        costs.back().needed = true;
        costs.back().roles[index_of(Role::alone)].most_layers = 0;
      }
      auto found = search_split(costs, c.n_layers, weight_of_max(request_, chunk));
      if (!found || (split && found->cost >= best)) continue;
      best = found->cost;
      for (int& b : found->split.boards) b = s.boards[b];
      split = std::move(found->split);
      sharing = s;
    }
  }
  if (!split) return std::nullopt;
  std::vector<StageCost> stages = stage_costs(*split);
  for (std::size_t i = 0; i < stages.size(); ++i) share_head(stages[i], split->boards[i], *sharing);
  Plan plan = plan_of(stages, alone.even_chunk);
  if (cost(plan) >= kWorthIt * alone_cost) return std::nullopt;
  return plan;
}

}  // namespace jupiter

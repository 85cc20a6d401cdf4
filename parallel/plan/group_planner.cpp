// Plans with tensor groups: what their stages cost, and which layouts are tried.
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "io/error.hpp"
#include "parallel/plan/planner.hpp"

namespace jupiter {

namespace {

// Bytes of a matrix's rows in a layer, as a share of all its matrices.
double share_of(const Manifest& manifest, std::string_view matrix) {
  double all = 0, one = 0;
  for (const DatasetInfo& d : manifest.file(layer_file_name(0)).datasets) {
    if (d.kind != DatasetInfo::Kind::matrix) continue;
    all += static_cast<double>(d.bytes);
    if (d.name == matrix) one += static_cast<double>(d.bytes);
  }
  return all > 0 ? one / all : 0;
}

constexpr double kNever = std::numeric_limits<double>::infinity();

// Layers a second of one row.
double speed_of(const BoardProfile& board) {
  return 1 / board.layer.at(1, 0);
}

// Whole layers in proportion to speed, at least one each.
std::vector<std::int64_t> layers_by_speed(std::int64_t layers, const std::vector<double>& speed) {
  const double total = std::accumulate(speed.begin(), speed.end(), 0.0);
  std::vector<std::int64_t> result;
  double sum = 0;
  std::int64_t done = 0;
  for (std::size_t s = 0; s < speed.size(); ++s) {
    sum += speed[s];
    const auto left = static_cast<std::int64_t>(speed.size() - s) - 1;
    const auto end = std::llround(sum / total * static_cast<double>(layers));
    const std::int64_t last = std::clamp<std::int64_t>(end, done + 1, layers - left);
    result.push_back(last - done);
    done = last;
  }
  return result;
}

}  // namespace

// Bytes that a board receives of one row in all gathers of a layer: attended heads and hidden columns as 8 bits with a
// scale for 32, the middle residual as f32, the last one in its own precision.
GroupCost Planner::group_cost(const std::vector<int>& boards, const GroupSplit& split) const {
  const ModelConfig& c = manifest_.config;
  GroupCost g;
  double speed = 0;
  for (const int b : boards) speed += speed_of(profile_.boards[b]);
  for (const int b : boards) g.members.push_back({&profile_.boards[b], speed_of(profile_.boards[b]) / speed});
  g.gather = profile_.gather_of(static_cast<int>(boards.size())).value_or(GatherCost{});
  g.repeat_attention_out = split.repeat_attention_out;
  g.repeat_feed_forward_out = split.repeat_feed_forward_out;
  g.gathers = 4 - (split.repeat_attention_out ? 1 : 0) - (split.repeat_feed_forward_out ? 1 : 0);
  const double others = static_cast<double>(boards.size() - 1) / static_cast<double>(boards.size());
  constexpr double kGroupBytes = (kGroupCols + sizeof(float)) / static_cast<double>(kGroupCols);
  g.row_bytes = static_cast<double>(c.q_dim() + c.hidden_dim + c.n_experts_used * c.expert_hidden_dim) * kGroupBytes;
  if (split.repeat_attention_out) {
    g.repeated += share_of(manifest_, "wo");
  } else {
    g.row_bytes += static_cast<double>(c.dim) * sizeof(float);
  }
  if (split.repeat_feed_forward_out) {
    g.repeated += share_of(manifest_, "w_down") + share_of(manifest_, "w_down_experts");
  } else {
    g.row_bytes += static_cast<double>(c.dim * bytes_of(c.residual));
  }
  g.row_bytes *= others;
  return g;
}

std::vector<StageCost> Planner::costs_of_groups(const GroupSplit& split) const {
  Split leaders{{}, split.layers};
  for (const std::vector<int>& boards : split.boards) leaders.boards.push_back(boards.front());
  std::vector<StageCost> stages = stage_costs(leaders);
  for (std::size_t s = 0; s < stages.size(); ++s) {
    if (split.boards[s].size() > 1) stages[s].group = group_cost(split.boards[s], split);
  }
  return stages;
}

Plan Planner::plan_of(const GroupSplit& split) const {
  return plan_of(costs_of_groups(split), 0);
}

double Planner::cost(const Plan& plan) const {
  switch (request_.objective) {
    case Objective::prefill:
      return plan.predicted_ttft_s;
    case Objective::throughput:
      return interval_s(plan);
    default:
      return request_s(plan);
  }
}

// What the objective would be with prompts in even chunks, which is quicker to tell than the best chunks.
double Planner::even_cost(const GroupSplit& split) const {
  const std::vector<StageCost> costs = costs_of_groups(split);
  double ttft = kNever;
  for (const std::int64_t chunk : chunk_candidates()) {
    ttft = std::min(ttft, prefill_s(costs, even_pieces(request_.prompt_tokens, chunk), request_.workload.every_row));
  }
  if (request_.objective == Objective::prefill) return ttft;
  if (request_.objective == Objective::throughput) {
    double slowest = 0;
    for (const StageCost& c : costs) {
      slowest = std::max(slowest, busy_s(c, even_pieces(request_.prompt_tokens, request_.workload.chunk_tokens)));
    }
    return slowest;
  }
  const std::int64_t context = request_.prompt_tokens + request_.new_tokens / 2;
  return ttft + static_cast<double>(request_.new_tokens) * token_s(costs, context, drafts());
}

// Groups of the fastest boards in the order of their speed, as many in each.
Planner::GroupSplit Planner::even_groups(std::span<const int> boards, std::int64_t stages) const {
  const std::int64_t n = std::ssize(boards);
  GroupSplit split;
  std::vector<double> speed;
  for (std::int64_t s = 0; s < stages; ++s) {
    split.boards.emplace_back(boards.begin() + n * s / stages, boards.begin() + n * (s + 1) / stages);
    double sum = 0;
    for (const int b : split.boards.back()) sum += speed_of(profile_.boards[b]);
    speed.push_back(sum);
  }
  split.layers = layers_by_speed(manifest_.config.n_layers, speed);
  return split;
}

// None where the boards have no room, or the model cannot be divided so.
std::optional<Plan> Planner::plan_that_fits(const GroupSplit& split) const {
  try {
    Plan plan = plan_of(split);
    for (std::size_t s = 0; s < plan.stages.size(); ++s) {
      const std::vector<StageMemory> memory = memory_of(plan, s);
      for (std::size_t b = 0; b < memory.size(); ++b) {
        if (memory[b].total() > profile_.boards[split.boards[s][b]].memory_bytes) return std::nullopt;
      }
    }
    return plan;
  } catch (const UsageError&) {
    return std::nullopt;  // more boards than the model has rows to share
  }
}

std::optional<Plan> Planner::best_of_groups(PlanKind kind) const {
  if (profile_.gathers.empty()) return std::nullopt;
  std::vector<int> boards(profile_.boards.size());
  std::iota(boards.begin(), boards.end(), 0);
  // A group must look tokens up and compute logits with every board.
  std::erase_if(boards,
                [&](int b) { return profile_.boards[b].embedding.empty() || profile_.boards[b].output_head.empty(); });
  std::stable_sort(boards.begin(), boards.end(),
                   [&](int a, int b) { return speed_of(profile_.boards[a]) > speed_of(profile_.boards[b]); });
  std::vector<std::pair<double, GroupSplit>> tried;
  for (std::size_t n = 2; n <= boards.size(); ++n) {
    for (std::int64_t stages = 1; stages <= static_cast<std::int64_t>(n) / 2; ++stages) {
      if ((kind == PlanKind::tensor && stages > 1) || (kind == PlanKind::groups && stages == 1)) continue;
      if (stages > manifest_.config.n_layers) continue;
      GroupSplit split = even_groups(std::span(boards).first(n), stages);
      for (const bool attention : {false, true}) {
        for (const bool feed_forward : {false, true}) {
          split.repeat_attention_out = attention;
          split.repeat_feed_forward_out = feed_forward;
          tried.emplace_back(even_cost(split), split);
        }
      }
    }
  }
  std::stable_sort(tried.begin(), tried.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  for (const auto& [cost, split] : tried) {
    if (auto plan = plan_that_fits(split)) return plan;
  }
  return std::nullopt;
}

}  // namespace jupiter

// What boards cost in each place of a split, and plans from splits.
#include "parallel/plan/planner.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <limits>
#include <numeric>
#include <set>

#include "io/enum_names.hpp"
#include "io/error.hpp"
#include "io/hash.hpp"
#include "io/tokenizer/tokenizer_data.hpp"
#include "parallel/plan/planner_internal.hpp"

namespace jupiter {

namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr std::int64_t kGroupRows = 4;  // rows of a decode frame while many requests are being answered
constexpr double kRequestsOfARun = 16;  // requests for which the pipeline fills once
constexpr std::array<std::string_view, 3> kObjectives = {"latency", "prefill", "throughput"};
constexpr std::array<std::string_view, 4> kKinds = {"any", "pipeline", "tensor", "groups"};

}  // namespace

std::string_view name(Objective o) {
  return kObjectives[index_of(o)];
}

std::string_view name(PlanKind kind) {
  return kKinds[index_of(kind)];
}

std::optional<Objective> objective_from_name(std::string_view text) {
  return enum_from_name<Objective>(kObjectives, text);
}

// Slots of an answer count even where a prompt is one chunk; then that chunk counts a little too much.
double weight_of_max(const PlanRequest& r, std::int64_t chunk) {
  if (r.objective == Objective::throughput) return 1;
  const std::int64_t chunks = (r.prompt_tokens + chunk - 1) / chunk;
  const bool slots = r.objective == Objective::latency && r.workload.drafts && r.hit_rate > 0;
  return static_cast<double>(std::max<std::int64_t>(chunks - 1, slots ? 1 : 0));
}

Planner::Planner(const Profile& profile, const Manifest& manifest, const PlanRequest& request)
    : profile_(profile), manifest_(manifest), request_(request) {
  if (profile.model_hash != hex(manifest.hash)) {
    throw FormatError("profile", "model_hash", hex(manifest.hash) + " (this model)", profile.model_hash);
  }
  Workload& w = request_.workload;
  if (w.context_tokens == 0) w.context_tokens = manifest.config.max_seq_len;
  w.chunk_tokens = std::min(w.chunk_tokens, w.context_tokens);
  const std::int64_t n = manifest.config.n_layers;
  std::vector<std::uint64_t> sums{0};
  for (std::int64_t i = 0; i < n; ++i) sums.push_back(sums.back() + mapped_bytes(manifest, {i, i + 1, false, false}));
  for (std::int64_t k = 0; k <= n; ++k) {
    std::uint64_t most = 0;
    for (std::int64_t i = 0; i + k <= n; ++i) most = std::max(most, sums[i + k] - sums[i]);
    heaviest_.push_back(most);
  }
}

int Planner::longest_pipeline() const {
  return static_cast<int>(std::min<std::int64_t>(std::ssize(profile_.boards), manifest_.config.n_layers));
}

std::uint64_t Planner::memory_bytes(int board, std::int64_t layers, bool first, bool last) const {
  // How many stages the plan will have, and which layers these will be, is not known yet.
  const int stages = first && last ? 1 : longest_pipeline();
  const StageSetting setting{stages, profile_.boards[board].threads};
  return heaviest_[layers] + mapped_bytes(manifest_, {0, 0, first, last}) +
         own_memory(manifest_, {0, layers, first, last}, request_.workload, setting).total();
}

// Finds the number by bisection, because memory grows with the number of layers.
std::int64_t Planner::most_layers(int board, Role role, std::uint64_t budget) const {
  const bool first = role == Role::first || role == Role::alone, last = role == Role::last || role == Role::alone;
  const BoardProfile& b = profile_.boards[board];
  if ((first && b.embedding.empty()) || (last && b.output_head.empty())) return 0;
  std::int64_t low = 0, high = manifest_.config.n_layers;
  while (low < high) {
    const std::int64_t k = (low + high + 1) / 2;
    if (memory_bytes(board, k, first, last) <= budget) {
      low = k;
    } else {
      high = k - 1;
    }
  }
  return low;
}

bool Planner::fits(int board, std::int64_t layers, bool first, bool last) const {
  const std::uint64_t budget = profile_.boards[board].memory_bytes;
  return layers <= most_layers(board, role_of(first, last), budget);
}

std::vector<StageMemory> Planner::memory_of(const Plan& plan, std::size_t stage) const {
  Workload w = request_.workload;
  w.chunk_tokens = plan.max_chunk();
  const std::vector<ModelPart> parts = plan.parts(stage, manifest_.config);
  const StagePlan& s = plan.stages[stage];
  std::vector<StageMemory> all;
  for (std::size_t b = 0; b < parts.size(); ++b) {
    const int board = b == 0 ? board_of(s.host, s.slot) : board_of(s.others[b - 1].host, s.others[b - 1].slot);
    const std::uint64_t draft = plan.draft && b == 0 && plan.draft_stage() == stage ? plan.draft->bytes : 0;
    const StageSetting setting{static_cast<int>(plan.stages.size()), profile_.boards[board].threads,
                               static_cast<int>(parts.size()), static_cast<int>(b)};
    all.push_back(stage_memory(manifest_, parts[b], w, setting, draft));
  }
  return all;
}

std::vector<StageMemory> Planner::memory_of(const Plan& plan) const {
  std::vector<StageMemory> all;
  for (std::size_t s = 0; s < plan.stages.size(); ++s) all.push_back(memory_of(plan, s).front());
  return all;
}

std::vector<StageCost> Planner::stage_costs(const Split& split) const {
  std::vector<StageCost> stages;
  for (std::size_t s = 0; s < split.boards.size(); ++s) {
    StageCost c;
    c.board = &profile_.boards[split.boards[s]];
    c.layers = split.layers[s];
    c.embedding = s == 0;
    c.output_head = s + 1 == split.boards.size();
    c.scores = request_.workload.every_row;
    c.hop = profile_.hop_into(split.boards[s]);
    c.row_bytes = static_cast<double>(wire_row_bytes(request_.workload.wire, manifest_.config)) + sizeof(TokenId);
    stages.push_back(c);
  }
  return stages;
}

int Planner::board_of(const std::string& host, int slot) const {
  const auto it = std::find_if(profile_.boards.begin(), profile_.boards.end(),
                               [&](const BoardProfile& b) { return b.host == host && b.slot == slot; });
  if (it == profile_.boards.end()) {
    throw FormatError("profile", "boards", fmt::format("{}:{} (of the plan)", host, slot), "none");
  }
  return static_cast<int>(it - profile_.boards.begin());
}

std::vector<StageCost> Planner::costs_of(const Plan& plan) const {
  std::vector<StageCost> costs;
  for (std::size_t i = 0; i < plan.stages.size(); ++i) {
    const StagePlan& s = plan.stages[i];
    GroupSplit split{{{board_of(s.host, s.slot)}},
                     {s.last_layer - s.first_layer},
                     s.repeat_attention_out,
                     s.repeat_feed_forward_out};
    for (const BoardPlan& b : s.others) split.boards[0].push_back(board_of(b.host, b.slot));
    costs.push_back(costs_of_groups(split)[0]);
    if (s.boards() > 1) {
      const std::vector<double> shares = s.split().shares;
      for (std::size_t b = 0; b < shares.size(); ++b) costs.back().group->members[b].share = shares[b];
    }
    costs.back().embedding = i == 0;
    costs.back().output_head = i + 1 == plan.stages.size();
  }
  for (const HeadPlan& h : plan.head_helpers) {
    const int board = board_of(h.host, h.slot);
    costs.back().head_helpers.push_back({&profile_.boards[board], h.share, profile_.hop_into(board)});
    costs[plan.stage_of(h.host, h.slot)].head_share = h.share;
  }
  return costs;
}

DraftForecast Planner::drafts() const {
  return {request_.workload.drafts ? request_.hit_rate : 0, request_.workload.draft_max};
}

Planner::Piece Planner::piece(int board, std::int64_t layers, Role role, std::int64_t chunk, std::int64_t width,
                              const HeadSharing* sharing) const {
  Piece p;
  const bool first = role == Role::first || role == Role::alone;
  StageCost c = stage_costs({{board}, {layers}})[0];
  c.embedding = first;
  c.output_head = role == Role::last || role == Role::alone;
  if (sharing != nullptr) share_head(c, board, *sharing);
  const std::int64_t n_chunks = (request_.prompt_tokens + chunk - 1) / chunk;
  for (std::int64_t i = 0; i < n_chunks; ++i) {
    const std::int64_t head_rows = request_.workload.every_row ? chunk : i + 1 == n_chunks ? 1 : 0;
    p.max += c.compute_s(chunk, i * chunk, head_rows) / static_cast<double>(n_chunks);
  }
  const double working = p.max;
  p.max += c.receive_s(chunk) + c.send_s(chunk);
  if (request_.objective == Objective::throughput) {
    p.max = busy_s(c, even_pieces(request_.prompt_tokens, chunk));
    p.sum = working / kRequestsOfARun;
    return p;
  }
  p.sum = working + (first ? 0 : c.arrive_s(chunk));
  if (request_.objective != Objective::latency) return p;
  const std::int64_t context = request_.prompt_tokens + request_.new_tokens / 2;
  const double lap = c.decode_s(context, width) + (first ? c.hop.latency_s : c.arrive_s(width));
  const SegmentRate rate = segments_per_token(drafts().hit_rate, width);
  const auto tokens = static_cast<double>(request_.new_tokens);
  p.sum += tokens * rate.laps * lap;
  if (rate.slots > 0) p.max += tokens * rate.slots * slot_s(c, context, width) / weight_of_max(request_, chunk);
  return p;
}

// Seconds of a stage's work for one of many requests: all chunks of its prompt, and its answer in groups of kGroupRows
// rows.
double Planner::busy_s(const StageCost& c, std::span<const std::int64_t> chunks) const {
  double s = 0;
  std::int64_t context = 0;
  for (std::size_t i = 0; i < chunks.size(); ++i) {
    const std::int64_t head_rows = request_.workload.every_row ? chunks[i] : i + 1 == chunks.size() ? 1 : 0;
    s += c.compute_s(chunks[i], context, head_rows) + c.receive_s(chunks[i]) + c.send_s(chunks[i]);
    context += chunks[i];
  }
  const double group = c.compute_s(kGroupRows, context + request_.new_tokens / 2, kGroupRows) + c.help_s(kGroupRows) +
                       c.receive_s(kGroupRows) + c.send_s(kGroupRows);
  return s + group * static_cast<double>(request_.new_tokens) / static_cast<double>(kGroupRows);
}

double Planner::interval_s(const Plan& plan) const {
  double slowest = 0;
  for (const StageCost& c : costs_of(plan)) {
    slowest = std::max(slowest, busy_s(c, chunks_for(plan, request_.prompt_tokens)));
  }
  return slowest;
}

// Every term of a piece is either constant or proportional to the number of layers, so two points tell the whole line.
BoardCost Planner::board_cost(int board, std::int64_t chunk, std::int64_t width, std::uint64_t budget,
                              const HeadSharing* sharing) const {
  BoardCost cost;
  for (std::size_t r = 0; r < kRoles; ++r) {
    const auto role = static_cast<Role>(r);
    const Piece none = piece(board, 0, role, chunk, width, sharing), one = piece(board, 1, role, chunk, width, sharing);
    cost.roles[r].sum = {none.sum, one.sum - none.sum};
    cost.roles[r].max = {none.max, one.max - none.max};
    cost.roles[r].most_layers = most_layers(board, role, budget);
  }
  return cost;
}

// By board of the profile, with memory as without a draft model.
const std::vector<BoardCost>& Planner::costs(std::int64_t chunk, std::int64_t width) const {
  std::vector<BoardCost>& boards = costs_[{chunk, width}];
  if (!boards.empty()) return boards;
  for (int b = 0; b < static_cast<int>(profile_.boards.size()); ++b) {
    boards.push_back(board_cost(b, chunk, width, profile_.boards[b].memory_bytes));
  }
  return boards;
}

std::optional<Split> Planner::best_split(std::int64_t chunk, bool use_all, const DraftSeat& seat,
                                         std::int64_t width) const {
  std::vector<BoardCost> boards = costs(chunk, width);
  for (BoardCost& b : boards) b.needed = use_all;
  if (seat.board >= 0) {
    const std::uint64_t budget = profile_.boards[seat.board].memory_bytes;
    if (budget < seat.bytes) return std::nullopt;
    BoardCost& b = boards[seat.board];
    b.needed = true;
    for (const Role role : {Role::between, Role::last, Role::first, Role::alone}) {
      const bool refused = !seat.may_end && (role == Role::last || role == Role::alone);
      b.roles[index_of(role)].most_layers = refused ? 0 : most_layers(seat.board, role, budget - seat.bytes);
    }
  }
  auto found = search_split(boards, manifest_.config.n_layers, weight_of_max(request_, chunk));
  if (!found) return std::nullopt;
  return std::move(found->split);
}

double Planner::split_cost(const Split& split, std::int64_t chunk, std::int64_t width) const {
  double sum = 0, slowest = 0;
  for (std::size_t s = 0; s < split.boards.size(); ++s) {
    const bool first = s == 0, last = s + 1 == split.boards.size();
    if (!fits(split.boards[s], split.layers[s], first, last)) return kInfinity;
    const Piece p = piece(split.boards[s], split.layers[s], role_of(first, last), chunk, width);
    sum += p.sum;
    slowest = std::max(slowest, p.max);
  }
  return sum + weight_of_max(request_, chunk) * slowest;
}

std::vector<std::int64_t> Planner::chunk_candidates() const {
  const std::int64_t most = std::min(request_.prompt_tokens, request_.workload.chunk_tokens);
  std::vector<std::int64_t> candidates;
  for (std::int64_t m = 16; m < most; m *= 2) candidates.push_back(m);
  candidates.push_back(most);
  return candidates;
}

// Widths of segments for which splits are searched; a split that is found is judged with its own best width.
std::vector<std::int64_t> Planner::width_candidates() const {
  if (request_.objective != Objective::latency || drafts().hit_rate <= 0) return {1};
  return {2, 4, 8};
}

std::vector<std::int64_t> Planner::chunk_lengths(std::span<const StageCost> costs, std::int64_t tokens,
                                                 std::int64_t even_chunk) const {
  if (even_chunk > 0) return even_pieces(tokens, even_chunk);
  return best_chunks(costs, tokens, request_.workload.chunk_tokens, request_.workload.every_row);
}

Planner::Candidate Planner::candidate(const Split& split, std::int64_t even_chunk) const {
  const auto [at, fresh] = candidates_.try_emplace({split.boards, split.layers, even_chunk});
  Candidate& c = at->second;
  if (!fresh) return c;
  const std::vector<StageCost> costs = stage_costs(split);
  c.split = split;
  c.even_chunk = even_chunk;
  const auto chunks = chunk_lengths(costs, request_.prompt_tokens, even_chunk);
  c.ttft_s = prefill_s(costs, chunks, request_.workload.every_row);
  c.token_s = token_s(costs, request_.prompt_tokens + request_.new_tokens / 2, drafts());
  c.request_s = c.ttft_s + static_cast<double>(request_.new_tokens) * c.token_s;
  return c;
}

Plan Planner::plan_of(const Split& split) const {
  return plan_of(candidate(split, 0));
}

Plan Planner::plan_of(const Candidate& c) const {
  return plan_of(stage_costs(c.split), c.even_chunk);
}

namespace {

// A stage behind the ones before it; memory is filled in when all of them are known.
StagePlan stage_of(const StageCost& cost, std::int64_t first_layer, double work_s) {
  StagePlan s{.host = cost.board->host,
              .slot = cost.board->slot,
              .first_layer = first_layer,
              .last_layer = first_layer + cost.layers,
              .time_share = work_s};
  if (!cost.group) return s;
  s.repeat_attention_out = cost.group->repeat_attention_out;
  s.repeat_feed_forward_out = cost.group->repeat_feed_forward_out;
  for (std::size_t b = 1; b < cost.group->members.size(); ++b) {
    const GroupCost::Member& m = cost.group->members[b];
    s.others.push_back({m.board->host, m.board->slot, m.share, 0, 0});
  }
  return s;
}

}  // namespace

Plan Planner::plan_of(std::span<const StageCost> costs, std::int64_t even_chunk) const {
  Plan p;
  p.model_hash = profile_.model_hash;
  p.objective = name(request_.objective);
  p.prompt_tokens = request_.prompt_tokens;
  p.new_tokens = request_.new_tokens;
  p.context_tokens = request_.workload.context_tokens;
  const std::int64_t context = request_.prompt_tokens + request_.new_tokens / 2;
  p.predicted_decode_tokens_per_s = 1 / decode_step_s(costs, context);
  p.hit_rate = drafts().hit_rate;
  p.predicted_speculative_tokens_per_s = 1 / token_s(costs, context, drafts());
  std::set<std::int64_t> lengths{request_.prompt_tokens, p.context_tokens};
  for (std::int64_t n = 32; n < p.context_tokens; n *= 2) lengths.insert(n);
  for (const std::int64_t n : lengths) p.chunks.push_back({n, chunk_lengths(costs, n, even_chunk)});
  for (const StageCost::HeadHelper& h : costs.back().head_helpers) {
    p.head_helpers.push_back({h.board->host, h.board->slot, h.share});
  }
  p.predicted_ttft_s = prefill_s(costs, chunks_for(p, request_.prompt_tokens), request_.workload.every_row);
  p.workload = request_.workload;
  p.workload->chunk_tokens = p.max_chunk();

  double total = 0;
  std::set<std::pair<std::string, int>> used;
  for (const StageCost& cost : costs) {
    const double work = cost.compute_s(std::min(request_.workload.chunk_tokens, request_.prompt_tokens), 0, 1);
    p.stages.push_back(stage_of(cost, p.stages.empty() ? 0 : p.stages.back().last_layer, work));
    total += work;
  }
  for (std::size_t s = 0; s < p.stages.size(); ++s) {
    StagePlan& stage = p.stages[s];
    const std::vector<StageMemory> memory = memory_of(p, s);
    stage.time_share /= total;
    stage.weight_bytes = memory[0].weights;
    stage.private_bytes = memory[0].own();
    used.insert({stage.host, stage.slot});
    for (std::size_t b = 0; b < stage.others.size(); ++b) {
      stage.others[b].weight_bytes = memory[b + 1].weights;
      stage.others[b].private_bytes = memory[b + 1].own();
      used.insert({stage.others[b].host, stage.others[b].slot});
    }
  }
  for (const BoardProfile& board : profile_.boards) {
    if (!used.contains({board.host, board.slot})) p.left_out.push_back(fmt::format("{}:{}", board.host, board.slot));
  }
  return p;
}

double Planner::request_s(const Plan& plan) const {
  return plan.predicted_ttft_s + static_cast<double>(request_.new_tokens) / plan.predicted_speculative_tokens_per_s;
}

std::optional<Planner::Candidate> Planner::best_candidate(bool use_all, const DraftSeat& seat) const {
  std::optional<Candidate> best;
  double best_cost = kInfinity;
  for (const std::int64_t chunk : chunk_candidates()) {
    for (const std::int64_t width : width_candidates()) {
      const auto split = best_split(chunk, use_all, seat, width);
      if (!split) continue;
      const bool steady = request_.objective == Objective::throughput;
      const Candidate c = candidate(*split, steady ? chunk : 0);
      const double cost = request_.objective == Objective::latency   ? c.request_s
                          : request_.objective == Objective::prefill ? c.ttft_s
                                                                     : split_cost(*split, chunk);
      if (cost >= best_cost) continue;
      best_cost = cost;
      best = c;
    }
  }
  return best;
}

Plan Planner::best() const {
  std::optional<Plan> best;
  const auto take = [&](std::optional<Plan> plan) {
    if (plan && (!best || cost(*plan) < cost(*best))) best = std::move(plan);
  };
  const PlanKind kind = request_.kind;
  if (kind == PlanKind::any || kind == PlanKind::pipeline) {
    if (const auto candidate = best_candidate(false)) {
      Plan alone = plan_of(*candidate);
      take(best_with_shared_head(*candidate, cost(alone)));
      take(std::move(alone));
    }
  }
  if (kind != PlanKind::pipeline) take(best_of_groups(kind));
  if (!best) nothing_fits();
  return *best;
}

void Planner::nothing_fits() const {
  std::string budgets;
  std::uint64_t whole = 0;
  for (int b = 0; b < static_cast<int>(profile_.boards.size()); ++b) {
    const BoardProfile& board = profile_.boards[b];
    whole = std::max(whole, memory_bytes(b, manifest_.config.n_layers, true, true));
    const bool one = fits(b, 1, false, false);
    budgets += fmt::format("{}{}:{} has {} MiB{}", budgets.empty() ? "" : ", ", board.host, board.slot,
                           board.memory_bytes >> 20, one ? "" : " (not even one layer fits)");
  }
  throw MemoryError(
      fmt::format("no plan fits: expected room for {} MiB in all (weights, cache and work space at -c {}, "
                  "on one board), found {}; use a smaller -c, --cache-tokens, --parallel or --quant, or more boards",
                  whole >> 20, request_.workload.context_tokens, budgets));
}

std::optional<Split> Planner::equal_split() const {
  Split s;
  const auto n = std::ssize(profile_.boards);
  if (n > manifest_.config.n_layers) return std::nullopt;
  for (std::int64_t b = 0; b < n; ++b) {
    const Slice slice = slice_of(manifest_.config.n_layers, b, n);
    s.boards.push_back(static_cast<int>(b));
    s.layers.push_back(slice.last - slice.first);
  }
  return s;
}

std::optional<Split> Planner::proportional_split() const {
  Split s;
  std::vector<double> speed;
  for (const BoardProfile& b : profile_.boards) speed.push_back(1 / b.layer.at(64, 0));
  const double total = std::accumulate(speed.begin(), speed.end(), 0.0);
  double sum = 0;
  std::int64_t done = 0;
  for (std::size_t b = 0; b < speed.size(); ++b) {
    sum += speed[b];
    const auto end = static_cast<std::int64_t>(sum / total * static_cast<double>(manifest_.config.n_layers) + 0.5);
    if (end <= done) return std::nullopt;
    s.boards.push_back(static_cast<int>(b));
    s.layers.push_back(end - done);
    done = end;
  }
  return s;
}

std::vector<Planner::Alternative> Planner::alternatives() const {
  std::vector<Alternative> all;
  const auto add = [&](const std::string& what, const std::optional<Split>& split) {
    Alternative a{what, std::nullopt, 0};
    bool ok = split.has_value();
    for (std::size_t s = 0; ok && s < split->boards.size(); ++s) {
      ok = fits(split->boards[s], split->layers[s], s == 0, s + 1 == split->boards.size());
    }
    if (ok) {
      a.plan = plan_of(*split);
      a.request_s = request_s(*a.plan);
    }
    all.push_back(std::move(a));
  };
  add("equal split", equal_split());
  add("proportional to speed", proportional_split());
  Alternative every{"all boards", std::nullopt, 0};
  if (const auto candidate = best_candidate(true)) {
    every.plan = plan_of(*candidate);
    every.request_s = candidate->request_s;
  }
  all.push_back(std::move(every));
  for (std::size_t b = 0; b < profile_.boards.size(); ++b) {
    const BoardProfile& board = profile_.boards[b];
    add(fmt::format("{}:{} alone", board.host, board.slot), Split{{static_cast<int>(b)}, {manifest_.config.n_layers}});
  }
  return all;
}

}  // namespace jupiter

// Split search, memory accounting, and plans from splits.
#include "parallel/planner.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <limits>
#include <numeric>
#include <set>

#include "io/enum_names.hpp"
#include "io/hash.hpp"

namespace jupiter {

namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr std::size_t kMostSubsets = 12;           // boards whose orders are searched exhaustively
constexpr std::uint64_t kProcessBytes = 32 << 20;  // program, libraries, MPI's buffers (measured, parallel/README.md)
constexpr std::uint64_t kTokenizerFactor = 5;      // of its file: strings and look-up tables in memory, measured
constexpr std::int64_t kGroupRows = 4;             // of a decode frame while many requests are under way
constexpr double kRequestsOfARun = 16;             // the pipeline fills once for so many
constexpr std::array<std::string_view, 3> kObjectives = {"latency", "prefill", "throughput"};

std::vector<std::int64_t> even_pieces(std::int64_t n, std::int64_t most) {
  const std::int64_t pieces = (n + most - 1) / most;
  std::vector<std::int64_t> lengths;
  for (std::int64_t i = 0; i < pieces; ++i) {
    const Slice slice = slice_of(n, i, pieces);
    lengths.push_back(slice.last - slice.first);
  }
  return lengths;
}

}  // namespace

std::string_view name(Objective o) {
  return kObjectives[static_cast<std::size_t>(o)];
}

std::optional<Objective> objective_from_name(std::string_view text) {
  return enum_from_name<Objective>(kObjectives, text);
}

// What one board adds to the objective with so many layers.
struct Planner::Piece {
  double sum = 0;  // u
  double max = 0;  // v
  bool fits = false;
};

// Dynamic programming over (boards used, layers done) under a cap on the slowest stage, for every cap that matters.
class SplitSearch {
 public:
  SplitSearch(const Planner& planner, std::vector<int> boards, std::int64_t n_layers, std::int64_t chunk, double weight,
              bool use_all, int must_hold)
      : boards_(std::move(boards)), n_layers_(n_layers), weight_(weight) {
    for (const int b : boards_) needed_.push_back(use_all || b == must_hold);

    for (const int b : boards_) {
      for (std::int64_t k = 1; k <= n_layers; ++k) {
        for (const bool first : {false, true}) {
          for (const bool last : {false, true}) pieces_.push_back(planner.piece(b, k, first, last, chunk));
        }
      }
    }
  }

  // Ascending caps: f(cap) + weight * cap can only improve on the best while f(infinity) + weight * cap is below it.
  std::optional<Split> run() {
    const double unlimited = solve(kInfinity);
    if (unlimited == kInfinity) return std::nullopt;
    double best = kInfinity;
    Split split;
    for (const double cap : caps()) {
      if (unlimited + weight_ * cap >= best) break;
      const double sum = solve(cap);
      if (sum + weight_ * cap < best) {
        best = sum + weight_ * cap;
        split = trace_back();
      }
    }
    return split;
  }

 private:
  const Planner::Piece& piece(std::size_t board, std::int64_t done, std::int64_t k) const {
    const std::size_t first = done == 0, last = done + k == n_layers_;
    return pieces_[((board * static_cast<std::size_t>(n_layers_) + static_cast<std::size_t>(k - 1)) * 2 + first) * 2 +
                   last];
  }

  std::vector<double> caps() const {
    std::vector<double> values;
    for (const Planner::Piece& p : pieces_) {
      if (p.fits) values.push_back(p.max);
    }
    std::sort(values.begin(), values.end());
    values.erase(std::unique(values.begin(), values.end()), values.end());
    return values;
  }

  struct Step {
    double cost = kInfinity;
    std::size_t board = 0;
    std::int64_t layers = 0;  // that this board took; 0: the board was passed over (many boards only)
  };
  bool all_subsets() const { return boards_.size() <= kMostSubsets; }
  std::size_t states() const { return all_subsets() ? std::size_t{1} << boards_.size() : boards_.size() + 1; }
  Step& at(std::size_t state, std::int64_t done) {
    return table_[state * static_cast<std::size_t>(n_layers_ + 1) + static_cast<std::size_t>(done)];
  }

  // Of many boards none that is needed is ever passed over.
  bool holds_needed(std::size_t state) const {
    if (!all_subsets())
      return state == boards_.size() ||
             std::find(needed_.begin() + static_cast<std::ptrdiff_t>(state), needed_.end(), true) == needed_.end();
    for (std::size_t b = 0; b < needed_.size(); ++b) {
      if (needed_[b] && (state >> b & 1) == 0) return false;
    }
    return true;
  }

  void extend(std::size_t state, std::size_t next, std::size_t board, double cap) {
    for (std::int64_t done = 0; done < n_layers_; ++done) {
      const double cost = at(state, done).cost;
      if (cost == kInfinity) continue;
      for (std::int64_t k = 1; done + k <= n_layers_; ++k) {
        const Planner::Piece& p = piece(board, done, k);
        if (!p.fits || p.max > cap || cost + p.sum >= at(next, done + k).cost) continue;
        at(next, done + k) = {cost + p.sum, board, k};
      }
    }
  }

  // Least sum with no stage over the cap.
  double solve(double cap) {
    table_.assign(states() * static_cast<std::size_t>(n_layers_ + 1), Step{});
    at(0, 0).cost = 0;
    double best = kInfinity;
    for (std::size_t s = 0; s < states(); ++s) {
      if (at(s, n_layers_).cost < best && holds_needed(s)) {
        best = at(s, n_layers_).cost;
        best_state_ = s;
      }
      if (all_subsets()) {
        for (std::size_t b = 0; b < boards_.size(); ++b) {
          if ((s >> b & 1) == 0) extend(s, s | std::size_t{1} << b, b, cap);
        }
      } else if (s < boards_.size()) {
        if (!needed_[s]) pass_over(s);
        extend(s, s + 1, s, cap);
      }
    }
    return best;
  }

  void pass_over(std::size_t s) {
    for (std::int64_t done = 0; done <= n_layers_; ++done) {
      if (at(s, done).cost < at(s + 1, done).cost) at(s + 1, done) = {at(s, done).cost, s, 0};
    }
  }

  Split trace_back() {
    Split split;
    std::int64_t done = n_layers_;
    for (std::size_t s = best_state_; done > 0;) {
      const Step step = at(s, done);
      if (step.layers > 0) {
        split.boards.insert(split.boards.begin(), boards_[step.board]);
        split.layers.insert(split.layers.begin(), step.layers);
      }
      done -= step.layers;
      s = all_subsets() ? s & ~(std::size_t{1} << step.board) : s - 1;
    }
    return split;
  }

  std::vector<int> boards_;
  std::int64_t n_layers_;
  double weight_;
  std::vector<bool> needed_;  // by place in boards_: must hold layers
  std::vector<Planner::Piece> pieces_;
  std::vector<Step> table_;
  std::size_t best_state_ = 0;
};

Planner::Planner(const Profile& profile, const Manifest& manifest, const PlanRequest& request)
    : profile_(profile), manifest_(manifest), request_(request) {
  if (profile.model_hash != hex(manifest.hash)) {
    throw FormatError("profile", "model_hash", hex(manifest.hash) + " (this model)", profile.model_hash);
  }
  if (request_.context_tokens == 0) request_.context_tokens = manifest.config.max_seq_len;
  request_.max_chunk = std::min(request_.max_chunk, request_.context_tokens);
  for (std::int64_t i = 0; i < manifest.config.n_layers; ++i) {
    layer_bytes_.push_back(weight_bytes(manifest, {i, i + 1, false, false}));
  }
  for (const FileInfo& f : manifest.files) {
    if (f.name == tokenizer_file_name()) tokenizer_bytes_ = f.bytes();
  }
}

StageOptions Planner::stage_options() const {
  StageOptions o;
  o.context_tokens = request_.context_tokens;
  o.cache_tokens = (request_.context_tokens + kKvBlock - 1) / kKvBlock * kKvBlock;
  o.max_rows = request_.max_chunk;
  o.keys = request_.keys;
  o.values = request_.values;
  o.wire = request_.wire;
  return o;
}

std::uint64_t Planner::own_bytes(const ModelPart& part, const StageOptions& options) const {
  const std::uint64_t tokenizer = part.embedding ? kTokenizerFactor * tokenizer_bytes_ : 0;
  return kProcessBytes + tokenizer + static_cast<std::uint64_t>(Stage::private_bytes(manifest_.config, part, options));
}

std::uint64_t Planner::memory_bytes(std::int64_t layers, bool first, bool last) const {
  // Which layers they will be is not known yet: the heaviest run of so many.
  std::uint64_t heaviest = 0, window = 0;
  for (std::size_t i = 0; i < layer_bytes_.size(); ++i) {
    window += layer_bytes_[i];
    if (i >= static_cast<std::size_t>(layers)) window -= layer_bytes_[i - static_cast<std::size_t>(layers)];
    heaviest = std::max(heaviest, window);
  }
  return heaviest + weight_bytes(manifest_, {0, 0, first, last}) + own_bytes({0, layers, first, last}, stage_options());
}

bool Planner::fits(int board, std::int64_t layers, bool first, bool last) const {
  const BoardProfile& b = profile_.boards[static_cast<std::size_t>(board)];
  if ((first && b.embedding.empty()) || (last && b.head.empty())) return false;
  return memory_bytes(layers, first, last) <= b.memory_bytes;
}

std::vector<StageCost> Planner::stage_costs(const Split& split) const {
  std::vector<StageCost> stages;
  for (std::size_t s = 0; s < split.boards.size(); ++s) {
    StageCost c;
    c.board = &profile_.boards[static_cast<std::size_t>(split.boards[s])];
    c.layers = split.layers[s];
    c.embedding = s == 0;
    c.head = s + 1 == split.boards.size();
    c.scores = request_.every_row;
    c.hop = profile_.hop_into(split.boards[s]);
    c.row_bytes = static_cast<double>(wire_row_bytes(request_.wire, manifest_.config)) + sizeof(TokenId);
    stages.push_back(c);
  }
  return stages;
}

std::vector<StageCost> Planner::costs_of(const Plan& plan) const {
  Split split;
  for (const StagePlan& s : plan.stages) {
    const auto it = std::find_if(profile_.boards.begin(), profile_.boards.end(),
                                 [&](const BoardProfile& b) { return b.host == s.host && b.slot == s.slot; });
    if (it == profile_.boards.end()) {
      throw FormatError("profile", "boards", fmt::format("{}:{} (of the plan)", s.host, s.slot), "none");
    }
    split.boards.push_back(static_cast<int>(it - profile_.boards.begin()));
    split.layers.push_back(s.last_layer - s.first_layer);
  }
  return stage_costs(split);
}

Planner::Piece Planner::piece(int board, std::int64_t layers, bool first, bool last, std::int64_t chunk) const {
  Piece p;
  p.fits = fits(board, layers, first, last);
  StageCost c = stage_costs({{board}, {layers}})[0];
  c.embedding = first;
  c.head = last;
  const std::int64_t n_chunks = (request_.prompt_tokens + chunk - 1) / chunk;
  for (std::int64_t i = 0; i < n_chunks; ++i) {
    const std::int64_t head_rows = request_.every_row ? chunk : i + 1 == n_chunks ? 1 : 0;
    p.max += c.compute_s(chunk, i * chunk, head_rows) / static_cast<double>(n_chunks);
  }
  const double working = p.max;
  p.max += c.receive_s(chunk) + c.send_s(chunk);
  if (request_.objective == Objective::throughput) {
    p.max = busy_s(c, even_pieces(request_.prompt_tokens, chunk));
    p.sum = working / kRequestsOfARun;
    return p;
  }
  const double step =
      c.decode_s(request_.prompt_tokens + request_.new_tokens / 2) + (first ? c.hop.latency_s : c.arrive_s(1));
  p.sum = working + (first ? 0 : c.arrive_s(chunk));
  if (request_.objective == Objective::latency) p.sum += step * static_cast<double>(request_.new_tokens);
  return p;
}

namespace {
double weight_of_max(const PlanRequest& r, std::int64_t chunk) {
  if (r.objective == Objective::throughput) return 1;
  return static_cast<double>((r.prompt_tokens + chunk - 1) / chunk - 1);
}
}  // namespace

// A stage's work for one of many requests.
double Planner::busy_s(const StageCost& c, std::span<const std::int64_t> chunks) const {
  double s = 0;
  std::int64_t context = 0;
  for (std::size_t i = 0; i < chunks.size(); ++i) {
    const std::int64_t head_rows = request_.every_row ? chunks[i] : i + 1 == chunks.size() ? 1 : 0;
    s += c.compute_s(chunks[i], context, head_rows) + c.receive_s(chunks[i]) + c.send_s(chunks[i]);
    context += chunks[i];
  }
  const double group = c.compute_s(kGroupRows, context + request_.new_tokens / 2, kGroupRows) +
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

std::optional<Split> Planner::best_split(std::int64_t chunk, bool use_all) const {
  std::vector<int> boards(profile_.boards.size());
  std::iota(boards.begin(), boards.end(), 0);
  std::stable_sort(boards.begin(), boards.end(), [&](int a, int b) {
    return profile_.boards[static_cast<std::size_t>(a)].layer.at(chunk, 0) <
           profile_.boards[static_cast<std::size_t>(b)].layer.at(chunk, 0);
  });
  if (use_all && static_cast<std::int64_t>(boards.size()) > manifest_.config.n_layers) return std::nullopt;
  return SplitSearch(*this, boards, manifest_.config.n_layers, chunk, weight_of_max(request_, chunk), use_all,
                     request_.must_hold)
      .run();
}

double Planner::split_cost(const Split& split, std::int64_t chunk) const {
  double sum = 0, slowest = 0;
  for (std::size_t s = 0; s < split.boards.size(); ++s) {
    const Piece p = piece(split.boards[s], split.layers[s], s == 0, s + 1 == split.boards.size(), chunk);
    if (!p.fits) return kInfinity;
    sum += p.sum;
    slowest = std::max(slowest, p.max);
  }
  return sum + weight_of_max(request_, chunk) * slowest;
}

std::vector<std::int64_t> Planner::chunk_candidates() const {
  const std::int64_t most = std::min(request_.prompt_tokens, request_.max_chunk);
  std::vector<std::int64_t> candidates;
  for (std::int64_t m = 16; m < most; m *= 2) candidates.push_back(m);
  candidates.push_back(most);
  return candidates;
}

Plan Planner::plan_of(const Split& split) const {
  return plan_of(split, 0);
}

// even_chunk: chunks are equal pieces of at most so many tokens; 0: those of the quickest lone prompt.
Plan Planner::plan_of(const Split& split, std::int64_t even_chunk) const {
  const std::vector<StageCost> costs = stage_costs(split);
  Plan p;
  p.model_hash = profile_.model_hash;
  p.objective = name(request_.objective);
  p.prompt_tokens = request_.prompt_tokens;
  p.new_tokens = request_.new_tokens;
  p.context_tokens = request_.context_tokens;
  const auto add_chunks = [&](std::int64_t n) {
    p.chunks.push_back({n, even_chunk > 0 ? even_pieces(n, even_chunk)
                                          : best_chunks(costs, n, request_.max_chunk, request_.every_row)});
  };
  std::set<std::int64_t> lengths{request_.prompt_tokens, request_.context_tokens};
  for (std::int64_t n = 32; n < request_.context_tokens; n *= 2) lengths.insert(n);
  for (const std::int64_t n : lengths) add_chunks(n);
  const auto chunks = chunks_for(p, request_.prompt_tokens);
  p.predicted_ttft_s = prefill_s(costs, chunks, request_.every_row);
  p.predicted_decode_tokens_per_s = 1 / decode_step_s(costs, request_.prompt_tokens + request_.new_tokens / 2);

  double total = 0;
  std::vector<double> work;
  for (const StageCost& c : costs) {
    work.push_back(c.compute_s(std::min(request_.max_chunk, request_.prompt_tokens), 0, 1));
    total += work.back();
  }
  StageOptions options = stage_options();
  options.max_rows = p.max_chunk();
  std::int64_t layer = 0;
  for (std::size_t s = 0; s < split.boards.size(); ++s) {
    const BoardProfile& b = profile_.boards[static_cast<std::size_t>(split.boards[s])];
    StagePlan stage{b.host, b.slot, layer, layer + split.layers[s], 0, 0, work[s] / total};
    layer = stage.last_layer;
    p.stages.push_back(stage);
    const ModelPart part{stage.first_layer, stage.last_layer, s == 0, costs[s].head};
    p.stages[s].weight_bytes = weight_bytes(manifest_, part);
    p.stages[s].private_bytes = own_bytes(part, options);
  }
  for (std::size_t b = 0; b < profile_.boards.size(); ++b) {
    if (std::find(split.boards.begin(), split.boards.end(), static_cast<int>(b)) == split.boards.end()) {
      p.left_out.push_back(fmt::format("{}:{}", profile_.boards[b].host, profile_.boards[b].slot));
    }
  }
  return p;
}

double Planner::request_s(const Plan& plan) const {
  return plan.predicted_ttft_s + static_cast<double>(request_.new_tokens) / plan.predicted_decode_tokens_per_s;
}

std::optional<Plan> Planner::best_plan(bool use_all) const {
  std::optional<Plan> best;
  double best_cost = kInfinity;
  std::vector<Split> seen;
  for (const std::int64_t chunk : chunk_candidates()) {
    const auto split = best_split(chunk, use_all);
    if (!split) continue;
    const bool steady = request_.objective == Objective::throughput;
    const bool known = !steady && std::any_of(seen.begin(), seen.end(), [&](const Split& s) {
      return s.boards == split->boards && s.layers == split->layers;
    });
    if (known) continue;
    seen.push_back(*split);
    const Plan plan = plan_of(*split, steady ? chunk : 0);
    const double cost = request_.objective == Objective::latency   ? request_s(plan)
                        : request_.objective == Objective::prefill ? plan.predicted_ttft_s
                                                                   : split_cost(*split, chunk);
    if (cost >= best_cost) continue;
    best_cost = cost;
    best = plan;
  }
  return best;
}

Plan Planner::best() const {
  if (const auto plan = best_plan(false)) return *plan;
  const std::uint64_t whole = memory_bytes(manifest_.config.n_layers, true, true);
  std::string budgets;
  for (const BoardProfile& b : profile_.boards) {
    const bool one = b.memory_bytes >= memory_bytes(1, false, false);
    budgets += fmt::format("{}{}:{} has {} MiB{}", budgets.empty() ? "" : ", ", b.host, b.slot, b.memory_bytes >> 20,
                           one ? "" : " (not even one layer fits)");
  }
  throw MemoryError(
      fmt::format("no plan fits: expected room for {} MiB in all (weights, cache and work space at -c {}, "
                  "on one board), found {}; use a smaller -c or --quant, or more boards",
                  whole >> 20, request_.context_tokens, budgets));
}

std::optional<Split> Planner::equal_split() const {
  Split s;
  const auto n = static_cast<std::int64_t>(profile_.boards.size());
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
  Alternative every{"all boards", best_plan(true), 0};
  if (every.plan) every.request_s = request_s(*every.plan);
  all.push_back(std::move(every));
  for (std::size_t b = 0; b < profile_.boards.size(); ++b) {
    const BoardProfile& board = profile_.boards[b];
    add(fmt::format("{}:{} alone", board.host, board.slot), Split{{static_cast<int>(b)}, {manifest_.config.n_layers}});
  }
  return all;
}

}  // namespace jupiter

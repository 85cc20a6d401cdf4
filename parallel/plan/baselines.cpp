// The formulas of other systems, and plans of this one with parts left out.
#include "parallel/plan/baselines.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <functional>

#include "io/error.hpp"

namespace jupiter {

namespace {

constexpr double kSumBytes = 2;  // of an element in other systems' sums and gathers: f16

// All boards of a profile, each with its share of every layer.
class Shared {
 public:
  Shared(const Profile& profile, const Manifest& manifest, std::vector<double> shares)
      : profile_(profile), config_(manifest.config), shares_(std::move(shares)) {
    for (std::size_t b = 0; b < profile.boards.size(); ++b) {
      const LinkProfile hop = profile.hop_into(static_cast<int>(b));
      latency_s_ = std::max(latency_s_, hop.latency_s);
      byte_s_ = std::max(byte_s_, 1 / hop.bytes_per_s);
    }
  }

  // The slowest board's part of a layer.
  double layer_s(std::int64_t rows, std::int64_t context) const {
    double slowest = 0;
    for (std::size_t b = 0; b < shares_.size(); ++b) {
      slowest = std::max(slowest, profile_.boards[b].slice_s(shares_[b], rows, context));
    }
    return slowest;
  }
  // Its part of the output head for one row, and the answers' way to one board.
  double head_s() const {
    double slowest = 0;
    for (std::size_t b = 0; b < shares_.size(); ++b) {
      slowest = std::max(slowest, shares_[b] * profile_.boards[b].output_head.at(1));
    }
    return slowest + latency_s_;
  }
  // A gather in a ring: boards - 1 steps, in each of which every board passes on one board's part. A reduce-scatter
  // takes as long; an all-reduce is one after the other.
  double ring_s(double bytes) const {
    const auto boards = static_cast<double>(shares_.size());
    return (boards - 1) * (latency_s_ + bytes / boards * byte_s_);
  }
  double residual_bytes(std::int64_t rows) const {
    return kSumBytes * static_cast<double>(rows) * static_cast<double>(config_.dim);
  }
  double latency_s() const { return latency_s_; }
  double all_layers(double layer) const { return layer * static_cast<double>(config_.n_layers); }

 private:
  const Profile& profile_;
  const ModelConfig& config_;
  std::vector<double> shares_;
  double latency_s_ = 0, byte_s_ = 0;
};

class Forecasts {
 public:
  Forecasts(const Profile& profile, const Manifest& manifest, const PlanRequest& request)
      : profile_(profile), manifest_(manifest), request_(request) {
    request_.objective = Objective::latency;
    context_ = request.prompt_tokens + request.new_tokens / 2;
    n_ = request.prompt_tokens;
  }

  std::vector<BaselineForecast> all() {
    PlanRequest plain = request_;
    plain.hit_rate = 0;
    plain.kind = PlanKind::pipeline;
    add("one board", [&](BaselineForecast& f) { take(f, plain, one_board(plain)); });
    add("EdgeShard", [&](BaselineForecast& f) { take(f, plain, whole_prompt(plain)); });
    const auto boards = profile_.boards.size();
    const std::vector<double> equal(boards, 1.0 / static_cast<double>(boards));
    add("Megatron-LM", [&](BaselineForecast& f) { megatron(f, equal); });
    add("SP", [&](BaselineForecast& f) { sequence_parallel(f); });
    add("Galaxy", [&](BaselineForecast& f) { galaxy(f, by_speed()); });
    add("DeTransformer", [&](BaselineForecast& f) { detransformer(f, equal); });
    PlanRequest all = request_, pipeline = request_, plainly = request_;
    all.kind = plainly.kind = PlanKind::any;
    pipeline.kind = PlanKind::pipeline;
    plainly.hit_rate = 0;
    add("Jupiter", [&](BaselineForecast& f) { take(f, all, Planner(profile_, manifest_, all).best()); });
    add("Jupiter without chunks", [&](BaselineForecast& f) { take(f, pipeline, whole_prompt(pipeline)); });
    add("Jupiter without its planner", [&](BaselineForecast& f) { take(f, pipeline, equal_split(pipeline)); });
    add("Jupiter without drafts",
        [&](BaselineForecast& f) { take(f, plainly, Planner(profile_, manifest_, plainly).best()); });
    add("Jupiter without tensor groups",
        [&](BaselineForecast& f) { take(f, pipeline, Planner(profile_, manifest_, pipeline).best()); });
    return std::move(forecasts_);
  }

 private:
  void add(const std::string& name, const std::function<void(BaselineForecast&)>& fill) {
    BaselineForecast f;
    f.name = name;
    try {
      fill(f);
    } catch (const MemoryError& e) {
      f.reason = "out of memory";
    } catch (const UsageError& e) {
      f.reason = e.what();
    }
    for (std::size_t b = 0; b < f.memory.size() && f.reason.empty(); ++b) {
      if (f.memory[b] > profile_.boards[b].memory_bytes) f.reason = "out of memory";
    }
    forecasts_.push_back(std::move(f));
  }

  // A plan of this program.
  void take(BaselineForecast& f, const PlanRequest& request, Plan plan) {
    const Planner planner(profile_, manifest_, request);
    f.ttft_s = plan.predicted_ttft_s;
    f.token_s = 1 / plan.predicted_speculative_tokens_per_s;
    f.memory.assign(profile_.boards.size(), 0);
    for (std::size_t s = 0; s < plan.stages.size(); ++s) {
      const std::vector<StageMemory> memory = planner.memory_of(plan, s);
      const StagePlan& stage = plan.stages[s];
      f.memory[index_of(stage.host, stage.slot)] = memory[0].total();
      for (std::size_t b = 0; b < stage.others.size(); ++b) {
        f.memory[index_of(stage.others[b].host, stage.others[b].slot)] = memory[b + 1].total();
      }
    }
    f.plan = std::move(plan);
  }

  std::size_t index_of(const std::string& host, int slot) const {
    const auto it = std::find_if(profile_.boards.begin(), profile_.boards.end(),
                                 [&](const BoardProfile& b) { return b.host == host && b.slot == slot; });
    return static_cast<std::size_t>(it - profile_.boards.begin());
  }

  Plan one_board(const PlanRequest& request) const {
    const Planner planner(profile_, manifest_, request);
    std::optional<Plan> best;
    for (int b = 0; b < static_cast<int>(profile_.boards.size()); ++b) {
      if (!planner.fits(b, manifest_.config.n_layers, true, true)) continue;
      Plan plan = planner.plan_of(Split{{b}, {manifest_.config.n_layers}});
      if (!best || planner.request_s(plan) < planner.request_s(*best)) best = std::move(plan);
    }
    if (!best) throw MemoryError("no board holds the model");
    return *best;
  }

  // The best split where the prompt is one chunk.
  Plan whole_prompt(PlanRequest request) const {
    request.workload.chunk_tokens = std::max(request.workload.chunk_tokens, n_);
    const Planner planner(profile_, manifest_, request);
    const auto split = planner.best_split(n_, false);
    if (!split) throw MemoryError("nothing fits");
    return planner.plan_of(Planner::Candidate{.split = *split, .even_chunk = n_});
  }

  // As many layers on each board, and four equal chunks for each.
  Plan equal_split(const PlanRequest& request) const {
    const Planner planner(profile_, manifest_, request);
    const auto split = planner.equal_split();
    if (!split) throw UsageError("more boards than layers");
    Planner::Candidate c{.split = *split};
    c.even_chunk = std::clamp<std::int64_t>(n_ / (4 * std::ssize(split->boards)), 16, 128);
    return planner.plan_of(c);
  }

  std::vector<double> by_speed() const {
    std::vector<double> shares;
    double sum = 0;
    for (const BoardProfile& b : profile_.boards) sum += 1 / b.layer.at(1, 0);
    for (const BoardProfile& b : profile_.boards) shares.push_back(1 / b.layer.at(1, 0) / sum);
    return shares;
  }

  // What each board of one group with these shares takes. MemoryError or UsageError where that cannot be.
  void take_memory(BaselineForecast& f, const std::vector<double>& shares) const {
    if (shares.size() == 1) throw UsageError("needs several boards");
    for (const BoardProfile& b : profile_.boards) {
      if (b.half_layer.empty() || b.output_head.empty()) {
        throw UsageError("slices were not measured on " + b.host);
      }
    }
    const Planner planner(profile_, manifest_, request_);
    Planner::GroupSplit group{{{}}, {manifest_.config.n_layers}};
    for (std::size_t b = 0; b < shares.size(); ++b) group.boards[0].push_back(static_cast<int>(b));
    Plan plan = planner.plan_of(group);
    for (std::size_t b = 1; b < shares.size(); ++b) plan.stages[0].others[b - 1].share = shares[b];
    for (const StageMemory& m : planner.memory_of(plan, 0)) f.memory.push_back(m.total());
  }

  void megatron(BaselineForecast& f, const std::vector<double>& shares) const {
    take_memory(f, shares);
    const Shared s(profile_, manifest_, shares);
    const auto layers = [&](std::int64_t rows, std::int64_t context) {
      return s.all_layers(s.layer_s(rows, context) + 4 * s.ring_s(s.residual_bytes(rows)));
    };
    f.ttft_s = layers(n_, 0) + s.head_s();
    f.token_s = layers(1, context_) + s.head_s();
  }

  void sequence_parallel(BaselineForecast& f) const {
    PlanRequest plain = request_;
    plain.hit_rate = 0;
    const Planner planner(profile_, manifest_, plain);
    const auto boards = std::ssize(profile_.boards);
    const std::int64_t rows = (n_ + boards - 1) / boards;
    double slowest = 0;
    for (int b = 0; b < boards; ++b) {
      f.memory.push_back(planner.memory_bytes(b, manifest_.config.n_layers, true, true));
      // The last rows attend to all others.
      slowest = std::max(slowest, profile_.boards[b].layer.at(rows, n_ - rows));
    }
    const Shared s(profile_, manifest_, std::vector<double>(profile_.boards.size(), 1.0 / static_cast<double>(boards)));
    const double cache_bytes = 2 * kSumBytes * static_cast<double>(n_) * static_cast<double>(manifest_.config.kv_dim());
    const Plan alone = one_board(plain);
    f.token_s = 1 / alone.predicted_decode_tokens_per_s;
    f.ttft_s = s.all_layers(slowest + s.ring_s(cache_bytes)) + s.head_s();
  }

  // Of a prompt the ring's steps are as many as the pieces of a product, and hide behind them; the first one does not.
  void galaxy(BaselineForecast& f, const std::vector<double>& shares) const {
    take_memory(f, shares);
    const Shared s(profile_, manifest_, shares);
    const double rings = 4 * s.ring_s(s.residual_bytes(n_));
    const double step = rings / static_cast<double>(shares.size() - 1);
    f.ttft_s = s.all_layers(std::max(s.layer_s(n_, 0), rings) + step) + s.head_s();
    f.token_s = s.all_layers(s.layer_s(1, context_) + 4 * s.ring_s(s.residual_bytes(1))) + s.head_s();
  }

  void detransformer(BaselineForecast& f, const std::vector<double>& shares) const {
    take_memory(f, shares);
    const Shared s(profile_, manifest_, shares);
    const auto layers = [&](std::int64_t rows, std::int64_t context) {
      return s.all_layers(s.layer_s(rows, context) + s.ring_s(s.residual_bytes(rows)));
    };
    f.ttft_s = layers(n_, 0) + s.head_s();
    f.token_s = layers(1, context_) + s.head_s();
  }

  const Profile& profile_;
  const Manifest& manifest_;
  PlanRequest request_;
  std::int64_t n_ = 0, context_ = 0;
  std::vector<BaselineForecast> forecasts_;
};

}  // namespace

std::vector<BaselineForecast> forecast_baselines(const Profile& profile, const Manifest& manifest,
                                                 const PlanRequest& request) {
  return Forecasts(profile, manifest, request).all();
}

}  // namespace jupiter

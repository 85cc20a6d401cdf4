// From a profile to a plan: layers to boards by dynamic programming, chunk lengths by dynamic programming, and what
// the alternatives would have cost.
#pragma once

#include "io/manifest.hpp"
#include "parallel/plan.hpp"
#include "parallel/schedule_cost.hpp"
#include "parallel/stage.hpp"

namespace jupiter {

enum class Objective : std::uint8_t {
  latency,     // time of a request: prompt and answer
  prefill,     // time to the first token
  throughput,  // slowest stage: many requests in flight
};
std::string_view name(Objective objective);
std::optional<Objective> objective_from_name(std::string_view text);

struct PlanRequest {
  std::int64_t prompt_tokens = 512;
  std::int64_t new_tokens = 128;
  std::int64_t context_tokens = 0;  // 0: the model's maximum
  std::int64_t max_chunk = 512;
  Objective objective = Objective::latency;
  bool every_row = false;  // evaluation: all rows pass the head
  int must_hold = -1;      // a board of the profile that must hold layers; none: -1
  KvType keys = KvType::f16;
  KvType values = KvType::f16;
  Wire wire = Wire::exact;
};

// Boards in the order of the pipeline, and how many layers each holds.
struct Split {
  std::vector<int> boards;
  std::vector<std::int64_t> layers;
};

class Planner {
 public:
  // profile and manifest must outlive it. FormatError where they are not of the same model.
  Planner(const Profile& profile, const Manifest& manifest, const PlanRequest& request);

  // MemoryError naming each board's budget where nothing fits.
  Plan best() const;
  // The plan of a given split; its memory is not checked.
  Plan plan_of(const Split& split) const;
  // Seconds between the ends of requests that follow each other without a gap: the slowest stage's work for one.
  double interval_s(const Plan& plan) const;

  struct Alternative {
    std::string name;
    std::optional<Plan> plan;  // none: does not fit
    double request_s = 0;
  };
  // Equal split, proportional to speed, all boards, one board.
  std::vector<Alternative> alternatives() const;
  double request_s(const Plan& plan) const;  // prompt and answer, plainly decoded

  std::vector<StageCost> stage_costs(const Split& split) const;
  // Of a plan, whose boards must be in the profile (FormatError).
  std::vector<StageCost> costs_of(const Plan& plan) const;
  std::uint64_t memory_bytes(std::int64_t layers, bool first, bool last) const;  // weights, cache, work space
  bool fits(int board, std::int64_t layers, bool first, bool last) const;

  // The split that minimises sum_r u_r + weight * max_r v_r exactly, where u_r = a chunk's mean computing + its arrival
  // + new_tokens decode steps and v_r = that computing and what moving the chunk in and out takes from it (throughput:
  // v_r = all work for one request, u_r = a share of the first chunk's, for the pipeline fills once); boards may
  // stay out unless `use_all`. Empty: nothing fits. Exact over all orders of up to 12 boards; more are taken in the
  // order of their speed.
  std::optional<Split> best_split(std::int64_t chunk, bool use_all) const;
  double split_cost(const Split& split, std::int64_t chunk) const;  // its objective

 private:
  struct Piece;
  Plan plan_of(const Split& split, std::int64_t even_chunk) const;
  double busy_s(const StageCost& stage, std::span<const std::int64_t> chunks) const;
  Piece piece(int board, std::int64_t layers, bool first, bool last, std::int64_t chunk) const;
  std::optional<Split> equal_split() const;
  std::optional<Split> proportional_split() const;
  std::vector<std::int64_t> chunk_candidates() const;
  std::optional<Plan> best_plan(bool use_all) const;
  StageOptions stage_options() const;
  std::uint64_t own_bytes(const ModelPart& part, const StageOptions& options) const;  // all but weights

  friend class SplitSearch;
  const Profile& profile_;
  const Manifest& manifest_;
  PlanRequest request_;
  std::vector<std::uint64_t> layer_bytes_;  // by layer
  std::uint64_t tokenizer_bytes_ = 0;
};

}  // namespace jupiter

// From a profile to a plan: layers to boards by dynamic programming, chunk lengths by dynamic programming, and what
// the alternatives would have cost.
#pragma once

#include <map>
#include <tuple>

#include "io/model/manifest.hpp"
#include "parallel/plan/plan.hpp"
#include "parallel/plan/schedule_cost.hpp"
#include "parallel/plan/split_search.hpp"
#include "parallel/plan/stage_memory.hpp"

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
  Objective objective = Objective::latency;
  Workload workload;  // context_tokens 0: the model's maximum; chunk_tokens: the longest chunk that is tried
};

// A board that holds a draft model beside layers.
struct DraftSeat {
  int board = -1;           // of the profile; -1: no draft model
  std::uint64_t bytes = 0;  // that it takes
  bool may_end = true;      // the board may be the last stage
};

class Planner {
 public:
  // profile and manifest must outlive it. FormatError where they are not of the same model.
  Planner(const Profile& profile, const Manifest& manifest, const PlanRequest& request);

  // MemoryError naming each board's budget where nothing fits.
  Plan best() const;
  // The plan of a given split; its memory is not checked.
  Plan plan_of(const Split& split) const;
  // A split and what to expect of it, without the chunks of other prompts than the request's.
  struct Candidate {
    Split split;
    std::int64_t even_chunk = 0;  // chunks are equal pieces of at most so many tokens; 0: those of the quickest prompt
    double ttft_s = 0;
    double decode_step_s = 0;
    double request_s = 0;  // prompt and answer, plainly decoded
  };
  // use_all: no board stays out. None where nothing fits.
  std::optional<Candidate> best_candidate(bool use_all, const DraftSeat& seat = {}) const;
  Plan plan_of(const Candidate& candidate) const;
  // Seconds between the ends of requests that follow each other without a gap: the slowest stage's work for one.
  double interval_s(const Plan& plan) const;

  struct Alternative {
    std::string name;
    std::optional<Plan> plan;  // none: does not fit
    double request_s = 0;
  };
  // Equal split, proportional to speed, all boards, one board.
  std::vector<Alternative> alternatives() const;
  double request_s(const Plan& plan) const;

  std::vector<StageCost> stage_costs(const Split& split) const;
  // Of a plan, whose boards must be in the profile (FormatError).
  std::vector<StageCost> costs_of(const Plan& plan) const;
  // Weights, cache, work space and all else of a board with so many layers, the heaviest that it could be, in the
  // longest pipeline of this profile (alone: by itself).
  std::uint64_t memory_bytes(int board, std::int64_t layers, bool first, bool last) const;
  bool fits(int board, std::int64_t layers, bool first, bool last) const;
  // What each stage of a plan takes, the draft model where it is.
  std::vector<StageMemory> memory_of(const Plan& plan) const;

  // The split that minimises sum_r u_r + weight * max_r v_r exactly, over all orders of boards, where u_r = a chunk's
  // mean computing + its arrival + new_tokens decode steps and v_r = that computing and what moving the chunk in and
  // out takes from it (throughput: v_r = all work for one request, u_r = a share of the first chunk's, for the pipeline
  // fills once); boards may stay out unless `use_all`. Empty: nothing fits.
  std::optional<Split> best_split(std::int64_t chunk, bool use_all, const DraftSeat& seat = {}) const;
  double split_cost(const Split& split, std::int64_t chunk) const;  // its objective

 private:
  struct Piece;
  double busy_s(const StageCost& stage, std::span<const std::int64_t> chunks) const;
  Piece piece(int board, std::int64_t layers, Role role, std::int64_t chunk) const;
  const std::vector<BoardCost>& costs(std::int64_t chunk) const;
  std::int64_t most_layers(int board, Role role, std::uint64_t budget) const;
  Candidate candidate(const Split& split, std::int64_t even_chunk) const;
  std::vector<std::int64_t> chunk_lengths(std::span<const StageCost> costs, std::int64_t tokens,
                                          std::int64_t even_chunk) const;
  std::optional<Split> equal_split() const;
  std::optional<Split> proportional_split() const;
  std::vector<std::int64_t> chunk_candidates() const;
  int longest_pipeline() const;

  const Profile& profile_;
  const Manifest& manifest_;
  PlanRequest request_;
  std::vector<std::uint64_t> heaviest_;  // bytes of weights by number of layers: the heaviest run of so many
  // Found once: costs by chunk, and candidates of splits, which many searches come to.
  mutable std::map<std::int64_t, std::vector<BoardCost>> costs_;
  mutable std::map<std::tuple<std::vector<int>, std::vector<std::int64_t>, std::int64_t>, Candidate> candidates_;
};

}  // namespace jupiter

// From a profile to a plan (parallelism planning, arXiv 2504.08242; parallel/DESIGN.md, decision 7): which boards take
// part, which layers each holds, how prompts are cut into chunks, and what the alternatives would have cost. The search
// of splits is in split_search.hpp, that of chunk lengths in schedule_cost.hpp.
#pragma once

#include <map>
#include <tuple>

#include "io/model/manifest.hpp"
#include "parallel/plan/plan.hpp"
#include "parallel/plan/schedule_cost.hpp"
#include "parallel/plan/speculation_cost.hpp"
#include "parallel/plan/split_search.hpp"
#include "parallel/plan/stage_memory.hpp"

namespace jupiter {

// Which kinds of plans may be made: pipelines of single boards, one tensor group, or pipelines of groups.
enum class PlanKind : std::uint8_t { any, pipeline, tensor, groups };
std::string_view name(PlanKind kind);

enum class Objective : std::uint8_t {
  latency,     // time of a request: prompt and answer
  prefill,     // time to the first token
  throughput,  // time of the slowest stage, which counts where many requests are in flight
};
std::string_view name(Objective objective);
std::optional<Objective> objective_from_name(std::string_view text);

struct PlanRequest {
  std::int64_t prompt_tokens = 512;
  std::int64_t new_tokens = 128;
  Objective objective = Objective::latency;
  PlanKind kind = PlanKind::any;
  double hit_rate = 0;            // that drafts are expected to have (DraftForecast); 0: plain decoding
  bool share_output_head = true;  // whether stages may share the last one's output head
  Workload workload;  // context_tokens 0 means the model's maximum; chunk_tokens is the longest chunk that is tried
};

// A board that holds a draft model beside layers.
struct DraftSeat {
  int board = -1;           // index in the profile; -1: no draft model
  std::uint64_t bytes = 0;  // that the draft model takes
  bool may_end = true;      // whether the board may be the last stage
};

class Planner {
 public:
  // profile and manifest must outlive it. FormatError where they are not of the same model.
  Planner(const Profile& profile, const Manifest& manifest, const PlanRequest& request);

  // The best plan of the kinds that are asked for. MemoryError naming each board's budget where nothing fits.
  Plan best() const;
  // The plan of a given split, whose memory is not checked.
  Plan plan_of(const Split& split) const;
  // A split, and what to expect of it for the request's prompt.
  struct Candidate {
    Split split;
    // Prompts are cut into equal pieces of at most so many tokens; 0: into the chunks that make the prompt quickest.
    std::int64_t even_chunk = 0;
    double ttft_s = 0;
    double token_s = 0;    // of an answer, with the drafts that the request expects
    double request_s = 0;  // of prompt and answer
  };
  // use_all: every board must take part. None where nothing fits.
  std::optional<Candidate> best_candidate(bool use_all, const DraftSeat& seat = {}) const;
  Plan plan_of(const Candidate& candidate) const;
  // A pipeline whose stages may be tensor groups; layers by stage. Its memory is not checked.
  struct GroupSplit {
    std::vector<std::vector<int>> boards;  // indices in the profile, leaders first
    std::vector<std::int64_t> layers;
    bool repeat_attention_out = false;
    bool repeat_feed_forward_out = false;
  };
  Plan plan_of(const GroupSplit& split) const;
  // The best of the layouts that are tried, by their time with even chunks: the fastest 2, 3, ... boards in one group
  // or in groups of equal size, with shares and layers by speed. None where the profile has no gathers, or nothing
  // fits.
  std::optional<Plan> best_of_groups(PlanKind kind) const;
  // A pipeline whose stages share the output head, where that is better than the best one whose last stage computes it
  // alone, which costs alone_cost. None where it is not, or where every row passes the head.
  std::optional<Plan> best_with_shared_head(const Candidate& alone, double alone_cost) const;
  // What the request's objective minimises.
  double cost(const Plan& plan) const;
  // As many layers on each board of the profile; none where there are more boards than layers.
  std::optional<Split> equal_split() const;
  // Seconds between the ends of two requests that follow each other without a gap, which is the slowest stage's work
  // for one request.
  double interval_s(const Plan& plan) const;

  struct Alternative {
    std::string name;
    std::optional<Plan> plan;  // none where it does not fit
    double request_s = 0;
  };
  // The equal split, the one in proportion to speed, the best one of all boards, and each board alone.
  std::vector<Alternative> alternatives() const;
  double request_s(const Plan& plan) const;

  std::vector<StageCost> stage_costs(const Split& split) const;
  // The stages of a plan. FormatError where a board of it is not in the profile.
  std::vector<StageCost> costs_of(const Plan& plan) const;
  // Bytes of everything on a board with so many layers. Which layers, and how many stages, is not known while boards
  // are chosen: the heaviest run of layers counts, and the longest pipeline of this profile (one stage where the board
  // is first and last).
  std::uint64_t memory_bytes(int board, std::int64_t layers, bool first, bool last) const;
  bool fits(int board, std::int64_t layers, bool first, bool last) const;
  // What each stage's leader takes, the draft model included.
  std::vector<StageMemory> memory_of(const Plan& plan) const;
  // What each board of a stage takes, the leader first.
  std::vector<StageMemory> memory_of(const Plan& plan, std::size_t stage) const;

  // The split that minimises exactly, over all orders of boards and with boards that may stay out unless `use_all`,
  //   sum_r u_r + weight * max_r v_r,   weight = number of chunks - 1
  // for prompts in equal chunks, where
  //   u_r = mean computing of a chunk + its arrival + new_tokens * laps * decode step
  //   v_r = mean computing of a chunk + receive_s + send_s + new_tokens * slots * slot / weight
  // (without what has new_tokens for prefill). Answers are decoded in segments of `width` rows, of which a token takes
  // so many laps and slots (speculation_cost.hpp).
  // For throughput the weight is 1, v_r is all work of a stage for one request, and u_r is the mean computing
  // of a chunk divided by the number of requests of a run, since the pipeline fills once for all of them. Empty where
  // nothing fits.
  std::optional<Split> best_split(std::int64_t chunk, bool use_all, const DraftSeat& seat = {},
                                  std::int64_t width = 1) const;
  // The value of that objective.
  double split_cost(const Split& split, std::int64_t chunk, std::int64_t width = 1) const;

 private:
  struct Piece;
  struct HeadSharing;
  double busy_s(const StageCost& stage, std::span<const std::int64_t> chunks) const;
  Piece piece(int board, std::int64_t layers, Role role, std::int64_t chunk, std::int64_t width,
              const HeadSharing* sharing = nullptr) const;
  BoardCost board_cost(int board, std::int64_t chunk, std::int64_t width, std::uint64_t budget,
                       const HeadSharing* sharing = nullptr) const;
  std::vector<HeadSharing> head_sharings() const;
  void share_head(StageCost& stage, int board, const HeadSharing& sharing) const;
  const std::vector<BoardCost>& costs(std::int64_t chunk, std::int64_t width) const;
  DraftForecast drafts() const;
  std::vector<std::int64_t> width_candidates() const;
  std::int64_t most_layers(int board, Role role, std::uint64_t budget) const;
  Candidate candidate(const Split& split, std::int64_t even_chunk) const;
  Plan plan_of(std::span<const StageCost> costs, std::int64_t even_chunk) const;
  GroupCost group_cost(const std::vector<int>& boards, const GroupSplit& split) const;
  std::vector<StageCost> costs_of_groups(const GroupSplit& split) const;
  double even_cost(const GroupSplit& split) const;
  GroupSplit even_groups(std::span<const int> boards, std::int64_t stages) const;
  std::optional<Plan> plan_that_fits(const GroupSplit& split) const;
  int board_of(const std::string& host, int slot) const;
  [[noreturn]] void nothing_fits() const;
  std::vector<std::int64_t> chunk_lengths(std::span<const StageCost> costs, std::int64_t tokens,
                                          std::int64_t even_chunk) const;
  std::optional<Split> proportional_split() const;
  std::vector<std::int64_t> chunk_candidates() const;
  int longest_pipeline() const;

  const Profile& profile_;
  const Manifest& manifest_;
  PlanRequest request_;
  std::vector<std::uint64_t> heaviest_;  // [n_layers + 1]: bytes of weights of the heaviest run of so many layers
  // Caches: costs by chunk and width, and candidates, because many searches come to the same splits.
  mutable std::map<std::pair<std::int64_t, std::int64_t>, std::vector<BoardCost>> costs_;
  mutable std::map<std::tuple<std::vector<int>, std::vector<std::int64_t>, std::int64_t>, Candidate> candidates_;
};

}  // namespace jupiter

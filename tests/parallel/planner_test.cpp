// The planner against exhaustive search on small cases, and plans against nonsense.
#include "parallel/plan/planner.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <numeric>
#include <random>

#include "io/error.hpp"
#include "io/hash.hpp"
#include "parallel/plan/draft_placement.hpp"
#include "parallel/plan/simulator.hpp"
#include "planner_testing.hpp"

namespace jupiter {
namespace {

// Every ordered choice of boards and every way to deal out the layers.
void for_every_split(int n_boards, std::int64_t n_layers, const std::function<void(const Split&)>& visit) {
  Split s;
  const std::function<void(std::int64_t)> extend = [&](std::int64_t left) {
    if (left == 0) return visit(s);
    for (int b = 0; b < n_boards; ++b) {
      if (std::find(s.boards.begin(), s.boards.end(), b) != s.boards.end()) continue;
      for (std::int64_t k = 1; k <= left; ++k) {
        s.boards.push_back(b);
        s.layers.push_back(k);
        extend(left - k);
        s.boards.pop_back();
        s.layers.pop_back();
      }
    }
  };
  extend(n_layers);
}

class SplitSearchTest : public testing::TestWithParam<Objective> {};

TEST_P(SplitSearchTest, EqualsExhaustiveSearch) {
  const Manifest m = small_manifest(7);
  for (const auto& slow : {std::vector<double>{1, 1, 1, 1}, {1, 2, 2, 4}, {1, 3, 9, 27}, {2, 1, 1.5, 1.2}}) {
    for (const double rate : {1e6, 1e8}) {
      Profile p = cluster(slow, 2e-3, rate);
      p.boards[0].memory_bytes = 45 << 20;  // not all layers fit on the fastest
      PlanRequest r;
      r.objective = GetParam();
      r.prompt_tokens = 200;
      r.new_tokens = 20;
      const Planner planner(p, m, r);
      for (const std::int64_t chunk : {16, 64, 200}) {
        double best = 1e300;
        for_every_split(4, 7, [&](const Split& s) { best = std::min(best, planner.split_cost(s, chunk)); });
        const auto found = planner.best_split(chunk, false);
        ASSERT_TRUE(found.has_value());
        EXPECT_NEAR(planner.split_cost(*found, chunk), best, best * 1e-12) << "chunk " << chunk;
      }
    }
  }
}

// What a split costs as the sum and maximum of lines, by hand.
double cost_of(const std::vector<BoardCost>& boards, const Split& s, double weight) {
  double sum = 0, slowest = 0;
  for (std::size_t i = 0; i < s.boards.size(); ++i) {
    const auto& as = boards[static_cast<std::size_t>(s.boards[i])].as(role_of(i == 0, i + 1 == s.boards.size()));
    if (s.layers[i] > as.most_layers) return 1e300;
    sum += as.sum.at(s.layers[i]);
    slowest = std::max(slowest, as.max.at(s.layers[i]));
  }
  return sum + weight * slowest;
}

TEST(SplitSearch, EqualsExhaustiveSearchOfRandomBoards) {
  std::mt19937_64 random(1);
  const auto uniform = [&](double low, double high) {
    return std::uniform_real_distribution<double>(low, high)(random);
  };
  int infeasible = 0;
  for (int i = 0; i < 400; ++i) {
    const int n = 1 + static_cast<int>(random() % 4);
    const auto n_layers = static_cast<std::int64_t>(1 + random() % 7);
    std::vector<BoardCost> boards;
    for (int b = 0; b < n; ++b) {
      if (b > 0 && random() % 3 == 0) {  // one like the board before
        boards.push_back(boards.back());
        continue;
      }
      BoardCost cost;
      for (BoardCost::Standing& s : cost.roles) {
        s.sum = {uniform(0, 3), uniform(0, 2)};
        s.max = {uniform(0, 1), uniform(0.1, 2)};
        s.most_layers = static_cast<std::int64_t>(random() % 9);
      }
      cost.needed = random() % 8 == 0;
      boards.push_back(cost);
    }
    const double weight = i % 5 == 0 ? 0 : uniform(0, 20);
    double best = 1e300;
    for_every_split(n, n_layers, [&](const Split& s) {
      for (int b = 0; b < n; ++b) {
        const bool used = std::find(s.boards.begin(), s.boards.end(), b) != s.boards.end();
        if (boards[static_cast<std::size_t>(b)].needed && !used) return;
      }
      best = std::min(best, cost_of(boards, s, weight));
    });
    const auto found = search_split(boards, n_layers, weight);
    ASSERT_EQ(found.has_value(), best < 1e300) << i;
    if (!found) {
      ++infeasible;
      continue;
    }
    EXPECT_NEAR(found->cost, best, best * 1e-12) << i;
    EXPECT_NEAR(cost_of(boards, found->split, weight), best, best * 1e-12) << i;
    for (int b = 0; b < n; ++b) {
      if (!boards[static_cast<std::size_t>(b)].needed) continue;
      EXPECT_NE(std::find(found->split.boards.begin(), found->split.boards.end(), b), found->split.boards.end());
    }
  }
  EXPECT_GT(infeasible, 10);
  EXPECT_LT(infeasible, 300);
}

TEST(SplitSearch, SolvesFewOfItsCaps) {
  std::vector<BoardCost> boards(16);
  for (std::size_t b = 0; b < boards.size(); ++b) {
    for (BoardCost::Standing& s : boards[b].roles) {
      const double slow = 1 + 0.1 * static_cast<double>(b);
      s = {{0.5, 0.3 * slow}, {0.1, slow}, 12};
    }
  }
  const auto found = search_split(boards, 80, 31);
  ASSERT_TRUE(found.has_value());
  EXPECT_LT(found->solved, 100u);  // of 192
}

class DraftPlacement : public testing::Test {
 protected:
  // Nothing is left out: one board alone would hold too few layers.
  Plan plan(const std::vector<std::uint64_t>& memory_mib, std::uint64_t draft_mib) {
    Profile p = cluster({1, 1, 1});
    for (std::size_t b = 0; b < memory_mib.size(); ++b) p.boards[b].memory_bytes = memory_mib[b] << 20;
    PlanRequest r;
    r.prompt_tokens = 64;
    r.new_tokens = 64;
    r.workload.context_tokens = 128;
    return plan_with_draft(p, manifest_, r, {"abc", draft_mib << 20, 0.1});
  }
  std::uint64_t bytes_on(const Plan& p) const {
    const StagePlan& s = p.stages[p.draft_stage()];
    return s.weight_bytes + s.private_bytes + p.draft->bytes;
  }
  Manifest manifest_ = small_manifest(40);
};

TEST_F(DraftPlacement, TakesABoardWithRoomThatIsNotTheLastStage) {
  for (const std::size_t roomy : {0, 1, 2}) {
    std::vector<std::uint64_t> memory(3, 90);
    memory[roomy] = 150;
    const Plan p = plan(memory, 60);
    ASSERT_TRUE(p.draft.has_value());
    EXPECT_EQ(p.draft->host, "b" + std::to_string(roomy));
    EXPECT_LT(p.draft_stage() + 1, p.stages.size());
    EXPECT_LE(bytes_on(p), memory[roomy] << 20);
  }
}

TEST_F(DraftPlacement, OfManyBoardsToo) {
  Profile p = cluster(std::vector<double>(14, 1.0));
  for (BoardProfile& b : p.boards) b.memory_bytes = std::uint64_t{90} << 20;
  p.boards[9].memory_bytes = std::uint64_t{150} << 20;
  PlanRequest r;
  r.prompt_tokens = 64;
  r.new_tokens = 64;
  r.workload.context_tokens = 128;
  const Plan plan = plan_with_draft(p, manifest_, r, {"abc", std::uint64_t{60} << 20, 0.1});
  EXPECT_EQ(plan.draft->host, "b9");
  EXPECT_LT(plan.stages.size(), 14u);
}

TEST_F(DraftPlacement, MovesLayersAwayFromTheDraftModel) {
  const Plan p = plan({110, 110, 110}, 30);
  EXPECT_LE(bytes_on(p), std::uint64_t{110} << 20);
  EXPECT_EQ(p.draft->bytes, std::uint64_t{30} << 20);
  EXPECT_EQ(p.draft->model_hash, "abc");
}

TEST_F(DraftPlacement, SaysWhichRoomIsMissing) {
  try {
    plan({110, 110, 110}, 109);
    FAIL() << "expected no room";
  } catch (const MemoryError& e) {
    for (const char* word : {"109 MiB", "b0:0 has 110 MiB", "b2:0"}) {
      EXPECT_NE(std::string(e.what()).find(word), std::string::npos) << e.what();
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Objectives, SplitSearchTest,
                         testing::Values(Objective::latency, Objective::prefill, Objective::throughput));

TEST(ChunkPlanner, IsWithinTwoPercentOfExhaustiveSearch) {
  const Manifest m = small_manifest(12);
  for (const auto& slow : {std::vector<double>{1, 1, 1}, {1, 2, 4}, {3, 1, 1.5}}) {
    const Profile p = cluster(slow, 1e-3, 3e6);
    const Planner planner(p, m, {});
    const auto stages = planner.stage_costs({{0, 1, 2}, {5, 4, 3}});
    // Boundaries on a grid of 16: 2^(n-1) ways to cut n pieces.
    const int pieces = 12;
    double best = 1e300;
    for (unsigned cuts = 0; cuts < 1u << (pieces - 1); ++cuts) {
      std::vector<std::int64_t> chunks{16};
      for (int i = 0; i < pieces - 1; ++i) {
        if (cuts >> i & 1) {
          chunks.push_back(16);
        } else {
          chunks.back() += 16;
        }
      }
      best = std::min(best, prefill_s(stages, chunks));
    }
    const auto found = best_chunks(stages, 16 * pieces, 16 * pieces, false, 16);
    EXPECT_EQ(std::accumulate(found.begin(), found.end(), std::int64_t{0}), 16 * pieces);
    EXPECT_LE(prefill_s(stages, found), best * 1.02);
    EXPECT_GE(prefill_s(stages, found), best * (1 - 1e-12));
  }
}

TEST(ScheduleCost, AStageThatComputesTakesAndSendsMessagesInBetween) {
  Profile p = cluster({1, 1}, 1e-3, 1e9);
  for (BoardProfile& b : p.boards) {
    b.send = {2e-3, 0};
    b.receive = {3e-3, 0};
    b.layer = {{{1, 512}, {1e-3, 512e-3}}, 0, 0, 0};
    b.embedding = {{1, 512}, {0, 0}};
    b.output_head = b.embedding;
  }
  const Manifest m = small_manifest(2);
  const Planner planner(p, m, {});
  const auto both = planner.stage_costs({{0, 1}, {1, 1}});
  const double arrive = both[1].arrive_s(10);
  // The second stage waits for every chunk, which the first begins 5 ms after it ended the one before.
  EXPECT_NEAR(prefill_s(both, std::vector<std::int64_t>{10, 10}), 10e-3 + 5e-3 + 10e-3 + arrive + 10e-3 + 1e-3, 1e-9);
  // A slow second stage never waits after the first chunk, and pays for both messages itself.
  p.boards[1].layer.base.seconds = {3e-3, 3 * 512e-3};
  EXPECT_NEAR(prefill_s(both, std::vector<std::int64_t>{10, 10}), 10e-3 + arrive + 30e-3 + 5e-3 + 30e-3 + 1e-3, 1e-9);
  const auto alone = planner.stage_costs({{0}, {2}});
  EXPECT_NEAR(prefill_s(alone, std::vector<std::int64_t>{10, 10}), 40e-3, 1e-9);
}

TEST(ScheduleCost, StagesOfAPipelineDecodeAfterAWait) {
  const Manifest m = small_manifest(2);
  Profile p = cluster({1, 1});
  const Planner planner(p, m, {});
  const auto both = planner.stage_costs({{0, 1}, {1, 1}}), alone = planner.stage_costs({{0}, {2}});
  const double before = decode_step_s(both, 100), before_alone = decode_step_s(alone, 100);
  p.boards[0].wake_s = 1e-3;
  p.boards[1].wake_s = 2e-3;
  EXPECT_NEAR(decode_step_s(both, 100), before + 3e-3, 1e-12);
  EXPECT_EQ(decode_step_s(alone, 100), before_alone);
}

TEST(ChunkPlanner, CostlyMessagesMakeFewerChunks) {
  const Manifest m = small_manifest(12);
  Profile p = cluster({1, 1, 1}, 1e-4, 1e9);
  const auto count = [&] {
    return best_chunks(Planner(p, m, {}).stage_costs({{0, 1, 2}, {4, 4, 4}}), 512, 512).size();
  };
  const std::size_t cheap = count();
  for (BoardProfile& b : p.boards) b.send = {20e-3, 0};
  EXPECT_LT(count(), cheap);
}

TEST(Planner, KnowsTheBytesOfTheWire) {
  const Manifest m = small_manifest(2);
  const Profile p = cluster({1, 1});
  EXPECT_EQ(Planner(p, m, {}).stage_costs({{0, 1}, {1, 1}})[1].row_bytes, 64 * 2 + 4);
  EXPECT_EQ(Planner(p, m, {.workload = {.wire = Wire::q8}}).stage_costs({{0, 1}, {1, 1}})[1].row_bytes, 64 + 2 * 2 + 4);
}

TEST(ScheduleCost, ScoredRowsPassTheHeadSixteenAtATime) {
  Profile p = cluster({1});
  p.boards[0].score_s = 1e-4;
  StageCost c;
  c.board = &p.boards[0];
  c.output_head = true;
  EXPECT_NEAR(c.compute_s(40, 0, 40), 2 * p.boards[0].output_head.at(16) + p.boards[0].output_head.at(8), 1e-12);
  c.scores = true;
  EXPECT_NEAR(c.compute_s(40, 0, 40), 2 * p.boards[0].output_head.at(16) + p.boards[0].output_head.at(8) + 40 * 1e-4,
              1e-12);
}

// Evaluation keeps the last stage busy with the head: it gets fewer layers, and chunks that all stages work on evenly.
TEST(Planner, EvaluationGivesTheHeadItsShareOfLayers) {
  const Manifest m = small_manifest(8);
  Profile p = cluster({1, 1, 1, 1}, 1e-4, 1e8);
  PlanRequest r{
      .new_tokens = 0, .objective = Objective::throughput, .workload = {.context_tokens = 512, .every_row = true}};
  const Plan plan = Planner(p, m, r).best();
  const StagePlan& last = plan.stages.back();
  EXPECT_EQ(last.last_layer - last.first_layer, 1);
  const std::vector<std::int64_t> chunks = chunks_for(plan, 512);
  EXPECT_LE(*std::max_element(chunks.begin(), chunks.end()) - *std::min_element(chunks.begin(), chunks.end()), 1);
  // The work of the slowest stage, no more than that of any other split of all boards in those chunks.
  const Planner planner(p, m, r);
  for_every_split(4, 8, [&](const Split& s) {
    if (s.boards != std::vector<int>{0, 1, 2, 3}) return;
    Plan other = planner.plan_of(s);
    other.chunks = plan.chunks;
    EXPECT_GE(planner.interval_s(other), planner.interval_s(plan) * 0.999);
  });
}

TEST(Planner, LeavesOutABoardThatCostsMoreThanItBrings) {
  const Manifest m = small_manifest(8);
  const Profile p = cluster({1, 1, 100}, 1e-4, 1e8);
  const Plan plan = Planner(p, m, {.objective = Objective::prefill, .workload = {}}).best();
  EXPECT_EQ(plan.left_out, std::vector<std::string>{"b2:0"});
  check(plan, small_manifest(8).config, "plan");
}

TEST(Planner, UsesABoardThatMemoryNeeds) {
  const Manifest m = small_manifest(8);
  Profile p = cluster({1, 50});
  const Planner free(p, m, {.workload = {.context_tokens = 256}});
  EXPECT_EQ(free.best().stages.size(), 1u);
  p.boards[0].memory_bytes = free.memory_bytes(0, 8, true, true) - 1;
  const Plan plan = Planner(p, m, {.workload = {.context_tokens = 256}}).best();
  EXPECT_EQ(plan.stages.size(), 2u);
}

TEST(Planner, SaysWhatIsMissingWhereNothingFits) {
  const Manifest m = small_manifest(8);
  Profile p = cluster({1, 1});
  for (BoardProfile& b : p.boards) b.memory_bytes = 1 << 20;
  try {
    Planner(p, m, {}).best();
    FAIL();
  } catch (const MemoryError& e) {
    EXPECT_NE(std::string(e.what()).find("b1:0 has 1 MiB (not even one layer fits)"), std::string::npos) << e.what();
  }
}

TEST(Planner, RefusesAProfileOfAnotherModel) {
  Profile p = cluster({1});
  p.model_hash = hex(43);
  const Manifest m = small_manifest(2);
  EXPECT_THROW(Planner(p, m, {}), FormatError);
}

TEST(Planner, UsesManyBoardsWhereThatPays) {
  const Manifest m = small_manifest(40);
  std::vector<double> slow(20, 1.0);
  slow[3] = 40;
  const Plan plan = Planner(cluster(slow, 1e-5, 1e9), m, {.objective = Objective::prefill, .workload = {}}).best();
  check(plan, small_manifest(40).config, "plan");
  EXPECT_GT(plan.stages.size(), 10u);
}

TEST(Plan, ComesBackFromJsonAndNonsenseIsRefused) {
  const Manifest m = small_manifest(8);
  const Profile p = cluster({1, 2});
  const Plan plan = Planner(p, m, {.objective = Objective::prefill, .workload = {}}).best();
  ASSERT_EQ(plan.stages.size(), 2u);
  const Plan again = parse_plan(to_json(plan), "plan.json");
  EXPECT_EQ(to_json(again), to_json(plan));
  const auto refused = [&](const std::function<void(Plan&)>& damage) {
    Plan edited = plan;
    damage(edited);
    EXPECT_THROW(check(parse_plan(to_json(edited), "plan.json"), m.config, "plan.json"), FormatError);
  };
  refused([](Plan& e) { e.stages[1].first_layer -= 1; });  // overlap
  refused([](Plan& e) { e.stages[1].first_layer += 1; });  // gap
  refused([](Plan& e) { e.stages[1].last_layer += 1; });
  refused([](Plan& e) { e.stages.pop_back(); });
  refused([](Plan& e) { e.stages.clear(); });
  refused([](Plan& e) { e.stages[1].host = e.stages[0].host; });
  refused([](Plan& e) { e.chunks[0].lengths[0] = 0; });
  refused([](Plan& e) { e.chunks[0].lengths.push_back(8); });
  refused([](Plan& e) { e.chunks.clear(); });
  EXPECT_THROW(parse_plan("{}", "plan.json"), FormatError);
  EXPECT_THROW(parse_plan("not json", "plan.json"), FormatError);
}

TEST(Plan, ItsWorkloadComesBackAndNonsenseIsRefused) {
  const Manifest m = small_manifest(8);
  const Profile p = cluster({1, 2});
  const Workload w{.requests = 3,
                   .most_at_once = 4,
                   .context_tokens = 500,
                   .cache_tokens = 700,
                   .chunk_tokens = 60,
                   .keys = KvType::f32,
                   .drafts = false,
                   .draft_max = 7,
                   .wire = Wire::q8,
                   .every_row = true,
                   .draft_file_bytes = 99};
  const Plan plan = Planner(p, m, {.prompt_tokens = 100, .workload = w}).best();
  const std::string text = to_json(plan);
  const Plan again = parse_plan(text, "plan.json");
  EXPECT_EQ(to_json(again), text);
  ASSERT_TRUE(again.workload.has_value());
  EXPECT_EQ(again.workload->requests, 3);
  EXPECT_EQ(again.workload->most_at_once, 4);
  EXPECT_EQ(again.workload->cache_tokens, 700);
  EXPECT_EQ(again.workload->keys, KvType::f32);
  EXPECT_FALSE(again.workload->drafts);
  EXPECT_EQ(again.workload->draft_max, 7);
  const auto refused = [&](const std::string& before, const std::string& after) {
    std::string edited = text;
    const std::size_t at = edited.find(before);
    ASSERT_NE(at, std::string::npos) << before;
    edited.replace(at, before.size(), after);
    EXPECT_THROW(parse_plan(edited, "plan.json"), FormatError) << after;
  };
  refused("\"requests\": 3", "\"requests\": 0");
  refused("\"requests\": 3", "\"requests\": 4000000");
  refused("\"cache_tokens\": 700", "\"cache_tokens\": -1");
  refused("\"cache_tokens\": 700", "\"cache_tokens\": 99999999999");
  refused("\"draft_max\": 7", "\"draft_max\": 64");
  refused("\"type_k\": \"f32\"", "\"type_k\": \"f8\"");
  refused("\"decode\": \"plain\"", "\"decode\": \"fast\"");
  refused("\"wire\": \"q8\"", "\"wire\": \"q1\"");
  // Plans of older programs have none.
  std::string old = text;
  const std::size_t at = old.find("\"workload\"");
  old.replace(at, 10, "\"workless\"");
  EXPECT_FALSE(parse_plan(old, "plan.json").workload.has_value());
  EXPECT_EQ(parse_plan(old, "plan.json").context_tokens, 500);
}

TEST(Planner, StaysWithinEveryBudgetAndCountsRequests) {
  const Manifest m = small_manifest(24);
  Profile p = cluster({1, 1, 1, 1});
  for (BoardProfile& b : p.boards) b.memory_bytes = std::uint64_t{80} << 20;
  for (const std::int64_t requests : {1, 16}) {
    const PlanRequest r{.workload = {.requests = requests, .context_tokens = 1024}};
    const Planner planner(p, m, r);
    const Plan plan = planner.best();
    const auto memory = planner.memory_of(plan);
    for (std::size_t s = 0; s < plan.stages.size(); ++s) {
      EXPECT_EQ(plan.stages[s].weight_bytes + plan.stages[s].private_bytes, memory[s].total());
      EXPECT_LE(memory[s].total(), std::uint64_t{80} << 20);
    }
  }
  const auto bytes = [&](std::int64_t requests, std::int64_t cache) {
    return Planner(p, m, {.workload = {.requests = requests, .context_tokens = 1024, .cache_tokens = cache}})
        .memory_bytes(0, 4, true, false);
  };
  EXPECT_GT(bytes(16, 0), bytes(1, 0));
  EXPECT_GT(bytes(1, 32768), bytes(1, 1024));
  EXPECT_EQ(bytes(1, 1024), bytes(1, 0));  // a context at least
}

TEST(Plan, HoldsTheChunksOfItsOwnWorkload) {
  const Manifest m = small_manifest(8);
  const Profile p = cluster({1, 1, 1});
  for (const std::int64_t n : {20, 300, 700}) {
    const Plan plan = Planner(p, m, {.prompt_tokens = n, .new_tokens = 8, .workload = {.context_tokens = 708}}).best();
    EXPECT_TRUE(std::any_of(plan.chunks.begin(), plan.chunks.end(), [&](const ChunkPlan& c) {
      return c.prompt_tokens == n;
    })) << n;
    check(plan, small_manifest(8).config, "plan");
  }
}

TEST(Plan, ChunksOfAnyPromptSumToIt) {
  const Manifest m = small_manifest(8);
  const Profile p = cluster({1, 1, 1});
  const Plan plan = Planner(p, m, {}).best();
  for (const std::int64_t n : {1, 2, 31, 32, 33, 100, 511, 512, 513, 2047, 2048, 5000}) {
    const auto chunks = chunks_for(plan, n);
    EXPECT_EQ(std::accumulate(chunks.begin(), chunks.end(), std::int64_t{0}), n);
    for (const std::int64_t c : chunks) EXPECT_GT(c, 0);
  }
}

TEST(Profile, ComesBackFromJsonAndNonsenseIsRefused) {
  Profile p = cluster({1, 2});
  p.boards[1].send = {1e-3, 2e-8};
  p.boards[1].receive = {3e-3, 4e-8};
  p.boards[1].wake_s = 5e-4;
  p.boards[0].half_layer = {{1, 64}, {1e-3, 2e-3}};
  p.gathers = {{2, 3e-4, 2e-9}, {3, 4e-4, 3e-9}};
  EXPECT_EQ(to_json(parse_profile(to_json(p), "p.json")), to_json(p));
  std::string old = to_json(p);
  old.replace(old.find("\"format\": 4"), 11, "\"format\": 3");
  EXPECT_THROW(parse_profile(old, "p.json"), FormatError);
  Profile twice = p;
  twice.boards[1].host = "b0";
  EXPECT_THROW(parse_profile(to_json(twice), "p.json"), FormatError);
  Profile negative = p;
  negative.boards[0].layer.base.seconds[0] = -1;
  EXPECT_THROW(parse_profile(to_json(negative), "p.json"), FormatError);
  Profile unlinked = p;
  unlinked.links.clear();
  EXPECT_THROW(parse_profile(to_json(unlinked), "p.json"), FormatError);
  Profile often = p;
  while (often.links.size() < 5) often.links.push_back(p.links.front());
  EXPECT_THROW(parse_profile(to_json(often), "p.json"), FormatError);
}

TEST(Simulator, AgreesWithTheRecurrenceAndDrawsEveryStage) {
  const Manifest m = small_manifest(9);
  const Profile p = cluster({1, 2, 1});
  const Planner planner(p, m, {});
  const auto stages = planner.stage_costs({{0, 1, 2}, {3, 3, 3}});
  const std::vector<std::int64_t> chunks{64, 32, 100, 60};
  const Simulation s = simulate(stages, chunks);
  EXPECT_EQ(s.spans.size(), 12u);
  EXPECT_NEAR(s.spans.back().end_s, s.ttft_s, stages[0].hop.latency_s + 1e-12);
  const std::string picture = draw(s, 60);
  EXPECT_NE(picture.find("b1:0"), std::string::npos);
  EXPECT_GT(s.idle_share(0), s.idle_share(1));  // the slow stage in the middle idles least
}

}  // namespace
}  // namespace jupiter

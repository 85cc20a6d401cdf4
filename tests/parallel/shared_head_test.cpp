// Pipelines whose stages share the output head: when a plan says so, and what it refuses.
#include <gtest/gtest.h>

#include "io/error.hpp"
#include "parallel/pipeline/output_head.hpp"
#include "planner_testing.hpp"

namespace jupiter {
namespace {

// Boards on quick links, whose output head takes `head` layers.
Profile with_head(const std::vector<double>& slow, double head) {
  Profile p = cluster(slow, 1e-4, 1e8);
  for (std::size_t b = 0; b < slow.size(); ++b) {
    p.boards[b].output_head = {{1, 16}, {head * 1e-3 * slow[b], head * 3e-3 * slow[b]}};
  }
  return p;
}

PlanRequest request(Objective objective = Objective::latency) {
  PlanRequest r;
  r.objective = objective;
  r.kind = PlanKind::pipeline;
  r.hit_rate = 0.6;
  r.workload.context_tokens = 1024;
  return r;
}

TEST(SharedHead, IsPlannedWhereTheHeadIsLongerThanAStage) {
  const Manifest m = small_manifest(8);
  const Profile p = with_head({1, 1, 1, 1}, 12);
  for (const Objective objective : {Objective::latency, Objective::throughput}) {
    const Planner planner(p, m, request(objective));
    const Plan plan = planner.best();
    ASSERT_FALSE(plan.head_helpers.empty());
    EXPECT_EQ(plan.head_helpers.size() + 1, plan.stages.size());
    check(plan, m.config, "plan");
    EXPECT_EQ(to_json(parse_plan(to_json(plan), "plan.json")), to_json(plan));
    const auto costs = planner.costs_of(plan);
    EXPECT_NEAR(1 / decode_step_s(costs, 512 + 64), plan.predicted_decode_tokens_per_s, 1e-6);
    PlanRequest alone = request(objective);
    alone.share_output_head = false;
    EXPECT_LT(planner.cost(plan), planner.cost(Planner(p, m, alone).best()));
  }
}

TEST(SharedHead, IsNotPlannedWhereItBringsNothing) {
  const Manifest m = small_manifest(8);
  EXPECT_TRUE(Planner(with_head({1, 1, 1, 1}, 0.1), m, request()).best().head_helpers.empty());
  EXPECT_TRUE(Planner(with_head({1}, 12), m, request()).best().head_helpers.empty());
  EXPECT_TRUE(Planner(with_head({1, 1}, 12), m, request(Objective::prefill)).best().head_helpers.empty());
  PlanRequest all_rows = request();
  all_rows.workload.every_row = true;
  EXPECT_TRUE(Planner(with_head({1, 1}, 12), m, all_rows).best().head_helpers.empty());
}

TEST(SharedHead, SlowBoardsHaveSmallerSharesAndPartsAreWholePanels) {
  const Manifest m = small_manifest(12);
  const Profile p = with_head({1, 3, 1, 1}, 30);
  const Plan plan = Planner(p, m, request(Objective::throughput)).best();
  ASSERT_FALSE(plan.head_helpers.empty());
  std::int64_t tokens = 0;
  double slow = 0, quick = 0;
  for (std::size_t s = 0; s < plan.stages.size(); ++s) {
    const auto part = plan.parts(s, m.config).front();
    ASSERT_TRUE(part.vocabulary);
    EXPECT_EQ(part.vocabulary->first % 16, 0);
    tokens += part.vocabulary->size();
    (plan.stages[s].host == "b1" ? slow : quick) = static_cast<double>(part.vocabulary->size());
  }
  EXPECT_EQ(tokens, m.config.vocab_size);
  EXPECT_LT(slow, 0.5 * quick);
}

TEST(SharedHead, APlanThatCannotBeIsRefused) {
  const Manifest m = small_manifest(8);
  const Plan good = Planner(with_head({1, 1, 1}, 12), m, request()).best();
  ASSERT_FALSE(good.head_helpers.empty());
  const auto refused = [&](const std::function<void(Plan&)>& change, const std::string& word) {
    Plan plan = good;
    change(plan);
    try {
      check(plan, m.config, "plan.json");
      FAIL() << word;
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ExitCode::invalid_file) << e.what();
      EXPECT_NE(std::string(e.what()).find(word), std::string::npos) << e.what();
    }
  };
  refused([](Plan& p) { p.head_helpers[0].host = "nobody"; }, "nobody:0");
  refused([](Plan& p) { p.head_helpers[0].host = p.stages.back().host; }, "output_head");
  refused([](Plan& p) { p.head_helpers.push_back(p.head_helpers[0]); }, "output_head");
  refused([](Plan& p) { p.head_helpers[0].share = 1e-6; }, "shares of at least 16 tokens");
  refused([](Plan& p) { p.head_helpers[0].share = 1.5; }, "above 0");
  std::string text = to_json(good);
  const std::size_t at = text.find("\"share\": ", text.find("\"output_head\""));
  text.replace(at, 9, "\"share\": 0.9, \"before\": ");
  EXPECT_THROW(parse_plan(text, "plan.json"), FormatError);
}

TEST(SharedHead, WhatTheLastStageAsksIsChecked) {
  const HeadStates asked{2, 3, std::vector<std::byte>(2 * 32, std::byte{7})};
  const HeadStates found = decode_head_states(encode_head_states(asked), 32);
  EXPECT_EQ(found.rows, 2);
  EXPECT_EQ(found.candidates, 3);
  EXPECT_EQ(found.residual, asked.residual);
  EXPECT_THROW(decode_head_states(encode_head_states(asked), 16), PeerError);
  EXPECT_THROW(decode_head_states(encode_head_states({2, 0, asked.residual}), 32), PeerError);
  EXPECT_THROW(decode_head_states(encode_head_states({3, 3, asked.residual}), 32), PeerError);
  EXPECT_THROW(decode_head_states(encode_head_states({0, 3, {}}), 32), PeerError);
  const std::vector<std::byte> many(17 * 32);
  EXPECT_THROW(decode_head_states(encode_head_states({17, 3, many}), 32), PeerError);
}

}  // namespace
}  // namespace jupiter

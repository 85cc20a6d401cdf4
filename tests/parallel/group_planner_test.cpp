// Plans with tensor groups: when they are taken, and what they say of themselves.
#include <gtest/gtest.h>

#include "io/error.hpp"
#include "planner_testing.hpp"

namespace jupiter {
namespace {

// A cluster whose boards can be grouped.
Profile groupable(const std::vector<double>& slow, double gather_s) {
  Profile p = cluster(slow);
  for (BoardProfile& b : p.boards) {
    b.half_layer = b.layer.base;
    for (double& s : b.half_layer.seconds) s *= 0.55;
  }
  for (int n = 2; n <= static_cast<int>(slow.size()); ++n) p.gathers.push_back({n, gather_s, 1e-8});
  return p;
}

TEST(Planner, TakesATensorGroupWhereGathersAreCheap) {
  const Manifest m = small_manifest(8);
  const PlanRequest request{.kind = PlanKind::any, .workload = {}};
  const Profile quick = groupable({1, 1, 2, 1}, 1e-5), slow = groupable({1, 1, 2, 1}, 5e-3);
  const Plan plan = Planner(quick, m, request).best();
  ASSERT_GT(plan.stages[0].boards(), 1);
  check(plan, m.config, "plan");
  const std::vector<double> shares = plan.stages[0].split().shares;
  for (std::size_t b = 0; b < plan.stages[0].others.size(); ++b) {
    if (plan.stages[0].others[b].host != "b2") continue;
    EXPECT_LT(shares[b + 1], shares[0]) << "the slow board has less";
  }
  EXPECT_EQ(Planner(slow, m, request).best().stages[0].boards(), 1);
  EXPECT_EQ(to_json(parse_plan(to_json(plan), "plan.json")), to_json(plan));
  // What the plan says of itself is what its stages cost.
  const Planner planner(quick, m, request);
  const auto costs = planner.costs_of(plan);
  EXPECT_NEAR(1 / decode_step_s(costs, 512 + 64), plan.predicted_decode_tokens_per_s, 1e-6);
}

TEST(Planner, GroupsOfBoardsFollowEachOther) {
  const Manifest m = small_manifest(8);
  const Profile p = groupable({1, 1, 1, 1}, 1e-5);
  const Plan plan = Planner(p, m, {.kind = PlanKind::groups, .workload = {}}).best();
  ASSERT_EQ(plan.stages.size(), 2u);
  EXPECT_EQ(plan.stages[0].boards(), 2);
  EXPECT_EQ(plan.stages[1].boards(), 2);
  EXPECT_EQ(plan.stages[1].last_layer, 8);
  EXPECT_TRUE(plan.left_out.empty());
}

TEST(Planner, AGroupsBoardsMustHaveRoomForTheirSlices) {
  const Manifest m = small_manifest(8);
  Profile p = groupable({1, 1}, 1e-5);
  for (BoardProfile& b : p.boards) b.memory_bytes = 1 << 20;
  EXPECT_FALSE(Planner(p, m, {.kind = PlanKind::tensor, .workload = {}}).best_of_groups(PlanKind::tensor));
  EXPECT_THROW(Planner(p, m, {.kind = PlanKind::tensor, .workload = {}}).best(), MemoryError);
}

TEST(Profile, SlicesBetweenHalfAndWholeLieOnALine) {
  BoardProfile b = groupable({1}, 0).boards[0];
  EXPECT_DOUBLE_EQ(b.slice_s(1, 8, 0), b.layer.at(8, 0));
  EXPECT_DOUBLE_EQ(b.slice_s(0.5, 8, 0), b.half_layer.at(8));
  EXPECT_NEAR(b.slice_s(0.25, 8, 0), 0.325 * b.layer.at(8, 0), 1e-12);
}

}  // namespace
}  // namespace jupiter

// What width costs, learned from frames: the machine's speed moves for all widths at once.
#include "parallel/pipeline/step_cost.hpp"

#include <gtest/gtest.h>

#include <array>

namespace jupiter {
namespace {

double seconds(std::int64_t rows, double speed) {
  return (0.008 + 0.002 * static_cast<double>(rows)) / speed;
}

FrameCost of_four_stages(double each_s) {
  return {{each_s, each_s, each_s, each_s}};
}

TEST(StepCost, LearnsWhatWidthCosts) {
  StepCost cost(4);
  for (int i = 0; i < 400; ++i) {
    const std::int64_t rows = i % 2 == 0 ? 1 : 16;
    cost.observe(rows, of_four_stages(seconds(rows, 1)));
  }
  EXPECT_NEAR(cost.slot_s(1), seconds(1, 1), 0.05 * seconds(1, 1));
  EXPECT_NEAR(cost.slot_s(16), seconds(16, 1), 0.05 * seconds(16, 1));
  EXPECT_NEAR(cost.lap_s(16), 4 * seconds(16, 1), 0.2 * seconds(16, 1));
}

TEST(StepCost, AWidthThatIsNotMeasuredNowFollowsTheMachine) {
  StepCost cost(4);
  for (int i = 0; i < 200; ++i) {
    const std::int64_t rows = i % 2 == 0 ? 1 : 16;
    cost.observe(rows, of_four_stages(seconds(rows, 1)));
  }
  for (int i = 0; i < 60; ++i) cost.observe(1, of_four_stages(seconds(1, 0.5)));
  EXPECT_NEAR(cost.slot_s(16) / cost.slot_s(1), seconds(16, 1) / seconds(1, 1), 0.5);
  EXPECT_GT(cost.slot_s(16), 1.7 * seconds(16, 1));
}

TEST(StepCost, BeginsWithTheShapeThatWasMeasured) {
  StepCost cost(2);
  const std::array<double, 8> times = {1, 1, 0.9, 2, 3, 4, 6, 8};
  cost.set_shape(times);
  cost.observe(4, {{2, 2}});
  EXPECT_DOUBLE_EQ(cost.slot_s(1), 1);
  EXPECT_DOUBLE_EQ(cost.slot_s(3), 1) << "a wider frame never costs less";
  EXPECT_DOUBLE_EQ(cost.slot_s(16), 8);
  EXPECT_GT(cost.slot_s(64), 24);
}

}  // namespace
}  // namespace jupiter

// Two computations in turn, their errors, and the halves of a frame.
#include "parallel/pipeline/lanes.hpp"

#include <gtest/gtest.h>

#include <string>

#include "io/error.hpp"
#include "parallel/pipeline/lane_pass.hpp"

namespace jupiter {
namespace {

TEST(Lanes, GoOnInTurn) {
  Lanes lanes;
  for (int again = 0; again < 3; ++again) {
    std::string order;
    const auto steps = [&](char name, int count) {
      return [&order, &lanes, name, count] {
        for (int i = 0; i < count; ++i) {
          order += name;
          lanes.turn();
        }
        order += '.';
      };
    };
    lanes.run(steps('a', 3), steps('b', 3));
    EXPECT_EQ(order, "ababab..");
    order.clear();
    lanes.run(steps('a', 1), steps('b', 3));
    EXPECT_EQ(order, "ab.bb.");
    order.clear();
    lanes.run(steps('a', 3), steps('b', 1));
    EXPECT_EQ(order, "aba.a.");
    order.clear();
    lanes.run(steps('a', 0), steps('b', 0));
    EXPECT_EQ(order, "..");
  }
}

// Counts those that live.
struct Counted {
  explicit Counted(int& count) : count_(count) { ++count_; }
  ~Counted() { --count_; }
  int& count_;
};

TEST(Lanes, AnErrorOfOneEndsBoth) {
  Lanes lanes;
  for (const bool first_fails : {true, false}) {
    int living = 0, after = 0;
    const auto lane = [&](bool fails) {
      return [&, fails] {
        const Counted here(living);
        lanes.turn();
        if (fails) throw PeerError("gone");
        lanes.turn();
        lanes.turn();
        ++after;
      };
    };
    EXPECT_THROW(lanes.run(lane(first_fails), lane(!first_fails)), PeerError);
    EXPECT_EQ(living, 0);
    EXPECT_EQ(after, 0);
  }
  int done = 0;
  lanes.run([&] { ++done; }, [&] { ++done; });  // they can be used again
  EXPECT_EQ(done, 2);
}

TEST(LanePass, HalvesOfRuns) {
  const Sequence a, b;
  const std::vector<RowRun> runs{{&a, 10, 5, {}}, {&b, 0, 7, {}}};
  for (std::int64_t rows = 0; rows <= 12; ++rows) {
    const auto [first, second] = split_runs(runs, rows);
    std::vector<std::pair<const Sequence*, std::int64_t>> all;
    std::int64_t count = 0;
    for (const auto* half : {&first, &second}) {
      for (const RowRun& run : *half) {
        EXPECT_GT(run.rows, 0);
        for (std::int64_t i = 0; i < run.rows; ++i) all.emplace_back(run.sequence, run.position(i));
      }
      if (half == &first) count = std::ssize(all);
    }
    EXPECT_EQ(count, rows);
    ASSERT_EQ(all.size(), 12u);
    for (std::int64_t i = 0; i < 12; ++i) {
      EXPECT_EQ(all[i].first, i < 5 ? &a : &b);
      EXPECT_EQ(all[i].second, i < 5 ? 10 + i : i - 5);
    }
  }
  EXPECT_FALSE(LanePass::suits(runs, 12));
  EXPECT_TRUE(LanePass::suits({{&a, 0, 64, {}}}, 64));
  RowRun tree{&a, 0, 64, {}};
  tree.tree.resize(64);
  EXPECT_FALSE(LanePass::suits({tree}, 64));
}

}  // namespace
}  // namespace jupiter

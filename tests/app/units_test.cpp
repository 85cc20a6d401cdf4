// Small units of the application: stop strings, workloads, subcommands.
#include <gtest/gtest.h>

#include <set>

#include "app/commands.hpp"
#include "app/stop_strings.hpp"
#include "app/workload.hpp"
#include "io/convert/synth.hpp"

namespace jupiter {
namespace {

std::string shown(std::vector<std::string> stops, const std::vector<std::string>& pieces, bool* found = nullptr) {
  StopStrings s(std::move(stops));
  std::string text;
  for (const std::string& piece : pieces) {
    if (!s.found()) text += s.push(piece);
  }
  if (!s.found()) text += s.finish();
  if (found != nullptr) *found = s.found();
  return text;
}

TEST(StopStrings, EndAnAnswerHoweverItsTextIsCut) {
  bool found = false;
  EXPECT_EQ(shown({"STOP"}, {"one ST", "OP two"}, &found), "one ");
  EXPECT_TRUE(found);
  EXPECT_EQ(shown({"STOP"}, {"one S", "T", "AR"}, &found), "one STAR");
  EXPECT_FALSE(found);
  EXPECT_EQ(shown({"bc", "ab"}, {"xabc"}), "x");  // the one that begins first
  EXPECT_EQ(shown({}, {"all", " of it"}), "all of it");
  EXPECT_EQ(shown({"aab"}, {"a", "a", "a", "b", "c"}), "a");
}

TEST(Workload, NobodyGetsMoreThanTheCacheThatWasAskedFor) {
  const ModelConfig config = *synth_shape("tiny");
  EngineOptions o;
  EXPECT_EQ(workload_of(o, config, 2).context_tokens, config.max_seq_len);
  o.cache_tokens = 256;
  EXPECT_EQ(workload_of(o, config, 2).context_tokens, 256);
  o.cache_tokens = 4 * config.max_seq_len;
  EXPECT_EQ(workload_of(o, config, 2).context_tokens, config.max_seq_len);
  o.context_tokens = 100;
  EXPECT_EQ(workload_of(o, config, 2).context_tokens, 100);
  o.context_tokens = config.max_seq_len + 1;
  EXPECT_THROW(workload_of(o, config, 2), UsageError);
}

TEST(Workload, OptionsComeFirstThenThePlan) {
  const ModelConfig config = *synth_shape("tiny");
  Plan plan;
  plan.context_tokens = 512;
  plan.workload = Workload{.requests = 4, .most_at_once = 4, .context_tokens = 512, .cache_tokens = 2048};
  EngineOptions o;
  take_from_plan(plan, config, o);
  EXPECT_EQ(o.context_tokens, 512);
  EXPECT_EQ(o.most_at_once, 4);
  EngineOptions given;
  given.context_tokens = 300;
  given.most_at_once = 2;
  take_from_plan(plan, config, given);
  EXPECT_EQ(given.context_tokens, 300);
  EXPECT_EQ(given.most_at_once, 2);
}

TEST(Commands, EachHasAName) {
  std::set<std::string> names;
  for (const Command& c : commands()) {
    EXPECT_NE(c.function, nullptr);
    EXPECT_FALSE(std::string(c.summary).empty());
    EXPECT_TRUE(names.insert(c.name).second) << c.name;
  }
  EXPECT_TRUE(names.contains("run") && names.contains("batch"));
}

}  // namespace
}  // namespace jupiter

// Options: one declaration is the default, the range, the error and the help.
#include "app/options.hpp"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "app/decoding.hpp"
#include "app/engine.hpp"
#include "app/prompt.hpp"

namespace jupiter {
namespace {

enum class Colour { red, green };

struct Everything {
  std::string file = "a.json";
  std::optional<std::string> other;
  std::int64_t count = 7;
  std::int64_t limit = 0;  // not given
  float share = 0.5f;
  std::vector<std::int64_t> sizes{1, 2};
  std::vector<std::string> words;
  bool check = true;
  Colour colour = Colour::green;

  void declare(OptionSet& o) {
    o.positional("source", file, "FILE", "What to read");
    o.text("other", other, "TEXT", "Another");
    o.group("Numbers");
    o.number("c,count", count, {1, 10}, "N", "How many");
    o.number("limit", limit, {1, 100}, "N", "At most");
    o.number("share", share, {0, 1}, "X", "Part");
    o.numbers("sizes", sizes, {0, 9}, "N", "Sizes");
    o.texts("w,word", words, "TEXT", "Words");
    o.flag("no-check", check, "Do not check");
    o.choice("colour", colour, {{"red", Colour::red}, {"green", Colour::green}}, "Which one");
  }
};

Everything parsed(const Arguments& arguments) {
  const MpiSession mpi;
  Everything e;
  OptionSet set("test", "A test.");
  e.declare(set);
  EXPECT_TRUE(set.parse(mpi, arguments));
  return e;
}

std::string error_of(const Arguments& arguments) {
  try {
    parsed(arguments);
  } catch (const CollectiveError& e) {
    EXPECT_EQ(e.code(), ExitCode::usage);
    return e.what();
  }
  return "none";
}

TEST(Options, WhatIsNotGivenStaysAsItWas) {
  const Everything e = parsed({});
  EXPECT_EQ(e.file, "a.json");
  EXPECT_FALSE(e.other.has_value());
  EXPECT_EQ(e.count, 7);
  EXPECT_EQ(e.limit, 0);
  EXPECT_EQ(e.sizes, (std::vector<std::int64_t>{1, 2}));
  EXPECT_TRUE(e.check);
  EXPECT_EQ(e.colour, Colour::green);
}

TEST(Options, EachSetsItsVariable) {
  const Everything e = parsed({"in.json", "--other", "", "-c", "10", "--limit=3", "--share", "0.25", "--sizes", "0,9",
                               "-w", "one", "--word", "two,three", "--no-check", "--colour", "red"});
  EXPECT_EQ(e.file, "in.json");
  EXPECT_EQ(e.other, "");
  EXPECT_EQ(e.count, 10);
  EXPECT_EQ(e.limit, 3);
  EXPECT_EQ(e.share, 0.25f);
  EXPECT_EQ(e.sizes, (std::vector<std::int64_t>{0, 9}));
  EXPECT_EQ(e.words, (std::vector<std::string>{"one", "two", "three"}));
  EXPECT_FALSE(e.check);
  EXPECT_EQ(e.colour, Colour::red);
}

TEST(Options, ErrorsNameOptionRangeAndWhatWasFound) {
  EXPECT_EQ(error_of({"-c", "11"}), "--count (-c): expected 1 to 10, found 11");
  EXPECT_EQ(error_of({"--limit", "0"}), "--limit: expected 1 to 100, found 0");
  EXPECT_EQ(error_of({"--share", "nan"}), "--share: expected 0 to 1, found nan");
  EXPECT_EQ(error_of({"--sizes", "3,12"}), "--sizes: expected 0 to 9, found 12");
  EXPECT_EQ(error_of({"--colour", "blue"}), "--colour: expected red or green, found 'blue'");
  EXPECT_EQ(error_of({"--count", "many"}), "--count (-c): expected a whole number, found 'many'");
  EXPECT_EQ(error_of({"--count", "1,2"}), "--count (-c): expected a whole number, found '1,2'");
  EXPECT_EQ(error_of({"--count", "99999999999999999999"}),
            "--count (-c): expected 1 to 10, found 99999999999999999999");
  EXPECT_EQ(error_of({"--share", "half"}), "--share: expected a number, found 'half'");
  EXPECT_EQ(error_of({"--sizes", "1,x"}), "--sizes: expected a whole number, found 'x'");
  for (const Arguments& wrong : std::vector<Arguments>{{"--count"}, {"--unknown"}, {"a", "b"}}) {
    EXPECT_NE(error_of(wrong).find("see --help"), std::string::npos) << wrong.front();
  }
}

TEST(Options, HelpShowsDefaultsOnlyWhereThereAreSome) {
  const MpiSession mpi;
  Everything e;
  OptionSet set("test", "A test.");
  e.declare(set);
  testing::internal::CaptureStdout();
  EXPECT_FALSE(set.parse(mpi, {"--describe-options"}));
  const auto j = nlohmann::json::parse(testing::internal::GetCapturedStdout());
  EXPECT_EQ(j["command"], "test");
  EXPECT_EQ(j["positional"], "source");
  std::map<std::string, nlohmann::json> options;
  for (const auto& group : j["groups"]) {
    for (const auto& o : group["options"]) options[o["long"].get<std::string>()] = o;
  }
  EXPECT_EQ(options.size(), 10u);  // with --help
  EXPECT_EQ(options["count"]["default"], "7");
  EXPECT_EQ(options["count"]["short"], "c");
  EXPECT_EQ(options["limit"]["default"], "");
  EXPECT_EQ(options["colour"]["default"], "green");
  EXPECT_EQ(options["sizes"]["default"], "1,2");
  EXPECT_EQ(options["no-check"]["value"], "");
}

TEST(Options, SamplingHasTheSameRangesOnTheCommandLineAndInARequest) {
  SamplingOptions s;
  int options = 0;
  visit_sampling(s, [&](const char* option, const char* key, auto& place, auto range, const char*, const char*) {
    ++options;
    std::string as_key = option;
    std::replace(as_key.begin(), as_key.end(), '-', '_');
    EXPECT_TRUE(as_key == key || as_key == "temp");
    EXPECT_GE(place, range.low);
    EXPECT_LE(place, range.high);
  });
  EXPECT_EQ(options, 8);
}

TEST(Options, AWidthHoldsTheDraftsAndTheRoot) {
  const MpiSession mpi;
  const auto decoding = [&](const Arguments& arguments) {
    DecodingOptions d;
    OptionSet set("test", "A test.");
    d.declare(set);
    set.parse(mpi, arguments);
    d.check(set);
    return d;
  };
  EXPECT_EQ(decoding({}).decode.mode, DecodeMode::continuous);
  EXPECT_TRUE(decoding({}).auto_draft);
  EXPECT_FALSE(decoding({}).mode_given);
  EXPECT_EQ(decoding({"--decode", "plain", "--spec-mode", "lap"}).decode.mode, DecodeMode::plain);
  EXPECT_EQ(decoding({"--spec-mode", "lap"}).decode.mode, DecodeMode::lap);
  EXPECT_EQ(decoding({"--draft-max", "4", "--draft-width", "5"}).decode.fixed_width, 5);
  EXPECT_THROW(decoding({"--draft-max", "4", "--draft-width", "6"}), CollectiveError);
  EXPECT_THROW(decoding({"--draft", "heads,model=x"}), CollectiveError);
  EXPECT_EQ(decoding({"--draft", "table=f,lookup"}).drafts.size(), 2u);
}

}  // namespace
}  // namespace jupiter

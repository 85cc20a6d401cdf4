// Outlines as models write them, well and badly; the router on questions it did not learn from.
#include "parallel/outline/outline.hpp"

#include <gtest/gtest.h>

#include <fstream>

#include "io/error.hpp"
#include "io/files.hpp"
#include "parallel/outline/router.hpp"

namespace jupiter {
namespace {

using Points = std::vector<std::string>;

TEST(Outline, NumberedLinesArePoints) {
  EXPECT_EQ(parse_outline("1. Plan ahead.\n2. Sleep well:\n3) Eat\n", 10), (Points{"Plan ahead", "Sleep well", "Eat"}));
}

TEST(Outline, RepeatedMissingAndEmptyOnesAreLeftOut) {
  EXPECT_EQ(parse_outline("1. One\n1. Again\n3. Three\n4.\n5. One\n7. **Seven**\n", 10),
            (Points{"One", "Three", "Seven"}));
}

TEST(Outline, LinesThatComeLaterChangeNoPoint) {
  const std::string text = "1. One\n3. Three: because\n2. Two\n2. One\nnone\n4. Three\n5. **Five**: x\n6. Six";
  const Points all = parse_outline(text, 10);
  EXPECT_EQ(all, (Points{"One", "Three", "Five", "Six"}));
  for (std::size_t end = 0; (end = text.find('\n', end)) != std::string::npos; ++end) {
    const Points some = parse_outline(text.substr(0, end + 1), 10);
    EXPECT_TRUE(std::equal(some.begin(), some.end(), all.begin())) << end;
  }
}

TEST(Outline, WhatIsNoListGivesNoPoints) {
  EXPECT_TRUE(parse_outline("", 10).empty());
  EXPECT_TRUE(parse_outline("There are many ways.\n- one\n- two\n", 10).empty());
  EXPECT_TRUE(parse_outline("1", 10).empty());
  EXPECT_TRUE(parse_outline("0. Nothing\n1234. Far\n", 10).empty());
  EXPECT_TRUE(parse_outline("1. " + std::string(500, 'x'), 10).empty());
}

TEST(Outline, OnlySoManyPoints) {
  EXPECT_EQ(parse_outline("1. a\n2. b\n3. c\n", 2), (Points{"a", "b"}));
}

// What is shown of a point's text, given whole and byte by byte.
std::string shown(const std::string& text, bool& ended) {
  PointText whole, parts;
  const std::string out = whole.push(text);
  std::string by_byte;
  for (const char c : text) by_byte += parts.push(std::string(1, c));
  EXPECT_EQ(by_byte, out);
  EXPECT_EQ(parts.ended(), whole.ended());
  ended = whole.ended();
  return out;
}

TEST(Outline, APointEndsWhereSomethingElseBegins) {
  bool ended = false;
  for (const std::string other : {"2. Next", "12) x", "**Next**", "# Next", "\n3.\n"}) {
    EXPECT_EQ(shown(" It is so.\n\n" + other, ended), " It is so.") << other;
    EXPECT_TRUE(ended) << other;
  }
  for (const std::string same : {"In 1999 it was.", "3.5 of them.", "* an item", "2024. It", "- an item"}) {
    EXPECT_EQ(shown(" It is so. \n " + same, ended), " It is so.\n " + same) << same;
    EXPECT_FALSE(ended) << same;
  }
}

TEST(Outline, APointBeginsBehindItsHeading) {
  bool ended = false;
  EXPECT_EQ(shown("\n\nThis is it. ", ended), " This is it.");
  EXPECT_EQ(shown("\n1. A list\n", ended), " 1. A list");  // of its own: there is no text before it
  EXPECT_FALSE(ended);
  EXPECT_EQ(shown(" \n\n", ended), "");
}

TEST(Outline, ASentenceForTheSecondTimeEndsAPoint) {
  bool ended = false;
  const std::string sentence = " It is a good thing to do.";
  shown(sentence + " And more." + sentence + " Not this.", ended);
  EXPECT_TRUE(ended);
  EXPECT_EQ(shown(" Yes. No. Yes. No. Yes. ", ended), " Yes. No. Yes. No. Yes.");
  EXPECT_FALSE(ended);  // short ones may return
}

TEST(Outline, APointKnowsTheEndOfASentence) {
  PointText text;
  EXPECT_FALSE(text.at_end_of_sentence());
  text.push(" It is 3");
  EXPECT_FALSE(text.at_end_of_sentence());
  text.push(". ");
  EXPECT_TRUE(text.at_end_of_sentence());
}

TEST(Outline, AFileOfPromptsIsChecked) {
  const std::string file = ::testing::TempDir() + "outline-prompts.json";
  const auto read = [&](const std::string& text) {
    std::ofstream(file) << text;
    return OutlinePrompts::read(file);
  };
  const std::string requests = R"("outline_request": "{question}", "point_request": "{question} {point}")";
  EXPECT_TRUE(read("{" + requests + "}").examples.empty());
  const auto with = read("{" + requests + R"(, "examples": [{"question": "q", "outline": "1. a\n2. b"}]})");
  ASSERT_EQ(with.examples.size(), 1U);
  EXPECT_EQ(with.examples[0].outline, "1. a\n2. b");
  for (const std::string& bad :
       {std::string(R"({"outline_request": "list", "point_request": "p"})"),
        std::string(R"({"outline_request": "{question}", "point_request": "{outline} {point}"})"),
        std::string(R"({"outline_request": "{question}"})"), "{" + requests + R"(, "examples": [{"question": "q"}]})",
        "{" + requests + R"(, "examples": [{"question": "q", "outline": "1. alone"}]})",
        "{" + requests + R"(, "examples": 1})"}) {
    EXPECT_THROW(read(bad), FormatError) << bad;
  }
}

TEST(Router, JudgesQuestionsItDidNotLearnFrom) {
  const std::string text = read_file(std::string(JUPITER_TEST_DATA) + "/router_vicuna.csv");
  int right = 0, all = 0;
  std::size_t at = text.find('\n') + 1;  // below the head
  while (at < text.size()) {
    const bool suits = text[at] == '1';
    at += 2;
    std::string question;
    bool quoted = text[at] == '"';
    for (at += quoted ? 1 : 0; at < text.size(); ++at) {
      if (quoted && text[at] == '"') {
        if (at + 1 < text.size() && text[at + 1] == '"') {
          ++at;
        } else {
          quoted = false;
          continue;
        }
      } else if (!quoted && text[at] == '\n') {
        break;
      }
      question += text[at];
    }
    ++at;
    ++all;
    right += (outline_suits(question) > 0.5) == suits;
  }
  EXPECT_EQ(all, 80);
  EXPECT_GE(right, 68);  // 0.85
}

TEST(Router, AnyBytesGiveAProbability) {
  for (const std::string& q :
       {std::string(), std::string("\xff\x00\xfe", 3), std::string(100000, 'a'), std::string("7")}) {
    const double p = outline_suits(q);
    EXPECT_GE(p, 0);
    EXPECT_LE(p, 1);
  }
}

}  // namespace
}  // namespace jupiter

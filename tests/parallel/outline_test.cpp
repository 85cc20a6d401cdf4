// Outlines as models write them, well and badly; the router on questions it did not learn from.
#include "parallel/outline.hpp"

#include <gtest/gtest.h>

#include <fstream>

#include "io/files.hpp"
#include "parallel/router.hpp"

namespace jupiter {
namespace {

using Points = std::vector<std::string>;

TEST(Outline, NumberedLinesArePoints) {
  EXPECT_EQ(parse_outline("1. Plan ahead.\n2. Sleep well:\n3) Eat\n", 10), (Points{"Plan ahead", "Sleep well", "Eat"}));
}

TEST(Outline, RepeatedMissingAndEmptyOnesAreLeftOut) {
  EXPECT_EQ(parse_outline("1. One\n1. Again\n3. Three\n4.\n5. One\n7. **Seven**\n", 10),
            (Points{"One", "Three", "Seven"}));
  EXPECT_EQ(parse_outline("2. Two\n1. One\n", 10), (Points{"One", "Two"}));
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

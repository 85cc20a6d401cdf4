// The rules that cut text into words, case by case; tokenizer_test.cpp compares them with Hugging Face's.
#include "io/tokenizer/pretokenizer.hpp"

#include <gtest/gtest.h>

#include <string>

namespace jupiter {
namespace {

using Words = std::vector<std::string_view>;

TEST(PreTokenizer, Gpt2) {
  const auto split = [](std::string_view text) { return split_words(text, PreTokenizer::gpt2); };
  EXPECT_EQ(split("Hello, it's 12 o'clock"), (Words{"Hello", ",", " it", "'s", " 12", " o", "'", "clock"}));
  EXPECT_EQ(split("a   b"), (Words{"a", "  ", " b"}));
  EXPECT_EQ(split("a \n b"), (Words{"a", " \n", " b"}));
  EXPECT_EQ(split("a\n\nb"), (Words{"a", "\n", "\n", "b"}));
  EXPECT_EQ(split("a  "), (Words{"a", "  "}));
  EXPECT_EQ(split("IT'S"), (Words{"IT", "'", "S"}));
  EXPECT_EQ(split(" \u00a0x"), (Words{" ", "\u00a0", "x"}));
}

TEST(PreTokenizer, SmolLmCutsOutEveryDigitFirst) {
  const auto split = [](std::string_view text) { return split_words(text, PreTokenizer::smollm); };
  EXPECT_EQ(split("a 12 b"), (Words{"a", " ", "1", "2", " b"}));
  EXPECT_EQ(split("a  1"), (Words{"a", "  ", "1"}));
  EXPECT_EQ(split("x½Ⅷ"), (Words{"x", "½", "Ⅷ"}));
}

TEST(PreTokenizer, Llama3) {
  const auto split = [](std::string_view text) { return split_words(text, PreTokenizer::llama3); };
  EXPECT_EQ(split("1234567 12"), (Words{"123", "456", "7", " ", "12"}));
  EXPECT_EQ(split("IT'S .x(y)"), (Words{"IT", "'S", " .", "x", "(y", ")"}));
  EXPECT_EQ(split("a!\r\n\nb"), (Words{"a", "!\r\n\n", "b"}));
  EXPECT_EQ(split("a \n\n  b"), (Words{"a", " \n\n", " ", " b"}));
  EXPECT_EQ(split("\tx\u00a0y"), (Words{"\tx", "\u00a0y"}));
}

TEST(PreTokenizer, O200k) {
  const auto split = [](std::string_view text) { return split_words(text, PreTokenizer::o200k); };
  EXPECT_EQ(split("HelloWorld's FOO"), (Words{"Hello", "World's", " FOO"}));
  EXPECT_EQ(split("JSONParser ABC"), (Words{"JSONParser", " ABC"}));
  EXPECT_EQ(split("日本Go x"), (Words{"日本Go", " x"}));
  EXPECT_EQ(split("A日B"), (Words{"A日", "B"}));
  EXPECT_EQ(split("1234 a/b//\n/x"), (Words{"123", "4", " a", "/b", "//\n/", "x"}));
  EXPECT_EQ(split("a!\r\n\nb  c"), (Words{"a", "!\r\n\n", "b", " ", " c"}));
  EXPECT_EQ(split("\u0301e .\u0301"), (Words{"\u0301e", " .\u0301"}));
}

TEST(PreTokenizer, Qwen2) {
  const auto split = [](std::string_view text) { return split_words(text, PreTokenizer::qwen2); };
  EXPECT_EQ(split("123 it'LL"), (Words{"1", "2", "3", " it", "'LL"}));
}

TEST(PreTokenizer, WordsCoverAnyBytes) {
  const std::string text =
      "\xff"
      "a\xc3 \xe2\x82 1\n\x80\x80";
  for (const PreTokenizer pre :
       {PreTokenizer::none, PreTokenizer::gpt2, PreTokenizer::smollm, PreTokenizer::llama3, PreTokenizer::qwen2}) {
    std::string joined;
    for (const std::string_view word : split_words(text, pre)) {
      EXPECT_FALSE(word.empty());
      joined += word;
    }
    EXPECT_EQ(joined, text);
    EXPECT_TRUE(split_words("", pre).empty());
  }
}

}  // namespace
}  // namespace jupiter

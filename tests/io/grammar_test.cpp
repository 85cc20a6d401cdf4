// Grammars: what they take and refuse, what is wrong with their texts, and which tokens may follow.
#include <gtest/gtest.h>

#include <random>

#include "grammar_testing.hpp"
#include "io/error.hpp"
#include "io/tokenizer/utf8.hpp"

namespace jupiter {
namespace {

std::string error_of(const std::string& grammar) {
  try {
    check({grammar}, "g");
  } catch (const UsageError& e) {
    return e.what();
  }
  return "";
}

struct Case {
  const char* grammar;
  std::vector<std::string> taken, refused;
};

TEST(Grammar, TakesWhatItsRulesSay) {
  const std::vector<Case> cases = {
      {"root ::= \"yes\" | \"no\"", {"yes", "no"}, {"", "ye", "yesno", "maybe"}},
      {"root ::= [a-c]+ [^a-c]?", {"a", "abc", "abcx", "c\n"}, {"", "x", "abcxx"}},
      {"root ::= a{2} b{1,2} c{0,} d{0,1}\na ::= \"a\"\nb ::= \"b\"\nc ::= \"c\"\nd ::= \"d\"",
       {"aab", "aabb", "aabccc", "aabbcd"},
       {"ab", "aa", "aabbb", "aaabb", "aabdd"}},
      {"root ::= (\"a\" | \"b\" # a comment\n  | \"c\")* # another\n", {"", "abcab"}, {"d", "abd"}},
      {"root ::= \"x\"\n  | \"y\" z\nz ::= | \"z\"", {"x", "y", "yz"}, {"z", "xz"}},
      {"root ::= . \"\\n\\t\\\"\\\\\\x41\\u00e9\"", {"ä\n\t\"\\Aé", "x\n\t\"\\Aé"}, {"\n\t\"\\Aé", "\xff\n\t\"\\Aé"}},
      {"root ::= [\\]\\-\\^a]+", {"]", "-^a]"}, {"", "b", "\\"}},
      {"root ::= [a-]+ [^\\n]", {"-a-x", "ab"}, {"a\n", "x"}},
      {"root ::= \"(\" root \")\" | \"x\"", {"x", "(x)", "((((x))))"}, {"(x", "((x)", "x)"}},
      {"root ::= item (\",\" item)*\nitem ::= [0-9]+ | \"[\" root \"]\"",
       {"1", "1,22,[3,[4],5]", "[[[1]]]"},
       {"1,", "[1", "1]"}},
      {"root ::= ws\nws ::= [ \\t] ws | \"\"", {"", " ", " \t \t"}, {"x"}},
      {"root ::= (\"a\"*)* \"b\"", {"b", "aab"}, {"a", "ba"}},
      {"root ::= (a-1)? a_2\na-1 ::= \"1\"\na_2 ::= \"2\"", {"2", "12"}, {"1"}},
  };
  for (const Case& c : cases) {
    for (const std::string& text : c.taken) EXPECT_TRUE(takes(c.grammar, text)) << c.grammar << "\n" << text;
    for (const std::string& text : c.refused) EXPECT_FALSE(takes(c.grammar, text)) << c.grammar << "\n" << text;
  }
}

TEST(Grammar, CharactersAreThoseOfUtf8) {
  const std::string any = "root ::= .";
  std::mt19937 random(1);
  for (int i = 0; i < 3000; ++i) {
    const char32_t code = i < 200 ? static_cast<char32_t>(i * 8) : static_cast<char32_t>(random() % 0x110000);
    std::string text;
    append_utf8(code, text);
    const bool surrogate = code >= 0xD800 && code <= 0xDFFF;
    EXPECT_EQ(takes(any, text), !surrogate) << static_cast<std::uint32_t>(code);
  }
  for (const char* wrong :
       {"\x80", "\xc0\x80", "\xe0\x80\x80", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xf8\x88\x80\x80\x80"}) {
    EXPECT_FALSE(takes(any, wrong));
  }
  const std::string cyrillic = "root ::= [а-яё]+";
  EXPECT_TRUE(takes(cyrillic, "ёлка"));
  EXPECT_FALSE(takes(cyrillic, "Ёлка"));
  const std::string wide = "root ::= [\\u07f0-\\U00010010]";
  for (const auto& [text, taken] : std::vector<std::pair<std::string, bool>>{{"\u07ef", false},
                                                                             {"\u07f0", true},
                                                                             {"\u0800", true},
                                                                             {"\uffff", true},
                                                                             {"\U00010010", true},
                                                                             {"\U00010011", false}}) {
    EXPECT_EQ(takes(wide, text), taken) << text;
  }
}

TEST(Grammar, ErrorsNameThePlace) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"", "line 1, column 1: expected a rule named root"},
      {"rot ::= \"a\"", "root"},
      {"root ::= missing", "line 1, column 10: expected a rule named missing"},
      {"root ::= \"a", "line 1, column 10: expected \" at the end"},
      {"root ::= [a", "line 1, column 10: expected ] at the end"},
      {"root ::= []", "at least one character"},
      {"root ::= [z-a]", "rising"},
      {"root ::= (\"a\"", "expected ) at the end of a group"},
      {"root ::= \"a\")", "column 13"},
      {"root ::= \"a\"{3,2}", "column 13"},
      {"root ::= \"a\"{x}", "number of repetitions"},
      {"root ::= \"a\"{999999999999}", "at most 100000"},
      {"root ::= \"\\q\"", "an escape"},
      {"root ::= \"\\xg0\"", "hexadecimal"},
      {"root ::= \"\\ud800\"", "a character's number"},
      {"root = \"a\"", "::="},
      {"root ::= \"a\"\nroot ::= \"b\"", "line 2, column 1: expected one rule named root"},
      {"root ::= root \"a\" | \"b\"", "left recursion"},
      {"root ::= a\na ::= b* a \"x\" | \"y\"\nb ::= \"b\"", "line 2, column 1"},
      {"root ::= a \"x\"\na ::= b\nb ::= root", "left recursion"},
      {"root ::= \"x\" root", "come to an end"},
      {"root ::= \"x\" a | \"y\"\na ::= \"(\" a \")\"", "line 2, column 1"},
      {"root ::= ((\"abc\"{1000}){1000}){1000}", "at most"},
      {"root ::= ((\"\"{90000}){90000}){90000}", "at most"},
      {"root ::= \"\xff\"", "UTF-8"},
      {"root ::= <think>", "column 10"},
      {std::string(kMostGrammarBytes + 1, ' '), "bytes"},
      {"root ::= " + std::string(200, '(') + "\"a\"" + std::string(200, ')'), "deeper"},
      {"\nroot ::= \"a\" $", "line 2, column 14"},
      {"root ::= \"a\"" + std::string(200'000, '?'), "at most 8 repetitions of one element"},
  };
  for (const auto& [grammar, message] : cases) {
    EXPECT_NE(error_of(grammar).find(message), std::string::npos) << grammar.substr(0, 80) << "\n" << error_of(grammar);
  }
  std::string many = "root ::= r0\n";
  for (std::size_t i = 0; i < kMostGrammarRules; ++i) {
    many += "r" + std::to_string(i) + " ::= r" + std::to_string(i + 1) + "\n";
  }
  EXPECT_NE(error_of(many + "r" + std::to_string(kMostGrammarRules) + " ::= \"x\"").find("rules"), std::string::npos);
}

TEST(Grammar, NonsenseIsAnErrorAndNothingElse) {
  constexpr std::string_view kPieces[] = {"root", " ::= ",  "\"a\"", "[a-z]", "(",  ")",  "|",    "*",
                                          "+",    "?",      "{2}",   "{,",    "\n", "#x", "..",   "\\x",
                                          "\xc3", "b ::= ", "b",     "[^",    "]",  "\"", "{1,3}"};
  std::size_t good = 0;
  for (unsigned seed = 0; seed < 20'000; ++seed) {
    std::mt19937 random(seed);
    std::string text = seed % 2 == 0 ? "root ::= " : "";
    for (auto i = random() % 12; i > 0; --i) text += kPieces[random() % std::size(kPieces)];
    try {
      check({text}, "g");
      ++good;
    } catch (const UsageError&) {
    }
  }
  EXPECT_GT(good, 300u);
}

// Tokens as in a vocabulary; the last one has no place in a text.
std::shared_ptr<const TokenTrie> vocabulary(bool space_prefix = false) {
  return std::make_shared<TokenTrie>(std::vector<std::string>{"a", "b", "ab", "abc", "c", " ", " a", "\xc3", "\xa4",
                                                              "ä", "x", "\"", "aa", "", "yes", "ye"},
                                     space_prefix);
}

std::vector<TokenId> allowed(Matcher& m, Matcher::State s) {
  std::vector<TokenId> tokens;
  for (TokenId t = 0; t < m.vocabulary().vocab_size(); ++t) {
    if (m.mask(s).has(t)) tokens.push_back(t);
    EXPECT_EQ(m.mask(s).has(t), m.next_token(s, t) != Matcher::kRefused) << t;
  }
  EXPECT_EQ(std::ssize(tokens), m.mask(s).count);
  return tokens;
}

TEST(Grammar, MasksNameTheTokensThatMayFollow) {
  Matcher m({"root ::= \"ab\" (\"c\" | \"ä\")"}, vocabulary());
  EXPECT_EQ(allowed(m, m.start()), (std::vector<TokenId>{0, 2, 3}));
  const Matcher::State ab = m.next_token(m.start(), 2);
  EXPECT_EQ(allowed(m, ab), (std::vector<TokenId>{4, 7, 9}));
  const Matcher::State half = m.next_token(ab, 7);  // half of a character
  EXPECT_EQ(allowed(m, half), std::vector<TokenId>{8});
  EXPECT_FALSE(m.may_end(half));
  const Matcher::State end = m.next_token(half, 8);
  EXPECT_TRUE(m.may_end(end));
  EXPECT_TRUE(allowed(m, end).empty());
  EXPECT_EQ(m.next_token(m.start(), 13), Matcher::kRefused);
  EXPECT_EQ(m.next_token(m.start(), 99), Matcher::kRefused);
}

TEST(Grammar, ASpaceThatIsNotShownDoesNotCount) {
  Matcher m({"root ::= \"a\" \" a\"*"}, vocabulary(true));
  EXPECT_EQ(allowed(m, m.start()), (std::vector<TokenId>{0, 5, 6}));
  const Matcher::State a = m.next_token(m.start(), 6);
  EXPECT_EQ(a, m.next_token(m.start(), 0));
  EXPECT_EQ(allowed(m, a), (std::vector<TokenId>{5, 6}));
  EXPECT_EQ(allowed(m, m.next_token(m.start(), 5)), std::vector<TokenId>{0});
}

TEST(Grammar, ATriggerBeginsIt) {
  Matcher m({"root ::= \"aabb\"", "aab"}, vocabulary());
  const Matcher::State s = m.start();
  EXPECT_TRUE(m.is_free(s) && m.may_end(s));
  EXPECT_EQ(std::ssize(allowed(m, s)), m.vocabulary().vocab_size());
  EXPECT_EQ(m.next_token(s, 13), s);
  for (const char* text : {"aab", "xaab", "aaab", "xxäaab"}) {
    const Matcher::State bound = m.next(s, text);
    EXPECT_FALSE(m.is_free(bound) || m.may_end(bound)) << text;
    EXPECT_EQ(allowed(m, bound), std::vector<TokenId>{1});
  }
  EXPECT_EQ(m.next(s, "aabc"), Matcher::kRefused);
  const Matcher::State aa = m.next_token(s, 12);
  EXPECT_FALSE(m.mask(aa).has(3)) << "abc would go on behind the trigger with another letter";
  Matcher first({"root ::= \"ab\"", "a", true}, vocabulary());
  EXPECT_FALSE(first.is_free(first.next(first.start(), "a")));
  EXPECT_TRUE(first.is_free(first.next(first.start(), "xa")));
}

TEST(Grammar, AGrammarBeginsWithItsTrigger) {
  EXPECT_NO_THROW(check({"root ::= \"<x>\" [a-z]", "<x>"}, "g"));
  EXPECT_THROW(check({"root ::= \"<y>\" [a-z]", "<x>"}, "g"), UsageError);
  EXPECT_THROW(check({"root ::= [a-z]*", std::string(kMostTriggerBytes + 1, 'a')}, "g"), UsageError);
}

TEST(Grammar, WhatIsForcedIsKnown) {
  Matcher m({"root ::= \"abcx\" [a-b] \"ye\"?"}, vocabulary());
  EXPECT_EQ(m.forced(m.start(), 100), "abcx");
  EXPECT_EQ(m.forced(m.start(), 2), "ab");
  EXPECT_EQ(m.forced(m.next(m.start(), "abcx"), 100), "");
  EXPECT_EQ(m.forced(m.next(m.start(), "abcxa"), 100), "") << "the answer may end";
  EXPECT_EQ(m.vocabulary().longest_prefix("abcx"), 3);
  EXPECT_EQ(m.vocabulary().longest_prefix("yet"), 15);
  EXPECT_EQ(m.vocabulary().longest_prefix("zz"), -1);
}

// Two matchers agree whatever they were asked before, and a state goes from one to the other.
TEST(Grammar, StatesGoFromOneMatcherToAnother) {
  const GrammarSpec spec{"root ::= item (\",\" item)*\nitem ::= [ab]+ | \"[\" root \"]\""};
  for (unsigned seed = 0; seed < 200; ++seed) {
    std::mt19937 random(seed);
    Matcher a(spec, vocabulary());
    Matcher::State s = a.start();
    for (int i = 0; i < 30; ++i) {
      const char c = "ab[],"[random() % 5];
      const Matcher::State next = a.next(s, static_cast<std::uint8_t>(c));
      if (next != Matcher::kRefused) s = next;
    }
    Matcher b(spec, vocabulary());
    const Matcher::State moved = b.adopt(a, s);
    EXPECT_EQ(a.may_end(s), b.may_end(moved));
    EXPECT_EQ(allowed(a, s), allowed(b, moved));
    for (const char* rest : {"]", "]]", ",a", "a]]]", "]]]]"}) {
      EXPECT_EQ(a.next(s, rest) == Matcher::kRefused, b.next(moved, rest) == Matcher::kRefused);
    }
  }
}

// Each of these characters begins with bytes of its own, which must not be compared with those of all others.
TEST(Grammar, ClassesMayHaveManyCharacters) {
  std::string text = "root ::= [";
  for (char32_t c = 0x10000; text.size() + 8 < kMostGrammarBytes; c += 3) append_utf8(c, text);
  text += "]";
  EXPECT_TRUE(takes(text, "\U00010003"));
  EXPECT_FALSE(takes(text, "\U00010004"));
}

// A grammar whose places double with every byte is cut off, not followed for ever.
TEST(Grammar, AmbiguityIsBounded) {
  std::string text = "root ::= r0\n";
  for (int i = 0; i < 40; ++i) {
    const std::string next = "r" + std::to_string(i + 1);
    text += "r" + std::to_string(i) + " ::= " + next + " \"x\" | " + next + " \"y\"\n";
  }
  Matcher m({text + "r40 ::= \"a\""}, vocabulary());
  const Matcher::State s = m.next(m.start(), "a");
  ASSERT_NE(s, Matcher::kRefused);
  EXPECT_EQ(allowed(m, s), std::vector<TokenId>{10});
}

}  // namespace
}  // namespace jupiter

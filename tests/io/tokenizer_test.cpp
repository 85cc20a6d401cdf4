// Tokenizers of every kind against Hugging Face's (tests/fixtures/make_tokenizers.py), SmolLM2's against the reference.
#include "io/tokenizer/tokenizer.hpp"

#include <gtest/gtest.h>

#include <chrono>
#include <fstream>
#include <random>

#include "io/convert/hf_tokenizer.hpp"
#include "io/error.hpp"
#include "io/files.hpp"
#include "io/tokenizer/utf8.hpp"
#include "smollm2.hpp"
#include "test_files.hpp"

namespace jupiter {
namespace {

using nlohmann::json;

JsonObject tokenizer_json(const std::string& name) {
  const std::string path = test::data_path("tokenizers/" + name + "/tokenizer.json");
  return parse_json_object(read_file(path), path);
}

std::int64_t count_tokens(const JsonObject& tokenizer) {
  std::int64_t last = 0;
  const JsonObject vocab = tokenizer.object("model").object("vocab");
  for (const auto& item : vocab.value().items()) {
    last = std::max(last, item.value().get<std::int64_t>());
  }
  for (const json& added : tokenizer.array_or_empty("added_tokens")) {
    last = std::max(last, added["id"].get<std::int64_t>());
  }
  return last + 1;
}

Tokenizer load(const std::string& name) {
  const JsonObject tokenizer = tokenizer_json(name);
  return Tokenizer(parse_hf_tokenizer({tokenizer, {}, {}, {}, {}, {}}, count_tokens(tokenizer)));
}

const std::vector<std::string> kKinds = {"gpt2", "smollm", "llama3", "o200k", "qwen2", "llama2", "mistral", "gemma"};

TEST(Tokenizer, EveryKindEncodesAsHuggingFaceDoes) {
  for (const std::string& name : kKinds) {
    const Tokenizer tokenizer = load(name);
    for (const json& c : json::parse(read_file(test::data_path("tokenizers/" + name + "/cases.json")))) {
      EXPECT_EQ(tokenizer.encode(c["text"].get<std::string>(), true), c["ids"].get<std::vector<TokenId>>())
          << name << ": " << c["text"];
    }
  }
}

TEST(Tokenizer, EveryKindDecodesAsHuggingFaceDoes) {
  for (const std::string& name : kKinds) {
    const Tokenizer tokenizer = load(name);
    for (const json& c : json::parse(read_file(test::data_path("tokenizers/" + name + "/cases.json")))) {
      EXPECT_EQ(tokenizer.decode(c["ids"].get<std::vector<TokenId>>()), c["decoded"]) << name << ": " << c["text"];
    }
  }
}

// What was encoded comes back, byte for byte, whether it is UTF-8 or not.
TEST(Tokenizer, AnyBytesSurvive) {
  std::mt19937 random(1);
  for (const std::string& name : kKinds) {
    if (name == "qwen2") continue;  // composes characters
    const Tokenizer tokenizer = load(name);
    for (int i = 0; i < 300; ++i) {
      std::string text;
      for (auto n = random() % 40; n > 0; --n) text += static_cast<char>(random() % 3 == 0 ? 'a' : random() % 256);
      const bool has_one = tokenizer.data().space_prefix_once && text.starts_with(" ");
      const bool prefixed = tokenizer.data().add_space_prefix && !text.empty() && !has_one;
      std::string back;
      for (const TokenId id : tokenizer.encode(text, true)) back += tokenizer.piece(id);
      EXPECT_EQ(back, (prefixed ? " " : "") + text) << name;
    }
  }
}

TEST(Tokenizer, InvalidUtf8NeverBreaksQwensComposition) {
  const Tokenizer tokenizer = load("qwen2");
  for (const std::string text : {"\xff", "e\xcc",
                                 "e\xcc\x81\xff"
                                 "e\xcc\x81",
                                 "\xed\xa0\x80", "\xf4\x90\x80\x80"}) {
    EXPECT_FALSE(tokenizer.encode(text, false).empty());
  }
  EXPECT_EQ(to_nfc("e\xcc\x81\xff"
                   "e\xcc\x81\xe2\x82"),
            "\xc3\xa9\xff\xc3\xa9\xe2\x82");
}

TEST(Tokenizer, ControlTokensOnlyWhereAllowed) {
  for (const std::string& name : kKinds) {
    const Tokenizer tokenizer = load(name);
    const std::string text = "a<|special|>b";
    const TokenId special = tokenizer.encode("<|special|>", true).at(0);
    ASSERT_TRUE(tokenizer.is_control(special));
    const auto count = [special](const std::vector<TokenId>& ids) {
      return std::count(ids.begin(), ids.end(), special);
    };
    EXPECT_EQ(count(tokenizer.encode(text, true)), 1) << name;
    EXPECT_EQ(count(tokenizer.encode(text, false)), 0) << name;
    EXPECT_EQ(tokenizer.decode(tokenizer.encode(text, false)), text) << name;
    const auto segments = [&](std::vector<PromptSegment> s) { return count(tokenizer.encode(s)); };
    EXPECT_EQ(segments({{"<|special|>", true}, {"<|special|>", false}}), 1) << name;
    EXPECT_EQ(segments({{"<|spe", true}, {"cial|>", false}}), 0) << name;
    EXPECT_EQ(segments({{"<|spe", false}, {"cial|>", true}}), 0) << name;
    EXPECT_EQ(segments({{"<|spe", true}, {"cial|>", true}}), 1) << name;
    EXPECT_EQ(segments({{"x", false}, {"", true}, {"<|special|>", false}, {"<|special|>", true}}), 1) << name;
  }
}

// "<s>" can be spelled by merges in some vocabularies; text must not become it.
TEST(Tokenizer, MergesNeverMakeControlOrByteTokens) {
  TokenizerData data;
  data.kind = TokenizerKind::sentencepiece;
  data.tokens = {"<unk>", "<s>", "</s>", "<0x41>", "<", "s>", "<0", "x41>", "x"};
  data.types = {TokenType::unknown, TokenType::control, TokenType::control, TokenType::byte};
  data.types.resize(data.tokens.size(), TokenType::normal);
  data.scores.assign(data.tokens.size(), 0);
  data.unknown = 0;
  const Tokenizer tokenizer(data);
  for (const TokenId id : tokenizer.encode("<s><0x41>", false)) EXPECT_FALSE(id == 1 || id == 3);
  EXPECT_EQ(tokenizer.encode("A", false), std::vector<TokenId>{3});
  EXPECT_EQ(tokenizer.encode("é", false), std::vector<TokenId>{0});  // no byte tokens for it: one unknown
}

TEST(Tokenizer, LongestControlTokenWins) {
  TokenizerData data;
  data.kind = TokenizerKind::sentencepiece;
  data.tokens = {"<|a|>", "<|a|><|b|>", "<|b|>", "x"};
  data.types = {TokenType::control, TokenType::control, TokenType::control, TokenType::normal};
  data.scores.assign(4, 0);
  EXPECT_EQ(Tokenizer(data).encode("<|a|><|b|>x<|b|>", true), (std::vector<TokenId>{1, 3, 2}));
}

TEST(Tokenizer, LongWordsAreNotQuadratic) {
  for (const std::string& name : kKinds) {
    const Tokenizer tokenizer = load(name);
    for (const std::string& text : {std::string(1 << 20, 'a'), std::string(1 << 20, '<'), std::string(1 << 20, ' ')}) {
      const auto start = std::chrono::steady_clock::now();
      EXPECT_FALSE(tokenizer.encode(text, true).empty());
      EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(20)) << name;
    }
  }
}

TEST(Tokenizer, RefusesDataThatDoNotFitTogether) {
  TokenizerData data;
  data.tokens = {"a", "b"};
  data.types = {TokenType::normal, TokenType::normal};
  data.merges = {"a b"};
  EXPECT_THROW(Tokenizer{data}, FormatError);  // "ab" is no token
  data.merges = {"ab"};
  EXPECT_THROW(Tokenizer{data}, FormatError);
  data.merges = {};
  EXPECT_NO_THROW(Tokenizer{data});
  data.types.pop_back();
  EXPECT_THROW(Tokenizer{data}, FormatError);
  EXPECT_THROW(Tokenizer{TokenizerData{}}, FormatError);
}

// Pieces come in any cut; what is printed is always whole characters, and their sum is the sum of a plain decode.
TEST(StreamDecoder, NeverPrintsHalfACharacter) {
  const std::string text = "naïve 日本語 👨‍👩‍👧 \xff\xfe half: \xe6\x97";
  for (const std::string& name : kKinds) {
    const Tokenizer tokenizer = load(name);
    const std::vector<TokenId> ids = tokenizer.encode(text, true);
    StreamDecoder decoder(tokenizer);
    std::string all;
    for (const TokenId id : ids) {
      const std::string part = decoder.push(id);
      EXPECT_EQ(to_valid_utf8(part), part);
      all += part;
    }
    EXPECT_EQ(all.substr(all.size() - 6), "half: ");
    all += decoder.finish();
    EXPECT_EQ(all, to_valid_utf8(text)) << name;
    EXPECT_EQ(tokenizer.decode(ids), all) << name;
    EXPECT_EQ(decoder.finish(), "");
  }
}

TEST(StreamDecoder, SkipsControlTokensAndUnknownIds) {
  const Tokenizer tokenizer = load("gpt2");
  const std::vector<TokenId> ids = tokenizer.encode("a<|special|>b", true);
  EXPECT_EQ(tokenizer.decode(ids), "ab");
  EXPECT_EQ(tokenizer.decode(std::vector<TokenId>{-1, 1 << 20}), "");
  EXPECT_EQ(tokenizer.piece(ids.at(1)), "<|special|>");
}

TEST(Utf8, MaximalPartsBecomeOneReplacementCharacter) {
  const std::string r = "\uFFFD";
  EXPECT_EQ(to_valid_utf8("a\xc0\x80z"), "a" + r + r + "z");
  EXPECT_EQ(to_valid_utf8("\xe6\x97"
                          "a"),
            r + "a");
  EXPECT_EQ(to_valid_utf8("\xf0\x9f\x91"), r);
  EXPECT_EQ(to_valid_utf8("\xed\xa0\x80"), r + r + r);  // a surrogate
  EXPECT_EQ(to_valid_utf8("\xf4\x90\x80\x80"), r + r + r + r);
  EXPECT_EQ(to_valid_utf8("\xf4\x8f\xbf\xbf"), "\xf4\x8f\xbf\xbf");
}

TEST(SmolLM2, Encodes200TextsAsTheReference) {
  const auto data = test::smollm2_tokenizer();
  if (!data) GTEST_SKIP() << test::kNoSmolLM2;
  const Tokenizer tokenizer(*data);
  std::ifstream lines(test::data_path("smollm2_tokenizer.jsonl"));
  int count = 0;
  for (std::string line; std::getline(lines, line); ++count) {
    const json c = json::parse(line);
    EXPECT_EQ(tokenizer.encode(c["text"].get<std::string>(), true), c["ids"].get<std::vector<TokenId>>()) << line;
    EXPECT_EQ(tokenizer.decode(tokenizer.encode(c["text"].get<std::string>(), false)), c["text"]) << line;
  }
  EXPECT_EQ(count, 200);
}

}  // namespace
}  // namespace jupiter

// Lines of requests and of answers.
#include "app/request_file.hpp"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <sstream>

namespace jupiter {
namespace {

namespace fs = std::filesystem;

class Folder : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (fs::temp_directory_path() / "jupiter-XXXXXX").string();
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
  }
  void TearDown() override { fs::remove_all(folder_); }
  std::string path(const std::string& name) const { return (folder_ / name).string(); }
  std::string write(const std::string& name, const std::string& text) const {
    std::ofstream(path(name), std::ios::binary) << text;
    return path(name);
  }
  std::string read(const std::string& name) const {
    std::ostringstream text;
    text << std::ifstream(path(name), std::ios::binary).rdbuf();
    return text.str();
  }
  fs::path folder_;
};

using Answers = Folder;

const std::string kHash = "0123456789abcdef";
const std::string kAnswer = R"({"id":1,"text":"a","generated_token_ids":[5],"finish_reason":"stop","ttft_s":0.5,)"
                            R"("total_s":0.5,"steps":1,"logits_hash":"00","model_hash":"0123456789abcdef"})";
const std::string kError = R"({"id":"b","error":"too long","model_hash":"0123456789abcdef"})";

std::vector<BatchRequest> requests(const std::string& text) {
  return read_requests(text, "in.jsonl", {});
}

TEST(Requests, ALineHasItsFieldsAndTheDefaultsOfOthers) {
  BatchRequest defaults;
  defaults.max_tokens = 7;
  defaults.sampling.temperature = 0.5f;
  const std::string second =
      R"({"id": "x", "messages": [{"role": "user", "content": "c"}], "max_tokens": 2, "temperature": 0, "stop": "s"})";
  const auto found = read_requests(R"({"id": 1, "prompt": "p"})" + std::string("\n\n") + second, "in.jsonl", defaults);
  ASSERT_EQ(found.size(), 2u);
  EXPECT_EQ(found[0].id, "1");
  EXPECT_EQ(found[0].prompt, "p");
  EXPECT_EQ(found[0].max_tokens, 7);
  EXPECT_EQ(found[0].sampling.temperature, 0.5f);
  EXPECT_EQ(found[0].line, 1);
  EXPECT_EQ(found[1].id, "\"x\"");
  EXPECT_EQ(found[1].messages.size(), 1u);
  EXPECT_EQ(found[1].max_tokens, 2);
  EXPECT_EQ(found[1].sampling.temperature, 0.0f);
  EXPECT_EQ(found[1].stops, (std::vector<std::string>{"s"}));
  EXPECT_EQ(found[1].line, 3);
}

TEST(Requests, NumbersOutOfRangeAreTheLinesOwnFault) {
  for (const char* field : {R"("max_tokens": 0)", R"("max_tokens": -3)", R"("max_tokens": 1.5)", R"("top_k": 1e30)",
                            R"("top_k": 4294967296)", R"("seed": -1)", R"("temperature": "hot")", R"("top_p": 7)"}) {
    const auto found =
        requests(std::string(R"({"id": 1, "prompt": "p", )") + field + "}\n" + R"({"id": 2, "prompt": "q"})");
    ASSERT_EQ(found.size(), 2u) << field;
    EXPECT_FALSE(found[0].fault.empty()) << field;
    EXPECT_NE(found[0].fault.find("in.jsonl: line 1"), std::string::npos) << found[0].fault;
    EXPECT_TRUE(found[1].fault.empty()) << found[1].fault;
  }
}

TEST(Requests, DeepOrLongLinesAreRefusedWithAShortMessage) {
  const std::string deep = std::string(200000, '[') + std::string(200000, ']');
  const auto found = requests(deep + "\n" + R"({"id": 1, "prompt": "p", "top_k": ")" + std::string(5000, 'x') + "\"}");
  ASSERT_EQ(found.size(), 2u);
  for (const BatchRequest& r : found) {
    EXPECT_FALSE(r.fault.empty());
    EXPECT_LT(r.fault.size(), 400u);
  }
}

TEST(Requests, AnIdIsThereOnce) {
  const auto found = requests(R"({"id": 1, "prompt": "p"})"
                              "\n"
                              R"({"id": 1, "prompt": "q"})"
                              "\n"
                              R"({"id": "1", "prompt": "r"})");
  ASSERT_EQ(found.size(), 3u);
  EXPECT_TRUE(found[0].fault.empty());
  EXPECT_FALSE(found[1].fault.empty());
  EXPECT_TRUE(found[1].id.empty());  // the answer of that id is the first line's
  EXPECT_TRUE(found[2].fault.empty());
}

TEST_F(Answers, WhatIsThereIsNotDoneAgainAndErrorsAre) {
  write("out", kAnswer + "\n" + kError + "\n");
  AnswerFile answers(path("out"), true, kHash, write("in", ""));
  EXPECT_EQ(answers.done(), (std::set<std::string>{"1"}));
  EXPECT_EQ(answers.failed().size(), 1u);
  EXPECT_TRUE(answers.failed().contains("\"b\""));
  answers.write(R"({"id":2})");
  EXPECT_EQ(read("out"), kAnswer + "\n" + kError + "\n" + R"({"id":2})" + "\n");
}

TEST_F(Answers, AFileThatIsNotOursStaysAsItIs) {
  const std::string input = write("in", "");
  for (const std::string& text :
       {std::string("a letter without an end"), std::string("{\"id\":1}\n"), kAnswer + "\nnotes",
        kAnswer + "\n[1, 2]\n", std::string("{\"id\":1,\"prompt\":\"x\"}"), std::string("\n\n")}) {
    write("foreign", text);
    EXPECT_THROW(AnswerFile(path("foreign"), true, kHash, input), FormatError) << text;
    EXPECT_EQ(read("foreign"), text);
  }
  write("other", kAnswer + "\n");
  EXPECT_THROW(AnswerFile(path("other"), true, "fedcba9876543210", input), FormatError);
  EXPECT_THROW(AnswerFile(path("other"), false, kHash, input), UsageError);
  EXPECT_EQ(read("other"), kAnswer + "\n");
}

TEST_F(Answers, TheInputIsNeverTheOutputUnderAnyName) {
  const std::string input = write("in", R"({"id": 1, "prompt": "p"})");
  fs::create_hard_link(input, path("hard"));
  fs::create_symlink(input, path("soft"));
  for (const std::string& name : {input, path("hard"), path("soft"), path("./in")}) {
    EXPECT_THROW(AnswerFile(name, true, kHash, input), UsageError) << name;
    EXPECT_EQ(read("in"), R"({"id": 1, "prompt": "p"})");
  }
}

}  // namespace
}  // namespace jupiter

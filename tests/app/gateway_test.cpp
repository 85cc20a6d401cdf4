// The gateway's parts by themselves: requests, lines, and answers that outlive the ranks that compute them.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "app/gateway/api_request.hpp"
#include "app/gateway/backend.hpp"
#include "app/options.hpp"
#include "io/error.hpp"

namespace jupiter {
namespace {

using namespace std::chrono_literals;

RequestBody body(const std::string& text) {
  return parse_body(text);
}

TEST(ApiRequest, FieldsThatAreNotGivenHaveTheServersDefaults) {
  SamplingOptions defaults;
  defaults.temperature = 0.5f;
  const ChatRequest r = read_chat_request(body(R"({"messages": [{"role": "user", "content": "x"}]})"), defaults);
  EXPECT_EQ(r.sampling.temperature, 0.5f);
  EXPECT_EQ(r.choices, 1);
  EXPECT_EQ(r.max_tokens, 0);
  EXPECT_FALSE(r.stream || r.include_usage || r.seed_given || r.ignore_eos);
  EXPECT_EQ(r.messages.size(), 1u);
}

TEST(ApiRequest, ContentsAreTextsOrListsOfThem) {
  const ChatRequest r = read_chat_request(body(R"({"messages": [{"role": "developer", "content": "a"},
               {"role": "user", "content": [{"type": "text", "text": "b"}, {"type": "text", "text": "c"}]}],
               "stop": "s", "max_completion_tokens": 9223372036854775807, "seed": 18446744073709551615})"),
                                          {});
  EXPECT_EQ(r.messages[0].role, "system");
  EXPECT_EQ(r.messages[1].content, "bc");
  EXPECT_EQ(r.stops, std::vector<std::string>{"s"});
  EXPECT_EQ(r.max_tokens, kMostTokens);
  EXPECT_EQ(r.sampling.seed, UINT64_MAX);
}

TEST(ApiRequest, PromptsAreTextsOrTokens) {
  EXPECT_EQ(read_text_request(body(R"({"prompt": "a"})"), {}).texts, std::vector<std::string>{"a"});
  EXPECT_EQ(read_text_request(body(R"({"prompt": ["a", "b"]})"), {}).texts.size(), 2u);
  EXPECT_EQ(read_text_request(body(R"({"prompt": [1, 2]})"), {}).tokens, (std::vector<std::vector<TokenId>>{{1, 2}}));
  EXPECT_EQ(read_text_request(body(R"({"prompt": [[1], [2, 3]]})"), {}).tokens.size(), 2u);
  for (const char* wrong :
       {R"({"prompt": [1, "a"]})", R"({"prompt": {}})", R"({"prompt": [[1.5]]})", R"({"prompt": [[]]})",
        R"({"prompt": [4294967296]})", R"({"prompt": [[1], "a"]})", R"({})"}) {
    EXPECT_THROW(read_text_request(body(wrong), {}), FormatError) << wrong;
  }
}

TEST(ApiRequest, WhatWouldChangeTheAnswerIsNotIgnored) {
  const std::string chat = R"({"messages": [{"role": "user", "content": "x"}], )";
  for (const char* field : {R"("functions": [1]})", R"("audio": {"voice": "x"}})"}) {
    EXPECT_THROW(read_chat_request(body(chat + field), {}), ApiError) << field;
  }
  for (const char* field :
       {R"("logprobs": false})", R"("response_format": {"type": "text"}})", R"("tools": []})", R"("logit_bias": {}})",
        R"("presence_penalty": 0})", R"("unknown": 5})", R"("tools": null})"}) {
    EXPECT_NO_THROW(read_chat_request(body(chat + field), {})) << field;
  }
}

TEST(ApiRequest, LogProbabilitiesAndBiases) {
  const std::string chat = R"({"messages": [{"role": "user", "content": "x"}], )";
  EXPECT_EQ(read_chat_request(body(chat + R"("seed": 1})"), {}).sampling.top_logprobs, -1);
  EXPECT_EQ(read_chat_request(body(chat + R"("logprobs": true})"), {}).sampling.top_logprobs, 0);
  EXPECT_EQ(read_chat_request(body(chat + R"("logprobs": true, "top_logprobs": 5})"), {}).sampling.top_logprobs, 5);
  EXPECT_THROW(read_chat_request(body(chat + R"("top_logprobs": 5})"), {}), ApiError);
  EXPECT_THROW(read_chat_request(body(chat + R"("logprobs": true, "top_logprobs": 21})"), {}), FormatError);
  const ChatRequest r = read_chat_request(
      body(chat + R"("logit_bias": {"7": -100, "9": 2.5}, "presence_penalty": -2, "frequency_penalty": 2})"), {});
  ASSERT_EQ(r.logit_bias.size(), 2u);
  EXPECT_EQ(r.logit_bias[0].token, 7);
  EXPECT_EQ(r.logit_bias[1].bias, 2.5f);
  EXPECT_EQ(r.sampling.presence_penalty, -2.0f);
  EXPECT_EQ(read_chat_request(body(chat + R"("logit_bias": [[7, 1]]})"), {}).logit_bias.size(), 1u);
  for (const char* wrong :
       {R"("logit_bias": {"x": 1}})", R"("logit_bias": {"7": 101}})", R"("logit_bias": {"7": "a"}})",
        R"("logit_bias": {"-1": 1}})", R"("logit_bias": [[7]]})", R"("logit_bias": 7})",
        R"("logit_bias": {"99999999999": 1}})", R"("frequency_penalty": 2.5})"}) {
    EXPECT_THROW(read_chat_request(body(chat + wrong), {}), FormatError) << wrong;
  }
}

TEST(ApiRequest, FormsOfAnAnswerBecomeGrammars) {
  const std::string chat = R"({"messages": [{"role": "user", "content": "x"}], )";
  const auto grammar = [&](const std::string& fields) {
    return read_chat_request(body(chat + fields), {}).grammar.text;
  };
  EXPECT_EQ(grammar(R"("response_format": {"type": "text"}})"), "");
  EXPECT_EQ(grammar(R"("response_format": null, "grammar": ""})"), "");
  EXPECT_EQ(grammar(R"("grammar": "root ::= \"a\""})"), "root ::= \"a\"");
  EXPECT_NE(grammar(R"("response_format": {"type": "json_object"}})"), "");
  const std::string schema =
      R"({"properties": {"b": {"type": "integer"}, "a": {"type": "string"}}, "required": ["b", "a"]})";
  const std::string by_field = grammar(R"("json_schema": )" + schema + "}");
  EXPECT_EQ(
      grammar(R"("response_format": {"type": "json_schema", "json_schema": {"name": "x", "strict": true, "schema": )" +
              schema + "}}}"),
      by_field);
  EXPECT_EQ(grammar(R"("response_format": {"type": "json_object", "schema": )" + schema + "}}"), by_field);
  Matcher m({by_field}, nullptr);
  EXPECT_NE(m.next(m.start(), "{\"b\": 1, \"a\""), Matcher::kRefused) << "properties keep their order";
  const std::vector<std::pair<const char*, const char*>> wrong = {
      {R"("grammar": 5})", "grammar"},
      {R"("grammar": "root ::= x"})", "line 1, column 10"},
      {R"("grammar": "root ::= \"a\"", "ignore_eos": true})", "ignore_eos"},
      {R"("grammar": "root ::= \"a\"", "json_schema": {}})", "one field"},
      {R"("response_format": {"type": "json_object"}, "grammar": "root ::= \"a\""})", "one field"},
      {R"("response_format": "json"})", "response_format"},
      {R"("response_format": {"type": "yaml"}})", "type"},
      {R"("response_format": {}})", "type"},
      {R"("response_format": {"type": "json_schema"}})", "json_schema"},
      {R"("response_format": {"type": "json_schema", "json_schema": {}}})", "schema"},
      {R"("response_format": {"type": "json_schema", "json_schema": {"schema": {}, "strict": 1}}})", "strict"},
      {R"("json_schema": {"type": "string", "pattern": "a"}})", "/pattern"},
      {R"("json_schema": {"$ref": "#"}})", "left recursion"}};
  for (const auto& [fields, message] : wrong) {
    try {
      (void)grammar(fields);
      ADD_FAILURE() << fields;
    } catch (const std::runtime_error& e) {
      EXPECT_NE(std::string(e.what()).find(message), std::string::npos) << fields << "\n" << e.what();
    }
  }
}

TEST(Generation, LinesGoThereAndBack) {
  GenerationSpec spec;
  spec.id = UINT64_MAX / 2;
  spec.prompt = {1, 2, 3};
  spec.given = {4};
  spec.end_tokens = {0};
  spec.max_new_tokens = 7;
  spec.sampling = {.temperature = 0.7f, .top_k = 3, .min_p = 0.1f, .seed = UINT64_MAX, .top_logprobs = 4};
  spec.logit_bias = {{8, -1.5f}};
  spec.grammar = {"root ::= \"a\"", "<x>", true};
  const GenerationSpec back = spec_of(parse_json(to_line(spec).dump(), "line"));
  EXPECT_EQ(back.id, spec.id);
  EXPECT_EQ(back.prompt, spec.prompt);
  EXPECT_EQ(back.given, spec.given);
  EXPECT_EQ(back.end_tokens, spec.end_tokens);
  EXPECT_EQ(back.max_new_tokens, 7);
  EXPECT_EQ(back.sampling.temperature, 0.7f);
  EXPECT_EQ(back.sampling.min_p, 0.1f);
  EXPECT_EQ(back.sampling.seed, UINT64_MAX);
  EXPECT_EQ(back.sampling.top_logprobs, 4);
  EXPECT_EQ(back.logit_bias.at(0).bias, -1.5f);
  EXPECT_EQ(back.grammar, spec.grammar);
  const auto [id, token] = token_of(parse_json(to_line(9, {5, -0.25f, {{6, -1.5f}}}).dump(), "line"));
  EXPECT_EQ(id, 9u);
  EXPECT_EQ(token.token, 5);
  EXPECT_EQ(token.logprob, -0.25f);
  EXPECT_EQ(token.top.at(0).token, 6);
}

TEST(Generation, LinesWithOtherFieldsAreRefused) {
  const auto with = [](nlohmann::json line, const char* key, const nlohmann::json& value) {
    line[key] = value;
    return line;
  };
  const nlohmann::json request = to_line(GenerationSpec{}), token = to_line(9, {5, -0.25f, {{6, -1.5f}}});
  EXPECT_NO_THROW(spec_of(request));
  for (const char* bias : {R"([["a", 1]])", "[[1, null]]", "[[1]]", "[[-1, 1]]", "[[4294967296, 1]]", "[1]"}) {
    EXPECT_THROW(spec_of(with(request, "logit_bias", parse_json(bias, "bias"))), FormatError) << bias;
    EXPECT_THROW(token_of(with(token, "top", parse_json(bias, "top"))), FormatError) << bias;
  }
  EXPECT_THROW(spec_of(with(request, "prompt", {"a"})), FormatError);
  EXPECT_THROW(token_of(with(token, "token", 4294967296)), FormatError);
  EXPECT_THROW(token_of(with(token, "token", nullptr)), FormatError);
}

TEST(LineSocket, LinesArriveWholeAndInOrder) {
  int pair[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
  LineSocket a(pair[0]), b(pair[1]);
  const std::string longer(300'000, 'x');
  a.send("one");
  a.send("");
  a.send(longer);
  std::vector<std::string> got;
  for (int i = 0; i < 100 && got.size() < 3; ++i) {
    a.poll();
    b.poll();
    while (const auto line = b.next_line()) got.push_back(*line);
  }
  EXPECT_EQ(got, (std::vector<std::string>{"one", "", longer}));
  b.send("last");
  b.poll();
  b = LineSocket(::dup(0));  // the other side goes away
  a.poll();
  EXPECT_TRUE(a.closed());
  EXPECT_EQ(a.next_line(), "last");
  a.send("dropped");
  EXPECT_FALSE(a.has_output());
}

TEST(LineSocket, ALineWithoutEndClosesIt) {
  int pair[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
  LineSocket reader(pair[0]);
  const std::string piece(100'000, 'x');
  std::size_t sent = 0;
  while (!reader.closed() && sent < kMaxLineBytes + (8 << 20)) {
    const ssize_t n = ::send(pair[1], piece.data(), piece.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n > 0) sent += static_cast<std::size_t>(n);
    reader.poll();
    EXPECT_FALSE(reader.next_line());  // it is looked at after every piece, as ranks and gateway do
  }
  EXPECT_TRUE(reader.closed());
  ::close(pair[1]);
}

// A private folder, and ranks that a test plays.
class BackendTest : public testing::Test {
 protected:
  BackendTest() {
    std::string name = (std::filesystem::temp_directory_path() / "jupiter-gateway-XXXXXX").string();
    folder_ = ::mkdtemp(name.data());
  }
  ~BackendTest() override { std::filesystem::remove_all(folder_); }

  // The next line of this kind that ranks get.
  static nlohmann::json line(LineSocket& ranks, const std::string& type) {
    for (int i = 0; i < 500; ++i) {
      ranks.poll();
      while (const auto text = ranks.next_line()) {
        const auto j = parse_json(*text, "line");
        if (j.value("type", "") == type) return j;
      }
      std::this_thread::sleep_for(5ms);
    }
    ADD_FAILURE() << "no line of the kind " << type;
    return {};
  }
  LineSocket connect_ranks() const {
    LineSocket ranks = LineSocket::connect(path());
    ranks.send(nlohmann::json{{"type", kLineHello}}.dump());
    ranks.poll();
    return ranks;
  }
  static void give(LineSocket& ranks, std::uint64_t id, TokenId token) {
    ranks.send(to_line(id, {token, 0, {}}).dump());
    ranks.poll();
  }
  static std::vector<TokenId> read(Generation& g, std::size_t count) {
    std::vector<TokenId> tokens;
    for (int i = 0; i < 100 && tokens.size() < count; ++i) {
      for (const GivenToken& t : g.wait(50ms)) tokens.push_back(t.token);
    }
    return tokens;
  }
  std::string path() const { return (folder_ / "ranks").string(); }
  std::filesystem::path folder_;
};

TEST_F(BackendTest, NewRanksGetOpenAnswersWithTheTokensThatTheyHave) {
  Backend backend({path()}, 4);
  GenerationSpec spec;
  spec.prompt = {7};
  const auto g = backend.submit(spec);
  ASSERT_TRUE(g);
  {
    LineSocket ranks = connect_ranks();
    EXPECT_TRUE(spec_of(line(ranks, kLineRequest)).given.empty());
    give(ranks, g->id(), 10);
    give(ranks, g->id(), 11);
    EXPECT_EQ(read(*g, 2), (std::vector<TokenId>{10, 11}));
  }  // these ranks die
  LineSocket ranks = connect_ranks();
  const GenerationSpec again = spec_of(line(ranks, kLineRequest));
  EXPECT_EQ(again.prompt, spec.prompt);
  EXPECT_EQ(again.given, (std::vector<TokenId>{10, 11}));
  give(ranks, g->id(), 12);
  EXPECT_EQ(read(*g, 1), std::vector<TokenId>{12});
  GenerationEnd end;
  end.id = g->id();
  end.stopped = true;
  ranks.send(to_line(end).dump());
  ranks.poll();
  for (int i = 0; i < 100 && !g->end(); ++i) g->wait(50ms);
  ASSERT_TRUE(g->end().has_value());
  EXPECT_TRUE(g->end()->stopped);
  EXPECT_EQ(backend.status().open, 0u);
  EXPECT_EQ(backend.status().starts, 2);
}

TEST_F(BackendTest, WhoeverStartsTheRanksIsToldWhenTheyAreGone) {
  Backend backend({path()}, 2);
  LineSocket starter = LineSocket::connect(path());
  starter.send(nlohmann::json{{"type", kLineBoards}, {"boards", nlohmann::json::array()}}.dump());
  EXPECT_EQ(line(starter, kLineAnswers).value("starts", -1), 0);
  const auto told = [&](int starts, bool gone, int lines) {
    for (int i = 0; i < lines; ++i) {
      const auto answers = line(starter, kLineAnswers);
      if (answers.value("starts", -1) == starts && answers.value("gone", !gone) == gone) return true;
    }
    return false;
  };
  std::optional<LineSocket> ranks = connect_ranks();
  EXPECT_TRUE(told(1, false, 20));
  ranks.reset();
  EXPECT_TRUE(told(1, true, 20));
  ranks = connect_ranks();
  EXPECT_TRUE(told(2, false, 20));
  backend.drain(0ms);
  EXPECT_FALSE(line(*ranks, kLineStop).empty());
  ranks.reset();  // as they were told to
  EXPECT_FALSE(told(2, true, 3));
}

TEST_F(BackendTest, OverTcpRanksSayTheTokenFirst) {
  EXPECT_THROW(Backend({path(), "127.0.0.1"}, 2), UsageError);
  Backend backend({path(), "127.0.0.1", "secret"}, 2);
  LineSocket starter = LineSocket::connect(path());
  starter.send(nlohmann::json{{"type", kLineBoards}, {"boards", nlohmann::json::array()}}.dump());
  const auto port = line(starter, kLineAnswers).value("port", 0);
  const auto connect = [&](const char* token) {
    ::setenv(kTokenVariable, token, 1);
    LineSocket ranks = LineSocket::connect(fmt::format("tcp:127.0.0.1:{}", port));
    ranks.send(nlohmann::json{{"type", kLineHello}}.dump());
    return ranks;
  };
  const auto is_closed = [](LineSocket& socket) {
    for (int i = 0; i < 500 && !socket.closed(); ++i, std::this_thread::sleep_for(5ms)) socket.poll();
    return socket.closed();
  };
  LineSocket wrong = connect("guess"), endless = connect(std::string(1000, 'x').c_str());
  EXPECT_TRUE(is_closed(wrong));
  EXPECT_TRUE(is_closed(endless));
  EXPECT_FALSE(backend.status().connected);
  LineSocket right = connect("secret");
  right.poll();
  for (int i = 0; i < 500 && !backend.status().connected; ++i) std::this_thread::sleep_for(5ms);
  EXPECT_TRUE(backend.status().connected);
  ::unsetenv(kTokenVariable);
  EXPECT_THROW(LineSocket::connect(fmt::format("tcp:127.0.0.1:{}", port)), UsageError);
}

TEST_F(BackendTest, CancelledAnswersAreForgotten) {
  Backend backend({path()}, 2);
  LineSocket ranks = connect_ranks();
  for (int i = 0; i < 500 && !backend.status().connected; ++i) std::this_thread::sleep_for(5ms);
  const auto one = backend.submit({}), two = backend.submit({});
  ASSERT_TRUE(one && two);
  EXPECT_FALSE(backend.submit({}));  // too many
  backend.cancel(one);
  EXPECT_EQ(line(ranks, kLineCancel).value("id", std::uint64_t{0}), one->id());
  EXPECT_TRUE(backend.submit({}));
  give(ranks, one->id(), 5);  // on its way before they knew
  give(ranks, two->id(), 6);
  EXPECT_EQ(read(*two, 1), std::vector<TokenId>{6});
  EXPECT_TRUE(one->wait(0ms).empty());
}

TEST_F(BackendTest, BoardsAreToldByWhoeverStartsTheRanks) {
  Backend backend({path()}, 2);
  LineSocket ranks = connect_ranks();
  for (int i = 0; i < 500 && !backend.status().connected; ++i) std::this_thread::sleep_for(5ms);
  EXPECT_TRUE(backend.status().boards.is_null());
  LineSocket starter = LineSocket::connect(path());
  const auto told = [&](const std::string& boards, const std::string& expected) {
    starter.send(R"({"type": "boards", "boards": )" + boards + "}");
    starter.poll();
    for (int i = 0; i < 500 && backend.status().boards.dump() != expected; ++i) std::this_thread::sleep_for(5ms);
    return backend.status().boards.dump();
  };
  EXPECT_EQ(told(R"([{"host":"a","state":"used"}])", R"([{"host":"a","state":"used"}])"),
            R"([{"host":"a","state":"used"}])");
  EXPECT_EQ(told(R"([{"host":"a","state":"lost"}])", R"([{"host":"a","state":"lost"}])"),
            R"([{"host":"a","state":"lost"}])");
  // The ranks are still those that they were.
  EXPECT_EQ(backend.status().starts, 1);
  const auto g = backend.submit({});
  EXPECT_EQ(spec_of(line(ranks, kLineRequest)).id, g->id());
}

TEST_F(BackendTest, RanksTellWhenTheyHaveTheModelAndWhatTheyDo) {
  Backend backend({path()}, 2);
  {
    LineSocket ranks = connect_ranks();
    for (int i = 0; i < 500 && !backend.status().connected; ++i) std::this_thread::sleep_for(5ms);
    EXPECT_FALSE(backend.status().loaded);
    ranks.send(nlohmann::json{{"type", kLineReady}}.dump());
    ranks.send(to_line(RanksStatus{2, 1, 5, {{0, "a", 0, 12, 0.75}, {1, "b", 12, 30, 0.5}}}).dump());
    ranks.poll();
    for (int i = 0; i < 500 && backend.status().status.is_null(); ++i) std::this_thread::sleep_for(5ms);
    const BackendStatus s = backend.status();
    EXPECT_TRUE(s.loaded);
    EXPECT_EQ(s.status["ranks"][1]["host"], "b");
    EXPECT_EQ(s.status["ranks"][1]["busy"], 0.5);
    EXPECT_EQ(s.status["frames_in_flight"], 5);
  }
  for (int i = 0; i < 500 && backend.status().connected; ++i) std::this_thread::sleep_for(5ms);
  EXPECT_FALSE(backend.status().loaded);
}

TEST_F(BackendTest, TheSocketsFolderMustBePrivate) {
  ::chmod(folder_.c_str(), 0755);
  EXPECT_THROW(Backend({path()}, 1), RunError);
  ::chmod(folder_.c_str(), 0700);
  {
    Backend first({path()}, 1);
    EXPECT_THROW(Backend({path()}, 1), RunError);  // somebody listens there
  }
  std::ofstream(path()) << "left behind";
  EXPECT_NO_THROW(Backend({path()}, 1));
}

TEST_F(BackendTest, DrainingTakesNoMoreAndTellsTheRanks) {
  Backend backend({path()}, 2);
  LineSocket ranks = connect_ranks();
  backend.drain(10ms);
  EXPECT_FALSE(backend.submit({}));
  line(ranks, kLineStop);
}

}  // namespace
}  // namespace jupiter

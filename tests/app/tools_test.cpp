// Tool calls: requests, prompts, grammars, and calls read from answers that come in pieces of any size.
#include "app/gateway/tools.hpp"

#include <gtest/gtest.h>

#include "app/gateway/api_request.hpp"

namespace jupiter {
namespace {

const std::string kTools =
    R"("tools": [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties":
       {"city": {"type": "string"}, "days": {"$ref": "#/$defs/days"}}, "required": ["city"], "additionalProperties": false,
       "$defs": {"days": {"type": "integer", "minimum": 1, "maximum": 7}}}}},
       {"type": "function", "function": {"name": "now"}}])";

ChatRequest chat(const std::string& fields, const std::string& messages = R"([{"role": "user", "content": "x"}])") {
  return read_chat_request(parse_body("{\"messages\": " + messages + ", " + fields + "}"), {});
}

bool takes(const GrammarSpec& spec, const std::string& text) {
  Matcher m(spec, nullptr);
  const Matcher::State s = m.next(m.start(), text);
  return s != Matcher::kRefused && m.may_end(s);
}

const std::string kWeather =
    "<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Rome\", \"days\": 3}}\n</tool_call>";
const std::string kNow = "<tool_call>\n{\"name\": \"now\", \"arguments\": {}}\n</tool_call>";

TEST(Tools, ChoicesSayWhatAnAnswerMayBe) {
  const ToolUse automatic = chat(kTools).tools;
  const GrammarSpec free = tool_grammar(automatic, ToolForm::tagged);
  EXPECT_TRUE(takes(free, "It is sunny."));
  EXPECT_TRUE(takes(free, "Let me see.\n" + kWeather + "\n" + kNow));
  EXPECT_FALSE(takes(free, "<tool_call>\n{\"name\": \"other\", \"arguments\": {}}\n</tool_call>"));
  const GrammarSpec required = tool_grammar(chat(kTools + R"(, "tool_choice": "required")").tools, ToolForm::tagged);
  EXPECT_TRUE(takes(required, kNow));
  EXPECT_FALSE(takes(required, "It is sunny."));
  EXPECT_FALSE(takes(required, "<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"days\": 8}}\n</tool_call>"));
  const GrammarSpec one = tool_grammar(
      chat(kTools + R"(, "tool_choice": "required", "parallel_tool_calls": false)").tools, ToolForm::tagged);
  EXPECT_TRUE(takes(required, kNow + kNow));
  EXPECT_FALSE(takes(one, kNow + kNow));
  const ToolUse named = chat(kTools + R"(, "tool_choice": {"type": "function", "function": {"name": "now"}})").tools;
  EXPECT_EQ(named.choice, ToolChoice::required);
  EXPECT_FALSE(takes(tool_grammar(named, ToolForm::tagged), kWeather));
  EXPECT_TRUE(takes(tool_grammar(named, ToolForm::tagged), kNow));
  const ToolUse none = chat(kTools + R"(, "tool_choice": "none")").tools;
  EXPECT_TRUE(none.tools.empty() && tool_grammar(none, ToolForm::tagged).empty());
  const GrammarSpec llama = tool_grammar(automatic, ToolForm::llama3);
  EXPECT_TRUE(takes(llama, R"({"name": "weather", "parameters": {"city": "Rome"}})"));
  EXPECT_FALSE(takes(llama, R"({"name": "other", "parameters": {}})"));
  EXPECT_TRUE(takes(llama, R"(No. {"name": "other"})")) << "only at the beginning";
}

TEST(Tools, ParametersThatListNothingAreNoArguments) {
  const std::string head = R"("tool_choice": "required", "tools": [{"type": "function", "function": {"name": "now", )";
  const std::string invented = "<tool_call>\n{\"name\": \"now\", \"arguments\": {\"x\": 1}}\n</tool_call>";
  for (const char* nothing :
       {"{}", R"({"type": "object"})", R"({"type": "object", "properties": {}, "required": []})"}) {
    const auto use = chat(head + "\"parameters\": " + nothing + "}}]").tools;
    EXPECT_TRUE(takes(tool_grammar(use, ToolForm::tagged), kNow)) << nothing;
    EXPECT_FALSE(takes(tool_grammar(use, ToolForm::tagged), invented)) << nothing;
  }
  const auto any = chat(head + R"("parameters": {"type": "object", "additionalProperties": true}}}])").tools;
  EXPECT_TRUE(takes(tool_grammar(any, ToolForm::tagged), invented));
}

TEST(Tools, WhatIsWrongIsSaid) {
  const std::vector<std::pair<std::string, const char*>> wrong = {
      {R"("tools": 5)", "tools"},
      {R"("tools": [{}])", "type"},
      {R"("tools": [{"type": "web_search"}])", "type"},
      {R"("tools": [{"type": "function", "function": {}}])", "name"},
      {R"("tools": [{"type": "function", "function": {"name": "a b"}}])", "name"},
      {R"("tools": [{"type": "function", "function": {"name": "a", "parameters": {"not": {}}}}])", "tools[0]"},
      {R"("tools": [{"type": "function", "function": {"name": "a"}}, {"type": "function", "function": {"name": "a"}}])",
       "differ"},
      {kTools + R"(, "tool_choice": "all")", "tool_choice"},
      {kTools + R"(, "tool_choice": {"type": "function", "function": {"name": "b"}})", "tool_choice"},
      {R"("tool_choice": "required")", "tool_choice"},
      {kTools + R"(, "response_format": {"type": "json_object"})", "beside"},
      {kTools + R"(, "ignore_eos": true)", "beside"}};
  for (const auto& [fields, message] : wrong) {
    try {
      chat(fields);
      ADD_FAILURE() << fields;
    } catch (const std::runtime_error& e) {
      EXPECT_NE(std::string(e.what()).find(message), std::string::npos) << fields << "\n" << e.what();
    }
  }
  EXPECT_THROW(
      chat("\"n\": 1", R"([{"role": "assistant", "tool_calls": [{"function": {"name": "a", "arguments": "{"}}]},
                                    {"role": "user", "content": "x"}])"),
      FormatError);
  EXPECT_NO_THROW(chat(kTools + R"(, "tool_choice": "none", "response_format": {"type": "json_object"})"));
}

std::string text_of(const std::vector<PromptSegment>& segments) {
  std::string text;
  for (const PromptSegment& s : segments) text += s.text;
  return text;
}

const std::string kHistory =
    R"([{"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": null, "tool_calls": [{"id": "1", "type": "function",
          "function": {"name": "weather", "arguments": "{\"city\": \"Rome\"}"}}]},
        {"role": "tool", "tool_call_id": "1", "content": "sunny"}, {"role": "tool", "tool_call_id": "2", "content": "12:00"}])";

TEST(Tools, StandInThePromptAsQwenHasThem) {
  const ChatRequest r = chat(kTools, kHistory);
  const ChatTemplate chatml = *ChatTemplate::from_name("qwen");
  const std::string text = text_of(chatml.render(with_tools(r.messages, r.calls, r.tools, chatml), true));
  EXPECT_EQ(
      text.find(
          "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.\n\n# Tools\n\n"),
      0u);
  EXPECT_NE(text.find("<tools>\n{\"type\":\"function\",\"function\":{\"name\":\"weather\""), std::string::npos);
  EXPECT_NE(
      text.find("<|im_start|>assistant\n<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Rome\"}}\n"
                "</tool_call><|im_end|>\n<|im_start|>user\n<tool_response>\nsunny\n</tool_response>\n"
                "<tool_response>\n12:00\n</tool_response><|im_end|>\n<|im_start|>assistant\n"),
      std::string::npos)
      << text;
}

TEST(Tools, StandInThePromptAsLlama3HasThem) {
  const ChatRequest r = chat(kTools, kHistory);
  const ChatTemplate llama = *ChatTemplate::from_name("llama3");
  const std::string text = text_of(llama.render(with_tools(r.messages, r.calls, r.tools, llama), true));
  EXPECT_NE(text.find("<|start_header_id|>user<|end_header_id|>\n\nGiven the following functions"), std::string::npos);
  EXPECT_NE(
      text.find("<|start_header_id|>assistant<|end_header_id|>\n\n{\"name\": \"weather\", \"parameters\": {\"city\": "
                "\"Rome\"}}<|eot_id|><|start_header_id|>ipython<|end_header_id|>\n\nsunny<|eot_id|>"),
      std::string::npos)
      << text;
}

struct Read {
  std::string content;
  std::vector<ToolCall> calls;
};

Read read_in_pieces(ToolForm form, const std::string& text, std::size_t size) {
  ToolCallReader reader(form);
  Read read;
  const auto take = [&](const ToolCallReader::Piece& p) {
    read.content += p.content;
    for (const ToolCallReader::Delta& d : p.calls) {
      if (!d.name.empty()) {
        EXPECT_EQ(d.index, read.calls.size());
        read.calls.push_back({"", d.name, ""});
      }
      read.calls.at(d.index).arguments += d.arguments;
    }
  };
  for (std::size_t at = 0; at < text.size(); at += size) take(reader.push(text.substr(at, size)));
  take(reader.finish());
  for (std::size_t i = 0; i < read.calls.size(); ++i) EXPECT_EQ(read.calls[i].arguments, reader.calls()[i].arguments);
  return read;
}

TEST(Tools, CallsAreReadFromPiecesOfAnySize) {
  const std::string odd =
      "<tool_call>{\"name\": \"f\", \"arguments\": {\"x\": \"</tool_call> \\\" }\", \"y\": [{}, "
      "\"\\\\\"]}}</tool_call>";
  for (std::size_t size = 1; size < 80; ++size) {
    const Read two = read_in_pieces(ToolForm::tagged, "Let <me> see." + kWeather + "\n" + kNow, size);
    EXPECT_EQ(two.content, "Let <me> see.");
    ASSERT_EQ(two.calls.size(), 2u);
    EXPECT_EQ(two.calls[0].arguments, R"({"city": "Rome", "days": 3})");
    EXPECT_EQ(two.calls[1].name, "now");
    const Read behind = read_in_pieces(ToolForm::tagged, kNow + "\n That is  all. <" + kNow, size);
    EXPECT_EQ(behind.content, "That is  all. <");
    EXPECT_EQ(behind.calls.size(), 2u);
    const Read none = read_in_pieces(ToolForm::tagged, "a <tool_cal", size);
    EXPECT_EQ(none.content, "a <tool_cal");
    const Read one = read_in_pieces(ToolForm::tagged, odd, size);
    EXPECT_EQ(one.content, "");
    ASSERT_EQ(one.calls.size(), 1u);
    EXPECT_EQ(one.calls[0].arguments, R"({"x": "</tool_call> \" }", "y": [{}, "\\"]})");
    const Read llama = read_in_pieces(ToolForm::llama3, R"({"name": "f", "parameters": {"a": 1}})", size);
    EXPECT_EQ(llama.content, "");
    ASSERT_EQ(llama.calls.size(), 1u);
    EXPECT_EQ(llama.calls[0].arguments, R"({"a": 1})");
    EXPECT_EQ(read_in_pieces(ToolForm::llama3, R"(So {"name": "f"})", size).content, R"(So {"name": "f"})");
    EXPECT_EQ(read_in_pieces(ToolForm::llama3, R"({"nam)", size).content, R"({"nam)");
  }
}

}  // namespace
}  // namespace jupiter

// Tool calls: what a request's tools become in the prompt, the grammar of calls, and calls read from an answer as it
// comes. Llama 3 has a form of its own; all other templates get the one of Hermes and Qwen,
// <tool_call>JSON</tool_call>.
#pragma once

#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "io/grammar/matcher.hpp"
#include "io/json_fields.hpp"
#include "io/tokenizer/chat_template.hpp"

namespace jupiter {

constexpr std::size_t kMostTools = 128;

struct ToolCall {
  std::string id;
  std::string name;
  std::string arguments;  // JSON
};

struct Tool {
  std::string name;
  nlohmann::ordered_json definition;  // {"type": "function", "function": {...}}
  nlohmann::ordered_json parameters;  // schema
};

enum class ToolChoice : std::uint8_t { none, automatic, required };

// What a request says of tools.
struct ToolUse {
  std::vector<Tool> tools;  // those that may be called; empty: none
  ToolChoice choice = ToolChoice::none;
  bool parallel = true;  // several calls in one answer
};

// The fields tools, tool_choice and parallel_tool_calls. ApiError or FormatError where one is wrong.
ToolUse read_tools(const JsonObject& body, const nlohmann::ordered_json& in_order);
// A message's tool_calls.
std::vector<ToolCall> read_tool_calls(const JsonObject& message);

// How a template writes calls.
enum class ToolForm : std::uint8_t { tagged, llama3 };
ToolForm tool_form(const ChatTemplate& chat_template);

// Messages of the roles system, user and assistant, in which the tools, the calls of earlier answers (by the number of
// their message) and the tools' results stand as text.
std::vector<ChatMessage> with_tools(const std::vector<ChatMessage>& messages,
                                    const std::map<std::size_t, std::vector<ToolCall>>& calls, const ToolUse& use,
                                    const ChatTemplate& chat_template);

// Of an answer that may, or must, call tools. FormatError or UsageError where a tool's parameters are no schema that
// can be kept to.
GrammarSpec tool_grammar(const ToolUse& use, ToolForm form);

// Reads an answer as it comes.
class ToolCallReader {
 public:
  // One more piece of a call: first its name, then parts of its arguments.
  struct Delta {
    std::size_t index = 0;  // of the call in the answer
    std::string name;       // not empty: the call begins
    std::string arguments;
  };
  struct Piece {
    std::string content;
    std::vector<Delta> calls;
  };

  explicit ToolCallReader(ToolForm form) : form_(form) {}
  Piece push(std::string_view text);
  // What was held back, once no more text comes.
  Piece finish();
  // All calls so far; ids are empty.
  const std::vector<ToolCall>& calls() const { return calls_; }

 private:
  enum class Where : std::uint8_t { content, head, arguments, tail };
  bool step(Piece& piece);
  bool take_content(Piece& piece);
  bool take_head(Piece& piece);
  bool take_arguments(Piece& piece);
  bool take_tail();

  ToolForm form_;
  Where where_ = Where::content;
  std::string held_;
  std::vector<ToolCall> calls_;
  bool begun_ = false;        // any content was given
  bool behind_call_ = false;  // nothing but space since a call
  std::int64_t depth_ = 0;
  bool inside_string_ = false, escaped_ = false;
};

}  // namespace jupiter

// Texts of the templates of Qwen 2.5 and Llama 3.1.
#include "app/gateway/tools.hpp"

#include <algorithm>
#include <set>

#include "app/output_format.hpp"
#include "io/begun_marker.hpp"
#include "io/grammar/json_schema.hpp"

namespace jupiter {

namespace {

using nlohmann::ordered_json;

constexpr std::string_view kOpen = "<tool_call>", kClose = "</tool_call>";
constexpr std::string_view kLlamaTrigger = "{\"name\"";

const char* arguments_key(ToolForm form) {
  return form == ToolForm::llama3 ? "parameters" : "arguments";
}

bool is_name(const std::string& name) {
  const auto is_word = [](unsigned char c) { return std::isalnum(c) != 0 || c == '_' || c == '-' || c == '.'; };
  return !name.empty() && name.size() <= 64 && std::all_of(name.begin(), name.end(), is_word);
}

// Whether a schema only says that there are no properties: a function without parameters, which has no arguments,
// although the schema as such would allow any.
bool lists_no_arguments(const ordered_json& parameters) {
  if (!parameters.is_object() || !parameters.value("properties", ordered_json::object()).empty()) return false;
  const auto says_nothing = [](const auto& item) {
    const std::string& key = item.key();
    return key == "properties" || key == "title" || key == "description" || key == "$schema" ||
           (key == "type" && item.value() == "object") || (key == "required" && item.value().empty());
  };
  const auto items = parameters.items();
  return std::all_of(items.begin(), items.end(), says_nothing);
}

Tool read_tool(const JsonObject& of, const ordered_json& in_order) {
  const std::string type = of.string("type");
  if (type != "function") of.fail("type", "function", type);
  const JsonObject function = of.object("function");
  Tool tool;
  tool.name = function.string("name");
  if (!is_name(tool.name)) function.fail("name", "1 to 64 letters, digits, _, - or .", tool.name);
  function.find_string("description");
  function.find_bool("strict");  // calls always keep to their parameters
  tool.definition = in_order;
  tool.parameters = ordered_json::object();
  if (function.has("parameters")) tool.parameters = in_order["function"]["parameters"];
  if (lists_no_arguments(tool.parameters)) tool.parameters = {{"type", "object"}, {"additionalProperties", false}};
  json_schema_gbnf(tool.parameters, function.where() + ": parameters");
  return tool;
}

// References inside a schema that becomes a part of another one.
void move_references(ordered_json& schema, const std::string& to) {
  if (schema.is_object() && schema.contains("$ref") && schema["$ref"].is_string()) {
    const auto ref = schema["$ref"].get<std::string>();
    if (ref.starts_with('#')) schema["$ref"] = "#" + to + ref.substr(1);
  }
  for (auto& part : schema) {
    if (part.is_structured()) move_references(part, to);
  }
}

std::string tagged_system(const ToolUse& use) {
  std::string text =
      "# Tools\n\nYou may call one or more functions to assist with the user query.\n\nYou are provided with function "
      "signatures within <tools></tools> XML tags:\n<tools>";
  for (const Tool& t : use.tools) text += "\n" + t.definition.dump();
  return text +
         "\n</tools>\n\nFor each function call, return a json object with function name and arguments within "
         "<tool_call></tool_call> XML tags:\n<tool_call>\n{\"name\": <function-name>, \"arguments\": "
         "<args-json-object>}\n</tool_call>";
}

std::string llama_request(const ToolUse& use) {
  std::string text =
      "Given the following functions, please respond with a JSON for a function call with its proper arguments that "
      "best answers the given prompt.\n\nRespond in the format {\"name\": function name, \"parameters\": dictionary of "
      "argument name and its value}.Do not use variables.\n\n";
  for (const Tool& t : use.tools) text += t.definition.dump(4) + "\n\n";
  return text;
}

std::string call_text(const ToolCall& call, ToolForm form) {
  const std::string json =
      "{\"name\": " + nlohmann::json(call.name).dump() + ", \"" + arguments_key(form) + "\": " + call.arguments + "}";
  return form == ToolForm::llama3 ? json : std::string(kOpen) + "\n" + json + "\n" + std::string(kClose);
}

// The system message with the tools behind it.
void add_tagged_tools(std::vector<ChatMessage>& messages, const ToolUse& use, const ChatTemplate& chat_template) {
  const bool own = !messages.empty() && messages.front().role == "system";
  if (!own) messages.insert(messages.begin(), {"system", chat_template.default_system()});
  std::string& system = messages.front().content;
  system += (system.empty() ? "" : "\n\n") + tagged_system(use);
}

std::string_view trimmed_left(std::string_view text) {
  return text.substr(std::min(text.size(), text.find_first_not_of(" \n\t\r")));
}

}  // namespace

ToolUse read_tools(const JsonObject& body, const ordered_json& in_order) {
  ToolUse use;
  const auto& list = body.array_or_empty("tools");
  if (list.size() > kMostTools)
    body.fail("tools", "at most " + std::to_string(kMostTools), std::to_string(list.size()));
  std::set<std::string> names;
  for (std::size_t i = 0; i < list.size(); ++i) {
    const std::string where = body.where() + ": tools[" + std::to_string(i) + "]";
    use.tools.push_back(read_tool(JsonObject(list[i], where), in_order["tools"][i]));
    if (!names.insert(use.tools.back().name).second) body.fail("tools", "names that differ", use.tools.back().name);
  }
  use.parallel = body.find_bool("parallel_tool_calls").value_or(true);
  if (!use.tools.empty()) use.choice = ToolChoice::automatic;
  const nlohmann::json* choice = body.find("tool_choice");
  if (choice == nullptr) return use;
  if (choice->is_object()) {
    const std::string name = JsonObject(*choice, body.where() + ": tool_choice").object("function").string("name");
    std::erase_if(use.tools, [&](const Tool& t) { return t.name != name; });
    if (use.tools.empty()) body.fail("tool_choice", "the name of one of the tools", name);
    use.choice = ToolChoice::required;
    use.parallel = false;
    return use;
  }
  const std::string word = choice->is_string() ? choice->get<std::string>() : json_text(*choice);
  if (word != "none" && word != "auto" && word != "required") {
    body.fail("tool_choice", "none, auto, required or a function", word);
  }
  if (word == "required" && use.tools.empty()) body.fail("tool_choice", "tools beside it", "none");
  if (word == "required") use.choice = ToolChoice::required;
  if (word == "none") use = {};
  return use;
}

std::vector<ToolCall> read_tool_calls(const JsonObject& message) {
  std::vector<ToolCall> calls;
  for (const nlohmann::json& c : message.array_or_empty("tool_calls")) {
    const JsonObject call(c, message.where() + ": tool_calls");
    const JsonObject function = call.object("function");
    const nlohmann::json* arguments = function.find("arguments");
    if (arguments == nullptr) function.fail("arguments", "JSON as text", "nothing");
    std::string text = arguments->is_string() ? arguments->get<std::string>() : arguments->dump();
    if (text.empty()) text = "{}";
    if (!parse_json(text, function.where() + ": arguments").is_object()) {
      function.fail("arguments", "a JSON object as text", text);
    }
    calls.push_back({call.find_string("id").value_or(""), function.string("name"), text});
  }
  return calls;
}

ToolForm tool_form(const ChatTemplate& chat_template) {
  return chat_template.name() == "llama3" ? ToolForm::llama3 : ToolForm::tagged;
}

std::vector<ChatMessage> with_tools(const std::vector<ChatMessage>& messages,
                                    const std::map<std::size_t, std::vector<ToolCall>>& calls, const ToolUse& use,
                                    const ChatTemplate& chat_template) {
  const ToolForm form = tool_form(chat_template);
  std::vector<ChatMessage> out;
  bool after_result = false, told = false;
  for (std::size_t i = 0; i < messages.size(); ++i) {
    ChatMessage m = messages[i];
    const bool result = m.role == "tool";
    if (result && form == ToolForm::tagged) {
      m = {"user", "<tool_response>\n" + m.content + "\n</tool_response>"};
    }
    if (m.role == "user" && !result && form == ToolForm::llama3 && !use.tools.empty() && !std::exchange(told, true)) {
      m.content = llama_request(use) + m.content;
    }
    if (const auto of_message = calls.find(i); of_message != calls.end()) {
      for (const ToolCall& c : of_message->second) m.content += (m.content.empty() ? "" : "\n") + call_text(c, form);
    }
    if (result && after_result && form == ToolForm::tagged) {
      out.back().content += "\n" + m.content;  // results that follow each other are one turn
    } else {
      out.push_back(std::move(m));
    }
    after_result = result;
  }
  if (form == ToolForm::tagged && !use.tools.empty()) add_tagged_tools(out, use, chat_template);
  return out;
}

GrammarSpec tool_grammar(const ToolUse& use, ToolForm form) {
  if (use.choice == ToolChoice::none) return {};
  ordered_json calls = {{"anyOf", ordered_json::array()}};
  for (const Tool& tool : use.tools) {
    const std::string key = arguments_key(form);
    ordered_json parameters = tool.parameters;
    move_references(parameters, "/anyOf/" + std::to_string(calls["anyOf"].size()) + "/properties/" + key);
    calls["anyOf"].push_back({{"type", "object"},
                              {"properties", {{"name", {{"const", tool.name}}}, {key, parameters}}},
                              {"required", {"name", key}},
                              {"additionalProperties", false}});
  }
  // The first rule's name makes way for the calls'.
  const std::string text = "call" + json_schema_gbnf(calls, "tools").substr(std::string_view("root").size());
  GrammarSpec spec;
  if (form == ToolForm::llama3) {
    spec = {"root ::= call\n" + text};
    if (use.choice == ToolChoice::automatic) spec.trigger = kLlamaTrigger;
    spec.at_start = use.choice == ToolChoice::automatic;
  } else {
    const std::string again = use.parallel ? " (\"\\n\"? tagged)*" : "";
    spec = {"root ::= tagged" + again + "\ntagged ::= \"<tool_call>\" \"\\n\"? call \"\\n\"? \"</tool_call>\"\n" +
            text};
    if (use.choice == ToolChoice::automatic) spec.trigger = kOpen;
  }
  check(spec, "tools");
  return spec;
}

ToolCallReader::Piece ToolCallReader::push(std::string_view text) {
  Piece piece;
  held_ += text;
  while (step(piece)) continue;
  return piece;
}

ToolCallReader::Piece ToolCallReader::finish() {
  Piece piece;
  if (where_ == Where::content) piece.content = std::exchange(held_, {});
  return piece;
}

// false: nothing more can be done with the text so far.
bool ToolCallReader::step(Piece& piece) {
  switch (where_) {
    case Where::content:
      return take_content(piece);
    case Where::head:
      return take_head(piece);
    case Where::arguments:
      return take_arguments(piece);
    case Where::tail:
      return take_tail();
  }
  return false;
}

bool ToolCallReader::take_content(Piece& piece) {
  if (behind_call_) held_ = trimmed_left(held_);  // most often nothing but another call follows
  if (held_.empty()) return false;
  const bool llama = form_ == ToolForm::llama3;
  const std::string_view mark = llama ? kLlamaTrigger : kOpen;
  std::size_t at = llama && begun_ ? std::string::npos : held_.find(mark);
  if (llama && at != 0) at = std::string::npos;
  if (at != std::string::npos) {
    piece.content += held_.substr(0, at);
    behind_call_ = behind_call_ && at == 0;
    held_.erase(0, llama ? 0 : at + mark.size());
    where_ = Where::head;
    return true;
  }
  // What might be the beginning of a call is held back.
  std::size_t keep = llama && begun_ ? 0 : begun_marker(held_, mark);
  if (llama && keep < held_.size()) keep = 0;
  const std::size_t shown = held_.size() - keep;
  begun_ |= shown > 0;
  behind_call_ = behind_call_ && shown == 0;
  piece.content += held_.substr(0, shown);
  held_.erase(0, shown);
  return false;
}

// {"name": "NAME", "arguments": -- the grammar leaves no other form.
bool ToolCallReader::take_head(Piece& piece) {
  const std::string key = std::string("\"") + (form_ == ToolForm::llama3 ? "parameters" : "arguments") + "\":";
  const std::size_t name = held_.find("\"name\":"), arguments = held_.find(key);
  if (name == std::string::npos || arguments == std::string::npos) return false;
  const std::size_t open = held_.find('"', name + 7), close = held_.find('"', open + 1);
  if (close == std::string::npos || close > arguments) return false;
  calls_.push_back({"", held_.substr(open + 1, close - open - 1), ""});
  piece.calls.push_back({calls_.size() - 1, calls_.back().name, ""});
  held_.erase(0, arguments + key.size());
  depth_ = 0;
  where_ = Where::arguments;
  return true;
}

bool ToolCallReader::take_arguments(Piece& piece) {
  const bool begun = !calls_.back().arguments.empty();
  if (!begun) held_ = trimmed_left(held_);
  std::size_t size = 0;
  bool whole = false;
  for (; size < held_.size() && !whole; ++size) {
    const char c = held_[size];
    if (inside_string_) {
      if (escaped_ || c == '\\') {
        escaped_ = !escaped_;
      } else {
        inside_string_ = c != '"';
      }
    } else {
      inside_string_ = c == '"';
      depth_ += (c == '{' || c == '[') - (c == '}' || c == ']');
      whole = depth_ == 0 && (c == '}' || c == ']');
    }
  }
  if (size == 0) return false;
  piece.calls.push_back({calls_.size() - 1, "", held_.substr(0, size)});
  calls_.back().arguments += held_.substr(0, size);
  held_.erase(0, size);
  if (whole) where_ = Where::tail;
  return whole;
}

// The brace that ends the call, and the mark behind it.
bool ToolCallReader::take_tail() {
  if (form_ == ToolForm::llama3) {
    held_.clear();
    return false;
  }
  const std::size_t at = held_.find(kClose);
  if (at == std::string::npos) return false;
  held_.erase(0, at + kClose.size());
  behind_call_ = true;
  where_ = Where::content;
  return true;
}

}  // namespace jupiter

// Templates as data, recognised by the markers in a model's Jinja text.
#include "io/tokenizer/chat_template.hpp"

#include <algorithm>
#include <array>
#include <utility>

#include "io/error.hpp"
#include "io/tokenizer/generation_prompt.hpp"

namespace jupiter {

namespace {

constexpr std::array<std::string_view, 14> kNames = {"chatml",  "qwen",    "smollm", "llama2",   "llama3",
                                                     "vicuna",  "mistral", "zephyr", "gemma",    "phi3",
                                                     "granite", "harmony", "phi4",   "phi4-mini"};

constexpr std::string_view kSmolSystem = "You are a helpful AI assistant named SmolLM, trained by Hugging Face";
constexpr std::string_view kQwenSystem = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant.";
constexpr std::string_view kVicunaSystem =
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions.";

bool contains(std::string_view text, std::string_view part) {
  return text.find(part) != std::string_view::npos;
}

constexpr std::string_view kSpace = " \t\n\r\f\v";

std::string trimmed(std::string_view text) {
  const std::size_t first = text.find_first_not_of(kSpace);
  if (first == std::string_view::npos) return {};
  return std::string(text.substr(first, text.find_last_not_of(kSpace) - first + 1));
}

// Undoes the escapes of a Jinja string literal.
std::string unescaped(std::string_view literal) {
  std::string out;
  for (std::size_t i = 0; i < literal.size(); ++i) {
    if (literal[i] != '\\' || i + 1 == literal.size()) {
      out += literal[i];
      continue;
    }
    const char c = literal[++i];
    out += c == 'n' ? '\n' : c == 't' ? '\t' : c;
  }
  return out;
}

// The text between `open` and `close` where it is one literal: no Jinja expression or end of string in between.
// `quote` is the character that encloses the literal, or 0 for plain template text.
std::optional<std::string> literal_between(std::string_view text, std::size_t at, std::string_view close, char quote) {
  for (std::size_t i = at; i < text.size(); ++i) {
    if (text.substr(i, close.size()) == close) return unescaped(text.substr(at, i - at));
    if (text[i] == '\\') {
      ++i;
    } else if (text[i] == '{' || text[i] == '}' || (quote != 0 && text[i] == quote)) {
      return std::nullopt;
    }
  }
  return std::nullopt;
}

// A ChatML template writes its default system message as "<|im_start|>system\nTEXT<|im_end|>".
std::string chatml_default_system(std::string_view jinja) {
  constexpr std::string_view kOpen = "<|im_start|>system";
  for (std::size_t hit = jinja.find(kOpen); hit != std::string_view::npos; hit = jinja.find(kOpen, hit + 1)) {
    std::size_t at = hit + kOpen.size();
    if (jinja.substr(at, 1) == "\n") {
      at += 1;
    } else if (jinja.substr(at, 2) == "\\n") {
      at += 2;
    } else {
      continue;
    }
    const char before = hit > 0 ? jinja[hit - 1] : '\0';
    const char quote = before == '\'' || before == '"' ? before : '\0';
    const auto found = literal_between(jinja, at, "<|im_end|>", quote);
    if (found && !found->empty()) return *found;
  }
  return {};
}

// Whether all markers of the form <|NAME|> are among these. Others belong to forms that we do not know.
bool has_only_markers(std::string_view jinja, std::initializer_list<std::string_view> known) {
  for (std::size_t at = jinja.find("<|"); at != std::string_view::npos; at = jinja.find("<|", at + 2)) {
    const std::size_t end = jinja.find("|>", at);
    if (end == std::string_view::npos) return true;
    const std::string_view marker = jinja.substr(at, end + 2 - at);
    if (contains(marker, " ") || contains(marker, "'") || contains(marker, "\"")) continue;
    if (std::find(known.begin(), known.end(), marker) == known.end()) return false;
  }
  return true;
}

// Llama 3.1 and later begin every system message with two dates; the second is fixed where the template cannot ask
// for today's, and we take that one: a prompt should not change from day to day.
std::string llama31_preamble(std::string_view jinja) {
  constexpr std::string_view kKnowledge = "Cutting Knowledge Date: ", kDate = "date_string = \"";
  const std::size_t knowledge = jinja.find(kKnowledge), date = jinja.find(kDate);
  if (knowledge == std::string_view::npos || date == std::string_view::npos) return {};
  const std::string_view rest = jinja.substr(knowledge + kKnowledge.size());
  const std::string_view cut = rest.substr(0, rest.find_first_of("\\\n\""));
  const std::string_view today = jinja.substr(date + kDate.size());
  return std::string(kKnowledge).append(cut).append("\nToday Date: ").append(today.substr(0, today.find('"'))) + "\n\n";
}

}  // namespace

// Makes the known templates.
struct ChatTemplateTable {
  static ChatTemplate chatml(std::string_view name, std::string_view default_system) {
    ChatTemplate t;
    t.name_ = name;
    t.system_ = {"<|im_start|>system\n", "<|im_end|>\n"};
    t.user_ = {"<|im_start|>user\n", "<|im_end|>\n"};
    t.assistant_before_ = t.generation_prompt_ = "<|im_start|>assistant\n";
    t.assistant_end_ = "<|im_end|>";
    t.assistant_after_ = "\n";
    t.default_system_ = default_system;
    return t;
  }

  static ChatTemplate llama3(std::string_view preamble) {
    const auto header = [](const std::string& role) { return "<|start_header_id|>" + role + "<|end_header_id|>\n\n"; };
    ChatTemplate t;
    t.name_ = "llama3";
    t.system_ = {header("system"), "<|eot_id|>"};
    t.user_ = {header("user"), "<|eot_id|>"};
    t.tool_ = {header("ipython"), "<|eot_id|>"};
    t.assistant_before_ = t.generation_prompt_ = header("assistant");
    t.assistant_end_ = "<|eot_id|>";
    t.system_preamble_ = preamble;
    t.trim_ = true;
    return t;
  }

  static ChatTemplate llama2() {
    ChatTemplate t;
    t.name_ = "llama2";
    t.system_ = {"<<SYS>>\n", "\n<</SYS>>\n\n"};
    t.user_ = {"[INST] ", " [/INST]"};
    t.assistant_before_ = " ";
    t.assistant_end_ = " </s>";
    t.later_user_before_ = "<s>";
    t.system_inside_user_ = true;
    t.trim_ = true;
    return t;
  }

  // Versions differ in the spaces around the markers and before a reply.
  static ChatTemplate mistral(std::string_view open, std::string_view close, std::string_view before_reply) {
    ChatTemplate t;
    t.name_ = "mistral";
    t.system_ = {"", "\n\n"};
    t.user_ = {std::string(open), std::string(close)};
    t.assistant_before_ = before_reply;
    t.assistant_end_ = "</s>";
    t.system_inside_user_ = true;
    return t;
  }

  static ChatTemplate vicuna(std::string_view default_system) {
    ChatTemplate t;
    t.name_ = "vicuna";
    t.system_ = {"", " "};
    t.user_ = {"USER: ", " "};
    t.assistant_before_ = "ASSISTANT: ";
    t.generation_prompt_ = "ASSISTANT:";
    t.assistant_end_ = "</s>";
    t.default_system_ = default_system;
    return t;
  }

  // Gemma 3 puts the system message before the first user's words. Gemma 2's template knows none; it is put there too.
  static ChatTemplate gemma() {
    ChatTemplate t;
    t.name_ = "gemma";
    t.system_ = {"", "\n\n"};
    t.user_ = {"<start_of_turn>user\n", "<end_of_turn>\n"};
    t.assistant_before_ = t.generation_prompt_ = "<start_of_turn>model\n";
    t.assistant_end_ = "<end_of_turn>";
    t.assistant_after_ = "\n";
    t.system_inside_user_ = true;
    t.trim_ = true;
    return t;
  }

  // Its text has a new line behind every marker, but its tokenizer drops white space there: we write none.
  static ChatTemplate phi3() {
    ChatTemplate t;
    t.name_ = "phi3";
    t.system_ = {"<|system|>", "<|end|>"};
    t.user_ = {"<|user|>", "<|end|>"};
    t.assistant_before_ = t.generation_prompt_ = "<|assistant|>";
    t.assistant_end_ = "<|end|>";
    t.trim_start_ = true;
    return t;
  }

  // ChatML with a separator behind the role, and no new lines.
  static ChatTemplate phi4() {
    const auto role = [](const std::string& name) { return "<|im_start|>" + name + "<|im_sep|>"; };
    ChatTemplate t;
    t.name_ = "phi4";
    t.system_ = {role("system"), "<|im_end|>"};
    t.user_ = {role("user"), "<|im_end|>"};
    t.assistant_before_ = t.generation_prompt_ = role("assistant");
    t.assistant_end_ = "<|im_end|>";
    return t;
  }

  // Phi 3's markers, without new lines behind them.
  static ChatTemplate phi4_mini() {
    ChatTemplate t = phi3();
    t.name_ = "phi4-mini";
    t.trim_start_ = false;
    return t;
  }

  static ChatTemplate granite() {
    const auto role = [](const std::string& name) { return "<|start_of_role|>" + name + "<|end_of_role|>"; };
    ChatTemplate t;
    t.name_ = "granite";
    t.system_ = {role("system"), "<|end_of_text|>\n"};
    t.user_ = {role("user"), "<|end_of_text|>\n"};
    t.assistant_before_ = t.generation_prompt_ = role("assistant");
    t.assistant_end_ = "<|end_of_text|>";
    t.assistant_after_ = "\n";
    return t;
  }

  // gpt-oss. Its Jinja text puts today's date into the first message; that line is optional, and we write none: a
  // prompt should not change from day to day. A reply has channels of its own: of earlier ones only the final channel
  // is shown.
  static ChatTemplate harmony() {
    const auto message = [](const std::string& role) { return "<|start|>" + role + "<|message|>"; };
    ChatTemplate t;
    t.name_ = "harmony";
    t.opening_ =
        message("system") +
        "You are ChatGPT, a large language model trained by OpenAI.\nKnowledge cutoff: 2024-06\n\n"
        "Reasoning: medium\n\n# Valid channels: analysis, commentary, final. Channel must be included for every "
        "message.<|end|>";
    t.system_ = {message("developer") + "# Instructions\n\n", "\n\n<|end|>"};
    t.user_ = {message("user"), "<|end|>"};
    t.assistant_before_ = message("assistant<|channel|>final");
    t.assistant_end_ = "<|end|>";
    t.generation_prompt_ = "<|start|>assistant";
    return t;
  }

  static ChatTemplate zephyr(const std::string& eos) {
    ChatTemplate t;
    t.name_ = "zephyr";
    t.system_ = {"<|system|>\n", eos + "\n"};
    t.user_ = {"<|user|>\n", eos + "\n"};
    t.assistant_before_ = t.generation_prompt_ = "<|assistant|>\n";
    t.assistant_end_ = eos;
    t.assistant_after_ = "\n";
    return t;
  }

  // The form whose markers the Jinja text has.
  static std::optional<ChatTemplate> by_markers(std::string_view jinja, std::string_view eos) {
    const auto has = [jinja](std::string_view part) { return contains(jinja, part); };
    if (has("<|im_start|>") && has("<|im_sep|>") && has("<|im_end|>")) {
      const bool known = has_only_markers(jinja, {"<|im_start|>", "<|im_sep|>", "<|im_end|>", "<|endoftext|>"});
      return known ? std::optional(phi4()) : std::nullopt;  // not Kimi
    }
    if (has("<|im_start|>") && has("<|im_end|>")) {
      const bool known = has_only_markers(
          jinja, {"<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|startoftext|>", "<|begin_of_text|>"});
      if (!known || has("## Metadata")) return std::nullopt;  // Kimi; SmolLM3
      return chatml("chatml", chatml_default_system(jinja));
    }
    if (has("<|start|>") && has("<|channel|>") && has("<|message|>")) {
      const bool known = has_only_markers(
          jinja, {"<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|call|>", "<|return|>", "<|constrain|>"});
      return known && has("# Instructions") ? std::optional(harmony()) : std::nullopt;
    }
    if (has("<|start_header_id|>") && has("<|end_header_id|>")) {
      const bool known = has_only_markers(
          jinja, {"<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>",
                  "<|eom_id|>", "<|python_tag|>", "<|image|>", "<|finetune_right_pad_id|>"});
      return known ? std::optional(llama3(llama31_preamble(jinja))) : std::nullopt;
    }
    if (has("[INST]")) {
      if (has("[SYSTEM_PROMPT]")) return std::nullopt;  // Mistral's later templates
      if (has("<<SYS>>")) return llama2();
      const bool reply_space = has("' ' + message['content']") || has("\" \" + message[\"content\"]");
      return mistral(has("[INST] ") ? "[INST] " : "[INST]", has(" [/INST]") ? " [/INST]" : "[/INST]",
                     reply_space ? " " : "");
    }
    if (has("<start_of_turn>") && has("<end_of_turn>") && has("model")) return gemma();
    if (has("<|start_of_role|>") && has("<|end_of_role|>")) {
      // Later templates write today's date into a system message of their own, or ask for documents.
      const bool known =
          has_only_markers(jinja, {"<|start_of_role|>", "<|end_of_role|>", "<|end_of_text|>", "<|tool_call|>"});
      return known && !has("strftime_now") ? std::optional(granite()) : std::nullopt;
    }
    if (has("'<|' + message['role'] + '|>'") && has("<|assistant|>") && has("<|end|>")) {
      const bool known = has_only_markers(jinja, {"<|assistant|>", "<|end|>", "<|tool|>", "<|/tool|>", "<|tool_call|>",
                                                  "<|/tool_call|>", "<|tool_response|>"});
      return known ? std::optional(phi4_mini()) : std::nullopt;
    }
    if (has("<|user|>") && has("<|assistant|>") && has("<|end|>")) {
      const bool known =
          has_only_markers(jinja, {"<|user|>", "<|assistant|>", "<|system|>", "<|end|>", "<|endoftext|>"});
      const bool lines = has("<|user|>\n") || has("<|user|>\\n") || has("<|user|>' + '\\n'");
      return known && lines ? std::optional(phi3()) : std::nullopt;  // not Phi 4
    }
    if (has("<|user|>") && has("<|assistant|>")) {
      const bool known = has_only_markers(jinja, {"<|user|>", "<|assistant|>", "<|system|>", "<|endoftext|>", eos}) &&
                         (has("eos_token") || has(eos));
      return known ? std::optional(zephyr(std::string(eos))) : std::nullopt;
    }
    if (has("USER: ") && has("ASSISTANT:")) return vicuna(has("A chat between") ? kVicunaSystem : "");
    return std::nullopt;
  }
};

std::string ChatTemplate::names() {
  std::string text;
  for (const std::string_view name : kNames) text.append(text.empty() ? "" : ", ").append(name);
  return text;
}

std::optional<ChatTemplate> ChatTemplate::from_name(std::string_view name) {
  using Table = ChatTemplateTable;
  if (name == "chatml") return Table::chatml(name, "");
  if (name == "qwen") return Table::chatml(name, kQwenSystem);
  if (name == "smollm") return Table::chatml(name, kSmolSystem);
  if (name == "llama2") return Table::llama2();
  if (name == "llama3") return Table::llama3("");
  if (name == "vicuna") return Table::vicuna(kVicunaSystem);
  if (name == "mistral") return Table::mistral("[INST] ", " [/INST]", " ");
  if (name == "zephyr") return Table::zephyr("</s>");
  if (name == "gemma") return Table::gemma();
  if (name == "phi3") return Table::phi3();
  if (name == "granite") return Table::granite();
  if (name == "harmony") return Table::harmony();
  if (name == "phi4") return Table::phi4();
  if (name == "phi4-mini") return Table::phi4_mini();
  return std::nullopt;
}

std::optional<ChatTemplate> ChatTemplate::recognise(std::string_view jinja, std::string_view eos) {
  std::optional<ChatTemplate> t = ChatTemplateTable::by_markers(jinja, eos);
  if (!t) return std::nullopt;
  // Text that opens the reply and that we would leave out, such as <think>, changes what the model answers.
  const auto prompt = jupiter::generation_prompt(jinja);
  if (!prompt) return std::nullopt;
  const bool longer = t->name_ == "chatml" && prompt->starts_with(t->generation_prompt_);
  const bool same = (t->trim_start_ ? trimmed(*prompt) : *prompt) == t->generation_prompt_;
  if (!prompt->empty() && !same && !longer) return std::nullopt;
  if (longer) t->generation_prompt_ = *prompt;
  return t;
}

bool ChatTemplate::opens_thinking() const {
  return trimmed(generation_prompt_).ends_with("<think>");
}

std::string ChatTemplate::content_of(const ChatMessage& message) const {
  if (trim_) return trimmed(message.content);
  return trim_start_
             ? message.content.substr(std::min(message.content.find_first_not_of(kSpace), message.content.size()))
             : message.content;
}

void ChatTemplate::add_message(const ChatMessage& message, bool first_user, std::vector<PromptSegment>& out) const {
  if (message.role == "user") {
    // Inside a user turn the system message comes from render().
    out.push_back({(first_user ? "" : later_user_before_) + user_.before, true});
    out.push_back({content_of(message), false});
    out.push_back({user_.after, true});
  } else if (message.role == "assistant") {
    out.push_back({assistant_before_, true});
    out.push_back({content_of(message), false});
    out.push_back({assistant_end_ + assistant_after_, true});
  } else if (message.role == "tool" && !tool_.before.empty()) {
    out.push_back({tool_.before, true});
    out.push_back({content_of(message), false});
    out.push_back({tool_.after, true});
  } else {
    throw UsageError(
        "chat message role: expected " +
        std::string(message.role == "system" ? "system only in the first message" : "system, user or assistant") +
        ", found \"" + message.role.substr(0, 40) + "\"");
  }
}

std::vector<PromptSegment> ChatTemplate::render(const std::vector<ChatMessage>& messages,
                                                bool add_generation_prompt) const {
  std::vector<PromptSegment> out;
  const bool own_system = !messages.empty() && messages.front().role == "system";
  const std::string system = own_system ? content_of(messages.front()) : default_system_;
  const bool show_system =
      !system.empty() || !system_preamble_.empty() || (own_system && !system_inside_user_ && opening_.empty());
  const auto add_system = [&] {
    out.push_back({system_.before + system_preamble_, true});
    out.push_back({system, false});
    out.push_back({system_.after, true});
  };
  if (!opening_.empty()) out.push_back({opening_, true});
  if (show_system && !system_inside_user_) add_system();
  bool first_user = true;
  for (std::size_t i = own_system ? 1 : 0; i < messages.size(); ++i) {
    const bool user = messages[i].role == "user";
    const std::size_t at = out.size();
    add_message(messages[i], first_user, out);
    if (user && first_user && show_system && system_inside_user_) {
      // After the turn's opening, before the user's words.
      std::vector<PromptSegment> rest(out.begin() + at + 1, out.end());
      out.resize(at + 1);
      add_system();
      out.insert(out.end(), rest.begin(), rest.end());
    }
    first_user = first_user && !user;
  }
  if (add_generation_prompt) out.push_back({generation_prompt_, true});
  return out;
}

std::vector<PromptSegment> ChatTemplate::render_turn(const std::vector<ChatMessage>& messages, std::size_t from,
                                                     bool reply_ended) const {
  std::vector<PromptSegment> out;
  out.push_back({(reply_ended ? "" : assistant_end_) + assistant_after_, true});
  for (std::size_t i = from; i < messages.size(); ++i) add_message(messages[i], false, out);
  out.push_back({generation_prompt_, true});
  return out;
}

std::vector<TokenId> encode_segments(const Tokenizer& tokenizer, const std::vector<PromptSegment>& segments,
                                     bool first) {
  std::vector<TokenId> ids = tokenizer.encode(segments);
  if (first && tokenizer.data().add_bos) ids.insert(ids.begin(), tokenizer.data().bos);
  return ids;
}

}  // namespace jupiter

// A reader of the few Jinja constructs that generation prompts are made of: text, literals joined by + or ~, comments,
// and conditions on options that are not defined.
#include "io/tokenizer/generation_prompt.hpp"

#include <algorithm>
#include <vector>

namespace jupiter {

namespace {

constexpr std::string_view kSpace = " \t\r\n";
constexpr std::string_view kFlag = "add_generation_prompt";

enum class Kind { text, expression, statement };
struct Part {
  Kind kind;
  std::string text;  // of a statement or expression: what stands inside, without space around it
};

std::string_view trimmed(std::string_view text) {
  const std::size_t first = text.find_first_not_of(kSpace);
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(kSpace) - first + 1);
}

std::string_view first_word(std::string_view statement) {
  return statement.substr(0, statement.find_first_of(kSpace));
}

bool contains(std::string_view text, std::string_view part) {
  return text.find(part) != std::string_view::npos;
}

// The end of a tag that begins at `at`: where its closing mark stands, string literals skipped.
std::size_t find_close(std::string_view jinja, std::size_t at, std::string_view close) {
  char quote = 0;
  for (std::size_t i = at; i < jinja.size(); ++i) {
    if (quote != 0) {
      if (jinja[i] == quote) quote = 0;
      if (jinja[i] == '\\') ++i;
    } else if (jinja.substr(i, close.size()) == close) {
      return i;
    } else if (close != "#}" && (jinja[i] == '\'' || jinja[i] == '"')) {
      quote = jinja[i];
    }
  }
  return std::string_view::npos;
}

// Text between two tags, as trim_blocks, lstrip_blocks and the minus signs of the tags leave it.
struct Between {
  std::string_view text;
  bool after_start;   // of the template
  bool after_block;   // not after an expression
  bool before_block;  // nor before one
  bool cut_before, cut_after;
};
std::string stripped(const Between& b) {
  std::string_view text = b.text;
  const bool new_line = b.after_start || (b.after_block && text.starts_with('\n'));
  if (b.after_block && text.starts_with('\n')) text.remove_prefix(1);
  if (b.cut_before) text.remove_prefix(std::min(text.find_first_not_of(kSpace), text.size()));
  if (b.cut_after) return std::string(text.substr(0, text.find_last_not_of(kSpace) + 1));
  const std::size_t end = text.find_last_not_of(" \t") + 1;  // 0 where there is nothing else
  const bool indents_a_tag = b.before_block && (end == 0 ? new_line : text[end - 1] == '\n');
  return std::string(indents_a_tag ? text.substr(0, end) : text);
}

// Where the next tag opens, or the text's end.
std::size_t find_open(std::string_view jinja, std::size_t at) {
  for (std::size_t open = jinja.find('{', at); open + 1 < jinja.size(); open = jinja.find('{', open + 1)) {
    if (open == std::string_view::npos) break;
    if (contains("{%#", jinja.substr(open + 1, 1))) return open;
  }
  return jinja.size();
}

// The template as text and tags, comments left out. None: a tag does not end.
std::optional<std::vector<Part>> parts_of(std::string_view jinja) {
  std::vector<Part> parts;
  bool after_block = false, cut_before = false;
  if (jinja.ends_with('\n')) jinja.remove_suffix(1);
  for (std::size_t at = 0;;) {
    const std::size_t open = find_open(jinja, at);
    const std::string_view tag = jinja.substr(open);
    const bool expression = tag.starts_with("{{");
    parts.push_back({Kind::text, stripped({jinja.substr(at, open - at), at == 0, after_block,
                                           !tag.empty() && !expression, cut_before, tag.substr(0, 3).ends_with('-')})});
    if (tag.empty()) return parts;
    const std::string_view close = expression ? "}}" : tag[1] == '%' ? "%}" : "#}";
    const std::size_t end = find_close(jinja, open + 2, close);
    if (end == std::string_view::npos) return std::nullopt;
    std::string_view inside = jinja.substr(open + 2, end - open - 2);
    cut_before = inside.ends_with('-');
    if (inside.starts_with('-') || inside.starts_with('+')) inside.remove_prefix(1);
    if (inside.ends_with('-')) inside.remove_suffix(1);
    const Kind kind = expression ? Kind::expression : Kind::statement;
    if (close != "#}") parts.push_back({kind, std::string(trimmed(inside))});
    after_block = !expression;
    at = end + 2;
  }
}

// The value of literals joined by + or ~, or none.
std::optional<std::string> literals(std::string_view expression) {
  std::string value;
  for (bool wants_literal = true;; wants_literal = !wants_literal) {
    expression = trimmed(expression);
    if (expression.empty()) return wants_literal ? std::nullopt : std::optional(value);
    const char c = expression.front();
    expression.remove_prefix(1);
    if (!wants_literal) {
      if (c != '+' && c != '~') return std::nullopt;
      continue;
    }
    if (c != '\'' && c != '"') return std::nullopt;
    std::size_t i = 0;
    for (; i < expression.size() && expression[i] != c; ++i) {
      if (expression[i] != '\\') {
        value += expression[i];
      } else if (++i < expression.size()) {
        value += expression[i] == 'n' ? '\n' : expression[i] == 't' ? '\t' : expression[i];
      }
    }
    if (i == expression.size()) return std::nullopt;
    expression.remove_prefix(i + 1);
  }
}

// A condition that is false as long as nobody defines its option: "X is defined", alone or with more that must hold.
bool asks_for_an_option(std::string_view condition) {
  const std::size_t end = condition.find_first_of(kSpace);
  if (end == std::string_view::npos || contains(condition, " or ") || contains(condition, "(")) return false;
  const std::string_view rest = trimmed(condition.substr(end));
  return condition.substr(0, end) != "not" && condition.substr(0, end) != kFlag &&
         (rest == "is defined" || rest.starts_with("is defined and "));
}

class Reader {
 public:
  explicit Reader(const std::vector<Part>& parts) : parts_(parts) {}

  // What the parts from `at` on print, up to the statement that ends their block; `at` is then that statement.
  std::optional<std::string> block(std::size_t& at) const {
    std::string out;
    for (; at < parts_.size(); ++at) {
      const Part& part = parts_[at];
      if (part.kind == Kind::text) {
        out += part.text;
      } else if (part.kind == Kind::expression) {
        const auto value = literals(part.text);
        if (!value) return std::nullopt;
        out += *value;
      } else if (first_word(part.text) == "if") {
        const auto value = condition(at);
        if (!value) return std::nullopt;
        out += *value;
      } else if (first_word(part.text).starts_with("e")) {  // endif, else, elif, endfor
        return out;
      } else {
        return std::nullopt;
      }
    }
    return out;
  }

  // Leaves `at` at the statement that ends the block which it is inside of: endif, or where `half`, else or elif.
  bool skip(std::size_t& at, bool half) const {
    for (int depth = 0; at < parts_.size(); ++at) {
      if (parts_[at].kind != Kind::statement) continue;
      const std::string_view word = first_word(parts_[at].text);
      if (word == "if") ++depth;
      if (depth == 0 && (word == "endif" || (half && (word == "else" || word == "elif")))) return true;
      if (word == "endif") --depth;
    }
    return false;
  }

 private:
  // `at` is an if that is false; it is left at its endif.
  std::optional<std::string> condition(std::size_t& at) const {
    if (!asks_for_an_option(trimmed(std::string_view(parts_[at].text).substr(2)))) return std::nullopt;
    if (!skip(++at, true) || first_word(parts_[at].text) == "elif") return std::nullopt;
    if (first_word(parts_[at].text) == "endif") return "";
    auto out = block(++at);
    if (!out || at >= parts_.size() || first_word(parts_[at].text) != "endif") return std::nullopt;
    return out;
  }

  const std::vector<Part>& parts_;
};

// Conditions that hold for a prompt, whose last message is the user's.
bool asks_for_the_prompt(const Part& part) {
  if (part.kind != Kind::statement || first_word(part.text) != "if") return false;
  std::string condition(trimmed(std::string_view(part.text).substr(2)));
  std::replace(condition.begin(), condition.end(), '"', '\'');
  constexpr std::string_view kKnown[] = {
      kFlag,
      "loop.last and add_generation_prompt",
      "add_generation_prompt is defined and add_generation_prompt",
      "add_generation_prompt and messages[-1]['role'] != 'assistant'",
      "add_generation_prompt and messages[-1].role != 'assistant'",
  };
  return std::find(std::begin(kKnown), std::end(kKnown), condition) != std::end(kKnown);
}

// Whether nothing is printed from `at` on.
bool is_silent(const std::vector<Part>& parts, std::size_t at) {
  for (; at < parts.size(); ++at) {
    const Part& p = parts[at];
    if (p.kind == Kind::expression) return false;
    if (p.kind == Kind::text && !trimmed(p.text).empty()) return false;
    if (p.kind == Kind::statement && !first_word(p.text).starts_with("end")) return false;
  }
  return true;
}

}  // namespace

std::optional<std::string> generation_prompt(std::string_view jinja) {
  const auto parts = parts_of(jinja);
  if (!parts) return std::nullopt;
  const Reader reader(*parts);
  if (!contains(jinja, kFlag)) {  // whatever is asked for: always what follows the last message
    std::size_t at = 0;
    for (std::size_t i = 0; i < parts->size(); ++i) {
      if ((*parts)[i].kind == Kind::statement && (*parts)[i].text == "endfor") at = i + 1;
    }
    auto out = reader.block(at);
    return at >= parts->size() ? out : std::nullopt;
  }
  std::optional<std::string> found;
  std::size_t end = parts->size();
  for (std::size_t i = 0; i < parts->size(); ++i) {
    if (!asks_for_the_prompt((*parts)[i])) continue;
    end = i + 1;
    const auto out = reader.block(end);
    if (!out || (found && *found != *out) || !reader.skip(end, false)) return std::nullopt;
    found = out;
  }
  return is_silent(*parts, end + 1) ? found : std::nullopt;
}

}  // namespace jupiter

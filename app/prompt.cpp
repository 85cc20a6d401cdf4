// Options of sampling, text checks, templates.
#include "app/prompt.hpp"

#include <fmt/format.h>

#include <type_traits>

#include "io/tokenizer/utf8.hpp"

namespace jupiter {

void declare_sampling(OptionSet& options, const std::string& heading, SamplingOptions& sampling) {
  options.group(heading);
  visit_sampling(sampling, [&](const char* option, const char*, auto& place, auto range, const char* value,
                               const char* help) { options.number(option, place, range, value, help); });
}

void read_sampling(const JsonObject& o, SamplingOptions& sampling) {
  visit_sampling(sampling, [&](const char*, const char* key, auto& place, auto range, const char*, const char*) {
    using T = std::remove_reference_t<decltype(place)>;
    if constexpr (std::is_same_v<T, std::uint64_t>) {
      const auto* value = o.find(key);
      if (value == nullptr) return;
      if (!value->is_number_unsigned()) o.fail(key, fmt::format("0 to {}", UINT64_MAX), json_text(*value));
      place = value->get<std::uint64_t>();
    } else if constexpr (std::is_integral_v<T>) {
      if (const auto value = o.find_int(key, range.low, range.high)) place = static_cast<T>(*value);
    } else if (const auto value = o.find_number(key)) {
      if (!(*value >= range.low && *value <= range.high)) {
        o.fail(key, fmt::format("{} to {}", range.low, range.high), json_text(*value));
      }
      place = static_cast<T>(*value);
    }
  });
}

void TextOptions::declare_template(OptionSet& options) {
  options.flag("raw", raw, "No chat template; special tokens in the text are parsed");
  options.text("chat-template", template_name, "NAME",
               "Template to use instead of the model's: " + ChatTemplate::names());
}

void TextOptions::declare_answer(OptionSet& options, const std::string& predict_help) {
  options.number("n,predict", max_new_tokens, {1, INT64_MAX}, "N", predict_help);
  options.flag("ignore-eos", ignore_eos, "End-of-turn tokens do not end an answer");
}

void declare_reasoning(OptionSet& options, ReasoningUse& use, const std::string& shown) {
  options.choice("reasoning", use, {{"show", ReasoningUse::show}, {"hide", ReasoningUse::hide}},
                 "show or hide what a model thinks before it answers (<think>, gpt-oss's analysis): " + shown);
}

void check_utf8(const std::string& text, const std::string& source, ExitCode code) {
  for (std::size_t at = 0; at < text.size();) {
    const Utf8Char c = first_utf8_char(std::string_view(text).substr(at));
    if (c.state != Utf8State::valid) {
      throw Error(code, fmt::format("{}: expected UTF-8, found byte 0x{:02x} at offset {}", source,
                                    static_cast<unsigned char>(text[at]), at));
    }
    at += c.bytes;
  }
}

void check_utf8_option(const std::string& text, const std::string& option) {
  try {
    check_utf8(text, option, ExitCode::usage);
  } catch (const Error& e) {
    throw CollectiveError(e.code(), e.what());
  }
}

ChatTemplate choose_template(const Tokenizer& tokenizer, const std::string& name) {
  const TokenizerData& data = tokenizer.data();
  if (!name.empty()) {
    if (const auto known = ChatTemplate::from_name(name)) return *known;
    throw UsageError(fmt::format("--chat-template: expected one of {}, found '{}'", ChatTemplate::names(), name));
  }
  const auto own =
      ChatTemplate::recognise(data.chat_template, data.eos >= 0 ? tokenizer.piece(data.eos) : std::string_view("</s>"));
  if (own) return *own;
  throw UsageError(fmt::format("the model's chat template is {}: use --chat-template NAME ({}) or --raw",
                               data.chat_template.empty() ? "missing" : "unknown", ChatTemplate::names()));
}

}  // namespace jupiter

// Options of sampling, text checks, templates.
#include "app/prompt.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "io/tokenizer/utf8.hpp"

namespace jupiter {

void add_sampling_options(cxxopts::OptionAdder add) {
  // clang-format off
  add
    ("temp", "Temperature; 0 is greedy", cxxopts::value<float>()->default_value("0"), "T")
    ("top-k", "Keep the K most likely tokens; 0: all", cxxopts::value<int>()->default_value("40"), "K")
    ("top-p", "Keep the most likely tokens up to this sum; 1: all", cxxopts::value<float>()->default_value("0.95"), "P")
    ("min-p", "Keep tokens of at least this share of the best one's probability; 0: all", cxxopts::value<float>()->default_value("0.05"), "P")
    ("repeat-penalty", "Penalty on the last 64 tokens; 1: none", cxxopts::value<float>()->default_value("1"), "X")
    ("seed", "Random numbers are keyed by it and the position", cxxopts::value<std::uint64_t>()->default_value("0"), "N");
  // clang-format on
}

SamplingOptions read_sampling(const cxxopts::ParseResult& args) {
  SamplingOptions s;
  s.temperature = args["temp"].as<float>();
  s.top_k = args["top-k"].as<int>();
  s.top_p = args["top-p"].as<float>();
  s.min_p = args["min-p"].as<float>();
  s.repeat_penalty = args["repeat-penalty"].as<float>();
  s.seed = args["seed"].as<std::uint64_t>();
  try {
    check_sampling(s, "--", ExitCode::usage);
  } catch (const Error& e) {
    throw CollectiveError(e.code(), e.what());
  }
  return s;
}

std::int64_t predict_option(const cxxopts::ParseResult& args) {
  if (args.count("predict") == 0) return 0;
  const auto tokens = args["predict"].as<std::int64_t>();
  if (tokens < 1) {
    throw CollectiveError(ExitCode::usage, fmt::format("-n: expected a positive number of tokens, found {}", tokens));
  }
  return std::min(tokens, kMostTokens);
}

void check_sampling(const SamplingOptions& s, const std::string& prefix, ExitCode code) {
  const auto check = [&](const char* option, float value, float low, float high) {
    if (value >= low && value <= high) return;
    throw Error(code, fmt::format("{}{}: expected {} to {}, found {}", prefix, option, low, high, value));
  };
  const bool flags = prefix == "--";
  check(flags ? "temp" : "temperature", s.temperature, 0, 100);
  check(flags ? "top-k" : "top_k", static_cast<float>(s.top_k), 0, static_cast<float>(INT32_MAX));
  check(flags ? "top-p" : "top_p", s.top_p, 0, 1);
  check(flags ? "min-p" : "min_p", s.min_p, 0, 1);
  check(flags ? "repeat-penalty" : "repeat_penalty", s.repeat_penalty, 0.01f, 100);
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

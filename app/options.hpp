// The options of a subcommand. Each is declared once: its name, the variable that it sets, its range, its help. What
// the variable holds at the declaration is the default; one outside the range means "not given" and is not shown.
#pragma once

#include <fmt/format.h>

#include <charconv>
#include <cstdint>
#include <cxxopts.hpp>
#include <functional>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <type_traits>
#include <utility>
#include <vector>

#include "parallel/comm/mpi.hpp"
#include "parallel/comm/startup.hpp"

namespace jupiter {

using Arguments = std::vector<std::string>;  // after the subcommand

// Both ends belong to it.
template <typename T>
struct Range {
  T low = std::numeric_limits<T>::lowest();
  T high = std::numeric_limits<T>::max();
};

// The names of an enumeration's values.
template <typename E>
using Choices = std::vector<std::pair<std::string, E>>;
template <typename E>
Choices<E> named(std::initializer_list<E> values) {
  Choices<E> choices;
  for (const E value : values) choices.emplace_back(name(value), value);
  return choices;
}

// CollectiveError (usage) with this message where the command line is wrong: every rank has the same one.
void refuse(bool wrong, const std::string& message);

// "a, b or c"
std::string one_of(const std::vector<std::string>& names);

// option: as messages show it, "--predict (-n)".
template <typename T>
void check_range(const std::string& option, T value, Range<T> range) {
  if (value >= range.low && value <= range.high) return;
  const bool open = range.high == std::numeric_limits<T>::max();
  refuse(true, open ? fmt::format("{}: expected at least {}, found {}", option, range.low, value)
                    : fmt::format("{}: expected {} to {}, found {}", option, range.low, range.high, value));
}

template <typename T>
T parse_number(const std::string& option, const std::string& text, Range<T> range) {
  T value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  const bool whole = end == text.data() + text.size() && !text.empty();
  const bool too_large = whole && error == std::errc::result_out_of_range;
  refuse(
      !whole || (error != std::errc{} && !too_large),
      fmt::format("{}: expected {}, found '{}'", option, std::is_integral_v<T> ? "a whole number" : "a number", text));
  refuse(too_large, fmt::format("{}: expected {} to {}, found {}", option, range.low, range.high, text));
  check_range(option, value, range);
  return value;
}

constexpr std::int64_t kMostTokens = INT32_MAX;  // of any length: positions have 32 bits
constexpr std::int64_t kMostThreads = 1024;
constexpr std::int64_t kMostMib = 1 << 30;  // of a board's memory

class OptionSet {
 public:
  // command: as on the command line, such as "run".
  OptionSet(const std::string& command, const std::string& summary);
  // The variables are referred to until parse() is done.
  OptionSet(const OptionSet&) = delete;
  OptionSet& operator=(const OptionSet&) = delete;

  // The options that follow stand under this heading.
  void group(const std::string& heading) { group_ = heading; }

  // names: "n,predict" or "predict"; value: how the help calls the value.
  void text(const std::string& names, std::string& place, const std::string& value, const std::string& help);
  void text(const std::string& names, std::optional<std::string>& place, const std::string& value,
            const std::string& help);
  // Given once or several times, or with commas.
  void texts(const std::string& names, std::vector<std::string>& place, const std::string& value,
             const std::string& help);
  // What an argument without an option's name sets; one of a command's options at most.
  void positional(const std::string& name, std::string& place, const std::string& value, const std::string& help);
  // Turns the default into its opposite.
  void flag(const std::string& names, bool& place, const std::string& help);

  template <typename T>
  void number(const std::string& names, T& place, Range<T> range, const std::string& value, const std::string& help) {
    const bool has_default = place >= range.low && place <= range.high;
    declare<std::string>(
        names, has_default ? fmt::format("{}", place) : "", value, help,
        [&place, range](const std::string& name, const std::string& text) { place = parse_number(name, text, range); });
  }
  // A list, with commas; every number within the range.
  template <typename T>
  void numbers(const std::string& names, std::vector<T>& place, Range<T> range, const std::string& value,
               const std::string& help) {
    std::string defaults;
    for (const T v : place) defaults += (defaults.empty() ? "" : ",") + std::to_string(v);
    declare<std::vector<std::string>>(names, defaults, value, help,
                                      [&place, range](const std::string& name, const std::vector<std::string>& list) {
                                        place.clear();
                                        for (const std::string& v : list) place.push_back(parse_number(name, v, range));
                                      });
  }
  // One of the values, by its name.
  template <typename E>
  void choice(const std::string& names, E& place, const Choices<E>& choices, const std::string& help) {
    std::string default_name;
    for (const auto& [name, value] : choices) {
      if (default_name.empty() && value == place) default_name = name;
    }
    choose<E>(names, default_name, choices, help, [&place](E value) { place = value; });
  }
  template <typename E>
  void choice(const std::string& names, std::optional<E>& place, const Choices<E>& choices, const std::string& help) {
    choose<E>(names, "", choices, help, [&place](E value) { place = value; });
  }

  // false: --help was asked for; rank 0 has printed it. CollectiveError (usage) where an argument is wrong.
  // --describe-options prints the declarations as JSON, from which manual pages and completions are made.
  bool parse(const MpiSession& mpi, const Arguments& arguments);
  // After parse().
  bool given(const std::string& option) const { return args_.count(option) > 0; }

 private:
  template <typename T>
  void declare(const std::string& names, const std::string& default_text, const std::string& value,
               const std::string& help, std::function<void(const std::string&, const T&)> assign) {
    auto typed = cxxopts::value<T>();
    if (!default_text.empty()) typed->default_value(default_text);
    add(names, typed, value, help);
    const std::string name = long_name(names);
    const std::string shown = name.size() == names.size() ? "--" + name : fmt::format("--{} (-{})", name, names[0]);
    assigns_.push_back([this, name, shown, assign = std::move(assign)] {
      if (given(name)) assign(shown, args_[name].template as<T>());
    });
  }
  template <typename E>
  void choose(const std::string& names, const std::string& default_name, const Choices<E>& choices,
              const std::string& help, std::function<void(E)> assign) {
    declare<std::string>(names, default_name, "NAME", help, [choices, assign](const auto& name, const auto& text) {
      std::vector<std::string> known;
      for (const auto& [known_name, value] : choices) {
        if (known_name == text) return assign(value);
        known.push_back(known_name);
      }
      refuse(true, fmt::format("{}: expected {}, found '{}'", name, one_of(known), text));
    });
  }
  void add(const std::string& names, const std::shared_ptr<cxxopts::Value>& type, const std::string& value,
           const std::string& help);
  static std::string long_name(const std::string& names) { return names.substr(names.find(',') + 1); }
  std::string described() const;
  cxxopts::Options options_;
  cxxopts::ParseResult args_;
  std::string command_, summary_, positional_, group_;
  std::vector<std::function<void()>> assigns_;
};

}  // namespace jupiter

// On top of cxxopts, which splits the command line and lays out the help.
#include "app/options.hpp"

#include <iostream>
#include <map>
#include <nlohmann/json.hpp>

namespace jupiter {

namespace {
// llama.cpp's options of several letters behind one dash, which cxxopts would read as bundles.
const std::map<std::string, std::string> kLongNames = {
    {"-ctk", "--cache-type-k"}, {"-ctv", "--cache-type-v"}, {"-sys", "--system-prompt"}};
constexpr std::size_t kHelpColumns = 110;
}  // namespace

void refuse(bool wrong, const std::string& message) {
  if (wrong) throw CollectiveError(ExitCode::usage, message);
}

std::string one_of(const std::vector<std::string>& names) {
  std::string text;
  for (std::size_t i = 0; i < names.size(); ++i) {
    if (i > 0) text += i + 1 == names.size() ? " or " : ", ";
    text += names[i];
  }
  return text;
}

OptionSet::OptionSet(const std::string& command, const std::string& summary)
    : options_("jupiter " + command, summary), command_(command), summary_(summary) {
  options_.set_width(kHelpColumns);
}

void OptionSet::text(const std::string& names, std::string& place, const std::string& value, const std::string& help) {
  declare<std::string>(names, place, value, help, [&place](const auto&, const std::string& text) { place = text; });
}

void OptionSet::text(const std::string& names, std::optional<std::string>& place, const std::string& value,
                     const std::string& help) {
  declare<std::string>(names, place.value_or(""), value, help,
                       [&place](const auto&, const std::string& text) { place = text; });
}

void OptionSet::texts(const std::string& names, std::vector<std::string>& place, const std::string& value,
                      const std::string& help) {
  std::string defaults;
  for (const std::string& text : place) defaults += (defaults.empty() ? "" : ",") + text;
  declare<std::vector<std::string>>(names, defaults, value, help,
                                    [&place](const auto&, const auto& list) { place = list; });
}

void OptionSet::positional(const std::string& name, std::string& place, const std::string& value,
                           const std::string& help) {
  text(name, place, value, help);
  positional_ = name;
  options_.parse_positional({name});
  options_.positional_help(value);
}

void OptionSet::flag(const std::string& names, bool& place, const std::string& help) {
  add(names, cxxopts::value<bool>(), "", help);
  const std::string name = long_name(names);
  assigns_.push_back([this, name, &place] {
    if (given(name)) place = !place;
  });
}

void OptionSet::add(const std::string& names, const std::shared_ptr<cxxopts::Value>& type, const std::string& value,
                    const std::string& help) {
  options_.add_options(group_)(names, help, type, value);
}

std::string OptionSet::described() const {
  nlohmann::ordered_json j = {{"command", command_}, {"summary", summary_}, {"positional", positional_}};
  j["groups"] = nlohmann::ordered_json::array();
  for (const std::string& heading : options_.groups()) {
    nlohmann::ordered_json group = {{"heading", heading}, {"options", nlohmann::ordered_json::array()}};
    for (const cxxopts::HelpOptionDetails& o : options_.group_help(heading).options) {
      group["options"].push_back({{"short", o.s},
                                  {"long", o.l.front()},
                                  {"value", o.is_boolean ? "" : o.arg_help},
                                  {"default", o.has_default && !o.is_boolean ? o.default_value : ""},
                                  {"help", o.desc}});
    }
    j["groups"].push_back(std::move(group));
  }
  return j.dump(1) + "\n";
}

bool OptionSet::parse(const MpiSession& mpi, const Arguments& arguments) {
  std::vector<std::string> spelled{"jupiter"};
  for (const std::string& a : arguments) {
    const auto it = kLongNames.find(a);
    spelled.push_back(it == kLongNames.end() ? a : it->second);
  }
  std::vector<const char*> argv;
  for (const std::string& a : spelled) argv.push_back(a.c_str());
  options_.add_options()("h,help", "This text");
  if (arguments == Arguments{"--describe-options"}) {
    if (mpi.rank() == 0) std::cout << described() << std::flush;
    return false;
  }
  try {
    args_ = options_.parse(static_cast<int>(argv.size()), argv.data());
    if (given("help")) {
      if (mpi.rank() == 0) std::cout << options_.help() << std::flush;
      return false;
    }
    refuse(!args_.unmatched().empty(),
           args_.unmatched().empty() ? "" : "unexpected argument '" + args_.unmatched().front() + "' (see --help)");
    for (const auto& assign : assigns_) assign();
  } catch (const cxxopts::exceptions::exception& e) {
    throw CollectiveError(ExitCode::usage, std::string(e.what()) + " (see --help)");
  }
  return true;
}

}  // namespace jupiter

// What all subcommands share in reading their command lines.
#include "app/command.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <iostream>
#include <map>

#include "io/files.hpp"

namespace jupiter {

namespace {
// llama.cpp's options of several letters behind one dash, which cxxopts would read as bundles.
const std::map<std::string, std::string> kLongNames = {
    {"-ctk", "--cache-type-k"}, {"-ctv", "--cache-type-v"}, {"-sys", "--system-prompt"}};
}  // namespace

std::optional<cxxopts::ParseResult> parse(const MpiSession& mpi, cxxopts::Options& options,
                                          const Arguments& arguments) {
  std::vector<std::string> spelled{"jupiter"};
  for (const std::string& a : arguments) {
    const auto it = kLongNames.find(a);
    spelled.push_back(it == kLongNames.end() ? a : it->second);
  }
  std::vector<const char*> argv;
  for (const std::string& a : spelled) argv.push_back(a.c_str());
  options.add_options()("h,help", "This text");
  try {
    cxxopts::ParseResult result = options.parse(static_cast<int>(argv.size()), argv.data());
    if (result.count("help") > 0) {
      if (mpi.rank() == 0) std::cout << options.help() << std::flush;
      return std::nullopt;
    }
    if (!result.unmatched().empty()) {
      throw CollectiveError(ExitCode::usage, "unexpected argument '" + result.unmatched().front() + "' (see --help)");
    }
    return result;
  } catch (const cxxopts::exceptions::exception& e) {
    throw CollectiveError(ExitCode::usage, std::string(e.what()) + " (see --help)");
  }
}

void print(const std::string& text) {
  std::cout << text << std::flush;
  if (!std::cout) throw RunError("standard output: cannot be written");
}

void check_outputs(const std::vector<std::string>& outputs, const std::vector<std::string>& inputs) {
  for (auto out = outputs.begin(); out != outputs.end(); ++out) {
    if (out->empty()) continue;
    const auto clash = [&](const std::string& other) { return !other.empty() && same_file(*out, other); };
    const bool twice = std::any_of(out + 1, outputs.end(), clash);
    if (!twice && std::none_of(inputs.begin(), inputs.end(), clash)) continue;
    throw UsageError(fmt::format("{}: expected a file of its own to write, found one that is {} too", *out,
                                 twice ? "written to by another option" : "read"));
  }
  for (const std::string& out : outputs) {
    if (!out.empty()) check_writable(out);
  }
}

std::int64_t whole_option(const cxxopts::ParseResult& args, const char* option, std::int64_t low, std::int64_t high) {
  const auto value = args[option].as<std::int64_t>();
  if (value >= low && value <= high) return value;
  throw CollectiveError(ExitCode::usage, fmt::format("--{}: expected {} to {}, found {}", option, low, high, value));
}

void expect_one_rank(const MpiSession& mpi, const char* command) {
  if (mpi.size() == 1) return;
  throw CollectiveError(ExitCode::usage,
                        std::string(command) + " works on files of one machine: start it without mpirun");
}

}  // namespace jupiter

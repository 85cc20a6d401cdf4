// What all subcommands share in reading their command lines.
#include "app/command.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <iostream>
#include <map>

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

void check_writable(const std::string& path) {
  const std::string temporary = path + ".tmp";
  const int fd = ::open(temporary.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
  if (fd < 0) throw RunError(path + ": cannot be written: " + std::strerror(errno));
  ::close(fd);
  ::unlink(temporary.c_str());
}

void expect_one_rank(const MpiSession& mpi, const char* command) {
  if (mpi.size() == 1) return;
  throw CollectiveError(ExitCode::usage,
                        std::string(command) + " works on files of one machine: start it without mpirun");
}

}  // namespace jupiter

// What all subcommands share in reading their command lines.
#include "app/command.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <iostream>

#include "io/files.hpp"

namespace jupiter {

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

void expect_one_rank(const MpiSession& mpi, const char* command) {
  if (mpi.size() == 1) return;
  throw CollectiveError(ExitCode::usage,
                        std::string(command) + " works on files of one machine: start it without mpirun");
}

}  // namespace jupiter

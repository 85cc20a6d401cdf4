// Subcommands: one file each, listed in main.cpp.
#pragma once

#include <cxxopts.hpp>
#include <string>
#include <vector>

#include "parallel/mpi.hpp"
#include "parallel/startup.hpp"

namespace jupiter {

using Arguments = std::vector<std::string>;  // after the subcommand

ExitCode batch_command(MpiSession& mpi, const Arguments& arguments);
ExitCode bench_command(MpiSession& mpi, const Arguments& arguments);
ExitCode convert_command(MpiSession& mpi, const Arguments& arguments);
ExitCode eval_command(MpiSession& mpi, const Arguments& arguments);
ExitCode inspect_command(MpiSession& mpi, const Arguments& arguments);
ExitCode plan_command(MpiSession& mpi, const Arguments& arguments);
ExitCode profile_command(MpiSession& mpi, const Arguments& arguments);
ExitCode run_command(MpiSession& mpi, const Arguments& arguments);
ExitCode synth_command(MpiSession& mpi, const Arguments& arguments);
ExitCode train_draft_command(MpiSession& mpi, const Arguments& arguments);

// Parses; UsageError (collective: all ranks have the same arguments) with a hint at --help. --help prints on rank 0
// and leaves nothing.
std::optional<cxxopts::ParseResult> parse(const MpiSession& mpi, cxxopts::Options& options, const Arguments& arguments);

// To standard output; RunError where that cannot be written.
void print(const std::string& text);

// A file that will be written at the end: fails now if it cannot be (RunError).
void check_writable(const std::string& path);

// Commands that work on files only: an error to start them on several ranks.
void expect_one_rank(const MpiSession& mpi, const char* command);

}  // namespace jupiter

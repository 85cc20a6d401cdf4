// Subcommands: one file each, listed in main.cpp.
#pragma once

#include <cxxopts.hpp>
#include <string>
#include <vector>

#include "parallel/comm/mpi.hpp"
#include "parallel/comm/startup.hpp"

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

// Files that will be written at the end (empty names: none): fails now if one of them cannot be (RunError), or is one
// of the others or of the files that are read (UsageError).
void check_outputs(const std::vector<std::string>& outputs, const std::vector<std::string>& inputs);

constexpr std::int64_t kMostTokens = INT32_MAX;  // of any length: positions have 32 bits
constexpr std::int64_t kMostThreads = 1024;
constexpr std::int64_t kMostMib = 1 << 30;  // of a board's memory

// A whole number within [low, high]; CollectiveError (usage) that names the option where it is not.
std::int64_t whole_option(const cxxopts::ParseResult& args, const char* option, std::int64_t low, std::int64_t high);

// Commands that work on files only: an error to start them on several ranks.
void expect_one_rank(const MpiSession& mpi, const char* command);

}  // namespace jupiter

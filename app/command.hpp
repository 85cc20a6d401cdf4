// Subcommands: one file each, listed in commands.cpp.
#pragma once

#include <string>
#include <vector>

#include "app/options.hpp"

namespace jupiter {

ExitCode batch_command(const MpiSession& mpi, const Arguments& arguments);
ExitCode bench_command(const MpiSession& mpi, const Arguments& arguments);
ExitCode convert_command(const MpiSession& mpi, const Arguments& arguments);
ExitCode eval_command(const MpiSession& mpi, const Arguments& arguments);
ExitCode gateway_command(const MpiSession& mpi, const Arguments& arguments);
ExitCode inspect_command(const MpiSession& mpi, const Arguments& arguments);
ExitCode plan_command(const MpiSession& mpi, const Arguments& arguments);
ExitCode profile_command(const MpiSession& mpi, const Arguments& arguments);
ExitCode run_command(const MpiSession& mpi, const Arguments& arguments);
ExitCode serve_command(const MpiSession& mpi, const Arguments& arguments);
ExitCode synth_command(const MpiSession& mpi, const Arguments& arguments);
ExitCode train_draft_command(const MpiSession& mpi, const Arguments& arguments);

// To standard output; RunError where that cannot be written.
void print(const std::string& text);

// Files that will be written at the end (empty names: none): fails now if one of them cannot be (RunError), or is one
// of the others or of the files that are read (UsageError).
void check_outputs(const std::vector<std::string>& outputs, const std::vector<std::string>& inputs);

// Commands that work on files only: an error to start them on several ranks.
void expect_one_rank(const MpiSession& mpi, const char* command);

}  // namespace jupiter

// The subcommands, and which one a command line names.
#pragma once

#include <span>

#include "app/command.hpp"

namespace jupiter {

struct Command {
  const char* name;
  const char* summary;
  ExitCode (*function)(const MpiSession&, const Arguments&);
};
std::span<const Command> commands();

// Runs the subcommand that the arguments begin with, or prints what there is. CollectiveError (usage) where it is none.
ExitCode dispatch(const MpiSession& mpi, const Arguments& arguments);

}  // namespace jupiter

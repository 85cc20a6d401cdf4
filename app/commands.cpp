// One line a subcommand.
#include "app/commands.hpp"

#include <array>
#include <iostream>

#include "kernels/kernel_table.hpp"

namespace jupiter {

namespace {

constexpr std::array kCommands = {
    Command{"batch", "many requests at once from a JSONL file, answers to another (mpirun)", batch_command},
    Command{"bench", "speed of prompts and generation, beside the machine's peaks (mpirun)", bench_command},
    Command{"convert", "GGUF file or Hugging Face folder to a folder of shards", convert_command},
    Command{"gateway", "the HTTP side of a server; jobs/jupiter-serve starts it and the ranks", gateway_command},
    Command{"inspect", "what a model folder holds; --verify checks every checksum", inspect_command},
    Command{"profile", "measures boards and links (mpirun); --check looks for what is wrong", profile_command},
    Command{"plan", "layers to boards and chunks from a profile, with predicted times", plan_command},
    Command{"run", "answers a prompt or keeps a conversation (mpirun)", run_command},
    Command{"eval", "perplexity of a text, KL divergence from saved distributions (mpirun)", eval_command},
    Command{"serve", "the ranks of a server, which compute for a gateway (mpirun)", serve_command},
    Command{"synth", "random weights in a known shape, for speed tests", synth_command},
    Command{"train-draft", "draft table of a model, from its own answers or a text (mpirun)", train_draft_command},
};

void print_help(std::ostream& out) {
  out << "Runs a large language model over a pipeline of boards.\n\n"
         "  jupiter SUBCOMMAND [options]\n  mpirun -n P jupiter SUBCOMMAND [options]\n\n";
  for (const Command& c : kCommands) {
    out << "  " << c.name << std::string(13 - std::string(c.name).size(), ' ') << c.summary << "\n";
  }
  out << "\njupiter SUBCOMMAND --help lists the options.\n";
}

}  // namespace

std::span<const Command> commands() {
  return kCommands;
}

ExitCode dispatch(const MpiSession& mpi, const Arguments& arguments) {
  if (arguments.empty() || arguments[0] == "--help" || arguments[0] == "-h") {
    if (mpi.rank() == 0) print_help(arguments.empty() ? std::cerr : std::cout);
    return arguments.empty() ? ExitCode::usage : ExitCode::ok;
  }
  if (arguments[0] == "--version") {
    if (mpi.rank() == 0) std::cout << "jupiter " << JUPITER_VERSION << " (kernels: " << kernels().name << ")\n";
    return ExitCode::ok;
  }
  if (arguments[0] == "--describe-options") {  // of all, a JSON text each
    for (const Command& c : kCommands) c.function(mpi, arguments);
    return ExitCode::ok;
  }
  for (const Command& c : kCommands) {
    if (arguments[0] == c.name) return c.function(mpi, {arguments.begin() + 1, arguments.end()});
  }
  throw CollectiveError(ExitCode::usage, "unknown subcommand '" + arguments[0] + "' (see jupiter --help)");
}

}  // namespace jupiter

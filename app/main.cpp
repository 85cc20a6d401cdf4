// jupiter SUBCOMMAND [options]: dispatch, and what becomes of an error.
#include <array>
#include <cstdlib>
#include <iostream>
#include <new>

#include "app/command.hpp"
#include "kernels/kernel_table.hpp"

namespace jupiter {
namespace {

struct Command {
  const char* name;
  const char* summary;
  ExitCode (*function)(MpiSession&, const Arguments&);
};

constexpr std::array kCommands = {
    Command{"batch", "many requests at once from a JSONL file, answers to another (mpirun)", batch_command},
    Command{"bench", "speed of prompts and generation, beside the machine's peaks (mpirun)", bench_command},
    Command{"convert", "GGUF file or Hugging Face folder to a folder of shards", convert_command},
    Command{"inspect", "what a model folder holds; --verify checks every checksum", inspect_command},
    Command{"profile", "measures boards and links (mpirun); --check looks for what is wrong", profile_command},
    Command{"plan", "layers to boards and chunks from a profile, with predicted times", plan_command},
    Command{"run", "answers a prompt or keeps a conversation (mpirun)", run_command},
    Command{"eval", "perplexity of a text, KL divergence from saved distributions (mpirun)", eval_command},
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

ExitCode dispatch(MpiSession& mpi, const Arguments& arguments) {
  if (arguments.empty() || arguments[0] == "--help" || arguments[0] == "-h") {
    if (mpi.rank() == 0) print_help(arguments.empty() ? std::cerr : std::cout);
    return arguments.empty() ? ExitCode::usage : ExitCode::ok;
  }
  if (arguments[0] == "--version") {
    if (mpi.rank() == 0) std::cout << "jupiter " << JUPITER_VERSION << " (kernels: " << kernels().name << ")\n";
    return ExitCode::ok;
  }
  for (const Command& c : kCommands) {
    if (arguments[0] == c.name) return c.function(mpi, {arguments.begin() + 1, arguments.end()});
  }
  throw CollectiveError(ExitCode::usage, "unknown subcommand '" + arguments[0] + "' (see jupiter --help)");
}

void report(const MpiSession* mpi, const char* message) {
  if (message[0] == '\0') return;
  std::cout.flush();
  std::string line = "jupiter: ";
  if (mpi != nullptr && mpi->size() > 1 && mpi->rank() > 0) {
    line += "rank " + std::to_string(mpi->rank()) + " (" + mpi->host() + "): ";
  }
  std::cerr << line << message << std::endl;
}

// After an exit code other than 0 mpirun waits for its kill timeout; told to ignore such codes, it ignores killed ranks
// too. So under jobs/jupiter-run ranks that end in good order exit with 0, and rank 0 tells the code on stderr, where
// the launcher takes it out. A rank alone leaves the note too: where there is none, rank 0 did not come to its end.
// Returns what to exit with.
int exit_status(const MpiSession& mpi, ExitCode code) {
  if (std::getenv("JUPITER_EXIT_NOTE") == nullptr) return static_cast<int>(code);
  if (mpi.rank() == 0) std::cerr << "\x1e" << static_cast<int>(code) << "\x1e" << std::endl;
  return mpi.size() == 1 ? static_cast<int>(code) : 0;
}

// An error of one rank ends all of them; one that all know of ends each in good order.
ExitCode run_all(MpiSession& mpi, const Arguments& arguments) {
  try {
    return dispatch(mpi, arguments);
  } catch (const CollectiveError& e) {
    if (mpi.rank() == 0) report(&mpi, e.what());
    return e.code();
  } catch (const Error& e) {
    report(&mpi, e.what());
    mpi.abort(e.code());
  } catch (const std::bad_alloc&) {
    report(&mpi, "out of memory");
    mpi.abort(ExitCode::memory);
  } catch (const std::exception& e) {
    report(&mpi, e.what());
    mpi.abort(ExitCode::failed);
  }
}

}  // namespace
}  // namespace jupiter

int main(int argc, char** argv) {
  using namespace jupiter;
  install_signal_handlers();
  try {
    MpiSession mpi;
    const ExitCode code = run_all(mpi, {argv + 1, argv + argc});
    return exit_status(mpi, code);
  } catch (const Error& e) {
    report(nullptr, e.what());
    return static_cast<int>(e.code());
  }
}

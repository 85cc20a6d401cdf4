// jupiter SUBCOMMAND [options]: what becomes of an error, and the exit code.
#include <cstdlib>
#include <iostream>
#include <new>

#include "app/commands.hpp"

namespace jupiter {
namespace {

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

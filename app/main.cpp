// jupiter SUBCOMMAND [options]: what becomes of an error, and the exit code.
#include <fcntl.h>
#include <unistd.h>

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

bool write_to_pipe(const char* path, const std::string& text) {
  const int fd = ::open(path, O_WRONLY | O_NONBLOCK | O_CLOEXEC);  // fails where nobody reads
  if (fd < 0) return false;
  const bool written = ::write(fd, text.data(), text.size()) == static_cast<ssize_t>(text.size());
  ::close(fd);
  return written;
}

// After an exit code other than 0 mpirun waits for its kill timeout; told to ignore such codes, it ignores killed ranks
// too. So under jobs/jupiter-run ranks that end in good order exit with 0, and mpirun's first rank tells the code
// through the launcher's named pipe. (Open MPI closes every other descriptor that a rank would inherit.) Where that
// rank is on another machine than the launcher there is no pipe: it exits with the code, which mpirun passes on, later.
// A rank alone uses the pipe too: where nothing came through it, the rank did not come to its end. Returns what to exit
// with.
int exit_status(const MpiSession& mpi, ExitCode code) {
  const char* pipe = std::getenv("JUPITER_EXIT_PIPE");
  if (pipe == nullptr) return static_cast<int>(code);
  const bool told = mpi.rank() != 0 || write_to_pipe(pipe, std::to_string(static_cast<int>(code)) + "\n");
  return mpi.size() == 1 || !told ? static_cast<int>(code) : 0;
}

// An error of one rank ends all of them; one that all know of ends each in good order.
ExitCode run_all(const MpiSession& mpi, const Arguments& arguments) {
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
    const MpiSession mpi;
    const ExitCode code = run_all(mpi, {argv + 1, argv + argc});
    return exit_status(mpi, code);
  } catch (const Error& e) {
    report(nullptr, e.what());
    return static_cast<int>(e.code());
  }
}

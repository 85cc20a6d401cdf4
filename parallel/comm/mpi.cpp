// Session, signals, polite waiting.
#include "parallel/comm/mpi.hpp"

#include <mpi.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <ctime>
#include <exception>
#include <filesystem>
#include <optional>
#include <utility>

#include "io/timer.hpp"
#include "parallel/comm/collectives.hpp"

namespace jupiter {

namespace {

bool has_environment(std::initializer_list<const char*> names) {
  return std::any_of(names.begin(), names.end(), [](const char* n) { return std::getenv(n) != nullptr; });
}

bool launched_by_mpi() {
  return has_environment({"OMPI_COMM_WORLD_SIZE", "PMIX_RANK", "PMI_RANK", "PMI_SIZE", "MPI_LOCALNRANKS"});
}

long slurm_tasks() {
  const char* text = std::getenv("SLURM_NTASKS");
  return text == nullptr || std::getenv("SLURM_PROCID") == nullptr ? 1 : std::strtol(text, nullptr, 10);
}

std::string host_name() {
  char name[256] = {};
  return ::gethostname(name, sizeof name - 1) == 0 ? name : "unknown";
}

std::chrono::seconds grace_after_signal{5};

std::uint64_t activity = 0;  // arrivals so far; the main thread's alone

volatile std::sig_atomic_t pending_signal = 0;
extern "C" void note_signal(int signal) {
  pending_signal = signal;
}

void sleep_us(long us) {
  const timespec t{0, us * 1000};
  ::nanosleep(&t, nullptr);
}

// Open MPI loads and tries the libraries of every fast fabric when it starts: 0.2 s, and memory of every rank. Where
// the kernel knows none, it ends at its own transport over TCP and shared memory anyway. Settings of the user's go
// first.
void skip_fabrics_that_are_not_there() {
  for (const char* devices : {"/sys/class/infiniband", "/sys/class/cxi"}) {
    std::error_code none;
    if (std::filesystem::directory_iterator(devices, none) != std::filesystem::directory_iterator()) return;
  }
  ::setenv("OMPI_MCA_pml", "ob1", 0);
}

// Where ranks outnumber cores, Open MPI gives the processor away in every call that finds nothing, to whoever computes,
// for several ms at a time: three ranks on two cores then took six times as long. wait_politely() sleeps instead.
void keep_the_processor() {
  ::setenv("OMPI_MCA_mpi_yield_when_idle", "0", 0);
}

// Sends errors back to the caller: by default MPI ends the job before anybody can say what went wrong.
void initialise(int& provided) {
  skip_fabrics_that_are_not_there();
  keep_the_processor();
  check_mpi(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &provided), "MPI_Init_thread");
  check_mpi(MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
}

struct Finalizer {
  int exceptions_at_start = std::uncaught_exceptions();
  void operator()(const void*) const {
    if (std::uncaught_exceptions() == exceptions_at_start) MPI_Finalize();
  }
};

}  // namespace

void check_mpi(int code, const char* call) {
  if (code == MPI_SUCCESS) return;
  char text[MPI_MAX_ERROR_STRING] = {};
  int length = 0;
  MPI_Error_string(code, text, &length);
  throw PeerError(std::string(call) + ": " + text);
}

MpiSession::MpiSession() : host_(host_name()) {
  ::prctl(PR_SET_TIMERSLACK, 1000UL);  // ns: the default 50 us would lengthen every short sleep
  if (launched_by_mpi()) {
    int provided = 0;
    initialise(provided);
    static char initialised;
    library_ = std::shared_ptr<void>(&initialised, Finalizer{});
    check_mpi(MPI_Comm_rank(MPI_COMM_WORLD, &rank_), "MPI_Comm_rank");
    check_mpi(MPI_Comm_size(MPI_COMM_WORLD, &size_), "MPI_Comm_size");
    if (provided < MPI_THREAD_FUNNELED) {
      throw RunError("MPI: expected thread level " + std::to_string(MPI_THREAD_FUNNELED) +
                     " (MPI_THREAD_FUNNELED: threads beside the one that calls MPI), found " +
                     std::to_string(provided));
    }
  }
  if (size_ == 1 && slurm_tasks() > 1) {
    library_.reset();
    throw UsageError("srun started " + std::to_string(slurm_tasks()) +
                     " tasks, but MPI sees only this one: use srun --mpi=pmix (or pmi2), or mpirun");
  }
  boards_.assign(static_cast<std::size_t>(size_), 1);
  if (size_ > 1) find_neighbours();
}

MpiSession MpiSession::alone() const {
  MpiSession one = *this;
  one.library_.reset();
  one.world_.clear();
  one.rank_ = one.rank_on_host_ = 0;
  one.size_ = one.ranks_on_host_ = 1;
  one.boards_ = {1};
  return one;
}

MpiSession MpiSession::arranged(std::vector<int> world_of_rank, std::vector<int> boards) const {
  MpiSession other = *this;
  const auto me = std::find(world_of_rank.begin(), world_of_rank.end(), world(rank_));
  other.rank_ = static_cast<int>(me - world_of_rank.begin());
  other.world_ = std::move(world_of_rank);
  other.boards_ = std::move(boards);
  return other;
}

int MpiSession::stage_of(int rank) const {
  if (rank < stages()) return rank;
  int first = stages(), stage = 0;  // the first rank of this stage's other boards
  while (stage < stages() && rank >= first + boards_[static_cast<std::size_t>(stage)] - 1) {
    first += boards_[static_cast<std::size_t>(stage++)] - 1;
  }
  return stage;
}

std::vector<int> MpiSession::group(int stage) const {
  std::vector<int> ranks;
  for (int r = 0; r < size_; ++r) {
    if (stage_of(r) == stage) ranks.push_back(r);
  }
  return ranks;
}

int MpiSession::board() const {
  const std::vector<int> ranks = group(stage());
  return static_cast<int>(std::find(ranks.begin(), ranks.end(), rank_) - ranks.begin());
}

void MpiSession::find_neighbours() {
  const std::vector<std::string> hosts = all_gather(*this, host_);
  const auto before = hosts.begin() + rank_;
  ranks_on_host_ = static_cast<int>(std::count(hosts.begin(), hosts.end(), host_));
  rank_on_host_ = static_cast<int>(std::count(hosts.begin(), before, host_));
}

void MpiSession::abort(ExitCode code) const {
  if (library_ && size_ > 1) MPI_Abort(MPI_COMM_WORLD, static_cast<int>(code));
  std::_Exit(static_cast<int>(code));
}

void note_activity() {
  ++activity;
}

ExitCode interrupted_by() {
  switch (pending_signal) {
    case 0:
      return ExitCode::ok;
    case SIGINT:
    case SIGUSR1:
      return ExitCode::interrupted;
    default:
      return ExitCode::terminated;
  }
}

void install_signal_handlers() {
  struct sigaction action {};
  action.sa_handler = note_signal;
  action.sa_flags = static_cast<int>(SA_RESETHAND);  // a second Ctrl-C ends the process at once
  for (const int s : {SIGINT, SIGTERM, SIGUSR1, SIGUSR2}) ::sigaction(s, &action, nullptr);
  std::signal(SIGPIPE, SIG_IGN);  // a closed output is an error of the write, with a message
}

void set_grace_after_signal(std::chrono::seconds grace) {
  grace_after_signal = grace;
}

void wait_politely(const std::function<bool()>& ready, const std::string& waiting_for, std::chrono::seconds deadline) {
  using std::chrono::microseconds;
  auto start = Clock::now();
  std::optional<Clock::time_point> signalled;
  for (std::uint64_t seen = activity;;) {
    if (ready()) return;
    if (std::exchange(seen, activity) != activity) start = Clock::now();
    if (interrupted_by() != ExitCode::ok) {
      if (!signalled) signalled = Clock::now();
      if (Clock::now() - *signalled > grace_after_signal) {
        throw Error(interrupted_by(), "stopped while waiting for " + waiting_for);
      }
    }
    const auto waited = std::chrono::duration_cast<microseconds>(Clock::now() - start);
    if (waited < microseconds(30)) continue;
    if (deadline.count() > 0 && waited > deadline) {
      throw PeerError("no answer from " + waiting_for + " for " + std::to_string(deadline.count()) + " s");
    }
    // Sleep about a fiftieth of what was waited already: cheap when idle, prompt when busy.
    sleep_us(std::clamp<long>(waited.count() / 50, 20, 1000));
  }
}

}  // namespace jupiter

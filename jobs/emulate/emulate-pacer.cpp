// Slows emulated boards: a board's control group runs for its share of every period and is frozen for the rest, so that
// a short burst of work is slowed like a long one.
//   emulate-pacer PERIOD_US (CORE SHARE FREEZE_FILE)...     until SIGTERM; then every board runs freely
// One thread per core, pinned to it like the boards of that core: it can only run when it has taken the core from the
// board, so a board's turn ends at that moment and the next board's turn starts when the thread goes to sleep. Periods
// differ a little between cores: in step, two boards would always, or never, find each other awake when a message
// comes.
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <map>
#include <string>
#include <thread>
#include <vector>

namespace {

constexpr std::int64_t kResume_ns = 10'000;  // from the thread's sleep to the board's first instruction, measured

std::atomic<bool> stopping{false};

struct Board {
  int file = -1;
  bool version_1 = false;  // of control groups: freezer.state, else cgroup.freeze
  double share = 0;
  std::int64_t owed_ns = 0;  // what turns that ended early or late left over

  void freeze() const { put(version_1 ? "FROZEN" : "1"); }
  void thaw() const { put(version_1 ? "THAWED" : "0"); }

 private:
  // A control group that is gone ends the pacer: nobody is left to slow.
  void put(const char* word) const {
    if (pwrite(file, word, std::strlen(word), 0) < 0) stopping = true;
  }
};

std::int64_t now_ns() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1'000'000'000 + t.tv_nsec;
}

void sleep_until(std::int64_t at_ns) {
  const timespec t{at_ns / 1'000'000'000, at_ns % 1'000'000'000};
  clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, nullptr);
}

// The boards of one core take turns, in every period once.
void pace_core(int core, std::vector<Board> boards, std::int64_t period_ns) {
  cpu_set_t only;
  CPU_ZERO(&only);
  CPU_SET(core, &only);
  pthread_setaffinity_np(pthread_self(), sizeof only, &only);
  const sched_param priority{50};
  if (pthread_setschedparam(pthread_self(), SCHED_FIFO, &priority) != 0)
    std::fprintf(stderr, "pacer: no real-time priority, shares will be rough\n");
  for (std::int64_t period = now_ns(); !stopping;) {
    for (Board& b : boards) {
      b.owed_ns += static_cast<std::int64_t>(b.share * static_cast<double>(period_ns));
      b.thaw();
      const std::int64_t start = now_ns();
      sleep_until(start + b.owed_ns + kResume_ns);
      b.owed_ns -= now_ns() - start - kResume_ns;  // the timer is late by some microseconds
      b.freeze();
      if (stopping) break;
    }
    period += period_ns;
    if (now_ns() > period + 10 * period_ns) period = now_ns();  // the whole machine stood still: do not catch up
    sleep_until(period);
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 5 || (argc - 2) % 3 != 0) {
    std::fprintf(stderr, "usage: emulate-pacer PERIOD_US (CORE SHARE FREEZE_FILE)...\n");
    return 2;
  }
  const std::int64_t period_ns = std::atoll(argv[1]) * 1000;
  std::map<int, std::vector<Board>> cores;
  for (int i = 2; i < argc; i += 3) {
    Board b;
    const std::string file = argv[i + 2];
    b.version_1 = file.ends_with("freezer.state");
    b.share = std::atof(argv[i + 1]);
    b.file = open(file.c_str(), O_WRONLY | O_CLOEXEC);
    if (b.file < 0) {
      std::perror(file.c_str());
      return 1;
    }
    cores[std::atoi(argv[i])].push_back(b);
  }
  for (const int s : {SIGTERM, SIGINT, SIGHUP}) std::signal(s, [](int) { stopping = true; });
  std::vector<std::thread> threads;
  for (const auto& [core, boards] : cores) {
    for (const Board& b : boards) b.freeze();
    threads.emplace_back(pace_core, core, boards, period_ns + period_ns / 27 * std::ssize(threads));
  }
  for (std::thread& t : threads) t.join();
  for (const auto& [core, boards] : cores)
    for (const Board& b : boards) b.thaw();
}

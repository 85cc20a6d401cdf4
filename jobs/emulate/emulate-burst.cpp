// The speed of bursts of work of several lengths, for the self-test of emulated boards.
//   emulate-burst 0       work units per ms, best of several tries
//   emulate-burst UNITS   that many units take 1 ms at full speed: prints speeds of bursts of 1.3, 5, 12 and 100 ms
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <random>

namespace {

double now_ms() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return static_cast<double>(t.tv_sec) * 1e3 + static_cast<double>(t.tv_nsec) * 1e-6;
}

void sleep_until(double at_ms) {
  const auto seconds = static_cast<time_t>(at_ms / 1e3);
  const timespec t{seconds, static_cast<long>((at_ms - static_cast<double>(seconds) * 1e3) * 1e6)};
  clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, nullptr);
}

volatile double value = 1;
void work(double units) {
  for (double i = 0; i < units; ++i) value = value * 1.0000001 + 1e-9;
}

double units_per_ms() {
  double best = 0;
  for (int i = 0; i < 20; ++i) {
    const double start = now_ms();
    work(1e6);
    best = std::max(best, 1e6 / (now_ms() - start));
  }
  return best;
}

}  // namespace

int main(int argc, char** argv) {
  const double units = argc > 1 ? std::atof(argv[1]) : 0;
  if (units <= 0) {
    std::printf("%.0f\n", units_per_ms());
    return 0;
  }
  std::mt19937 random(1);
  for (const double burst_ms : {1.3, 5.0, 12.0, 100.0}) {
    const int count = burst_ms > 50 ? 6 : 60;
    double total_ms = 0;
    for (int i = 0; i < count; ++i) {
      // From the moment when work was due, not from when the board ran again: work comes at any time of a period.
      const double due = now_ms() + burst_ms + 3 * std::generate_canonical<double, 32>(random);
      sleep_until(due);
      work(units * burst_ms);
      total_ms += now_ms() - due;
    }
    std::printf("%.3f ", count * burst_ms / total_ms);
  }
  std::printf("\n");
}

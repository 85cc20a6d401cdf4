// Progress on stderr, only where a person watches.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

#include "io/timer.hpp"

namespace jupiter {

enum class Stream : int { in = 0, out = 1, err = 2 };
// Whether a terminal is behind it. Under mpirun a rank cannot see that; the launcher says it in JUPITER_TERMINALS, a
// string of the letters i, o and e.
bool is_terminal(Stream stream);

// A bar with percentage, rate and time left, redrawn at most ten times a second and wiped at the end.
class ProgressBar {
 public:
  ProgressBar(std::string label, std::string unit, double unit_size = 1);
  ~ProgressBar();
  void update(std::uint64_t done, std::uint64_t total);

 private:
  std::string label_, unit_;
  double unit_size_;
  bool visible_;
  Clock::time_point start_ = Clock::now(), drawn_{};
};

}  // namespace jupiter

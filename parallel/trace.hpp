// A timeline of every rank, written as a Chrome trace (chrome://tracing, Perfetto; jobs/draw-trace makes a picture).
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

#include "parallel/mpi.hpp"

namespace jupiter {

class Trace {
 public:
  using Clock = std::chrono::steady_clock;
  enum class Kind : std::uint8_t { compute = 0, send = 1, wait = 2 };
  struct Event {
    Kind kind;
    std::uint32_t request = 0;  // sequence
    std::int32_t position = 0;  // of the frame's first row
    std::int32_t rows = 0;
    double start_us = 0;  // of this rank's clock
    double length_us = 0;
  };

  explicit Trace(bool on) : on_(on) {}
  void add(Kind kind, Clock::time_point start, Clock::time_point end, std::uint32_t request, std::int32_t position,
           std::int32_t rows) {
    if (on_) events_.push_back({kind, request, position, rows, us(start), us(end) - us(start)});
  }

  // All ranks' events as JSON on rank 0 (elsewhere empty), their clocks set to rank 0's by the quickest of several
  // exchanges with each; collective, `on` or not must be the same everywhere.
  std::string gather(const MpiSession& mpi) const;

 private:
  static double us(Clock::time_point t) {
    return std::chrono::duration<double, std::micro>(t.time_since_epoch()).count();
  }
  bool on_;
  std::vector<Event> events_;
};

}  // namespace jupiter

// A timeline of every rank, written as a Chrome trace (chrome://tracing, Perfetto; jobs/bench/draw-trace draws it).
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "parallel/comm/mpi.hpp"

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
  static constexpr std::size_t kPieceEvents = (1 << 20) / sizeof(Event);

  // piece_events: kept in memory at a time. What is more waits in a file without a name in the system's temporary
  // folder (TMPDIR), and pieces of this size travel between ranks.
  explicit Trace(bool on, std::size_t piece_events = kPieceEvents) : on_(on), piece_events_(piece_events) {}
  void add(Kind kind, Clock::time_point start, Clock::time_point end, std::uint32_t request, std::int32_t position,
           std::int32_t rows) {
    if (!on_) return;
    if (!started_) first_us_ = us(start);
    started_ = true;
    events_.push_back({kind, request, position, rows, us(start), us(end) - us(start)});
    if (events_.size() == piece_events_) spill();
  }

  // All ranks' events into one file of the launching rank, their clocks set to rank 0's by the quickest of several
  // exchanges with each. Collective; `on` or not must be the same everywhere. CollectiveError on all ranks where the
  // file cannot be written or a rank could not keep its events.
  void write(const MpiSession& mpi, const std::string& file, std::chrono::seconds deadline);

 private:
  struct Spilled;
  struct CloseSpilled {
    void operator()(Spilled* spilled) const;
  };
  static double us(Clock::time_point t) {
    return std::chrono::duration<double, std::micro>(t.time_since_epoch()).count();
  }
  void spill();
  // The next events of this rank, in order; none: those were all.
  std::vector<Event> next_piece();
  bool on_;
  bool started_ = false;
  double first_us_ = 0;  // start of the first event
  std::size_t piece_events_;
  std::vector<Event> events_;  // after those that are spilled
  std::unique_ptr<Spilled, CloseSpilled> spilled_;
  std::optional<Error> problem_;  // why events are lost
};

}  // namespace jupiter

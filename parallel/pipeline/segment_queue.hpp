// The segments of one sequence that rank 0 has yet to send.
#pragma once

#include <algorithm>
#include <deque>

#include "parallel/pipeline/invariants.hpp"

namespace jupiter {

class SegmentQueue {
 public:
  // Takes verdict and segments of a result. A newer epoch makes the segments of older ones void: they are dropped.
  void take(SequenceResult&& result) {
    if (result.verdict.node != 0) verdict_ = result.verdict;
    if (result.epoch > epoch_) segments_.clear();
    epoch_ = std::max(epoch_, result.epoch);
    for (Segment& s : result.segments) segments_.push_back(std::move(s));
  }
  bool empty() const { return segments_.empty(); }
  const Segment& front() const { return segments_.front(); }
  // The next segment to send; there must be one.
  Segment pop(RingInvariants& invariants) {
    Segment s = std::move(segments_.front());
    segments_.pop_front();
    invariants.segment_submitted(s, epoch_);
    return s;
  }
  const Verdict& verdict() const { return verdict_; }  // the newest

 private:
  std::deque<Segment> segments_;
  Verdict verdict_;
  std::uint32_t epoch_ = 0;
};

}  // namespace jupiter

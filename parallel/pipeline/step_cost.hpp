// What a pass through the pipeline costs by the number of its rows, learned while the pipeline runs.
#pragma once

#include <array>
#include <cstdint>
#include <span>

#include "parallel/pipeline/frame.hpp"

namespace jupiter {

class StepCost {
 public:
  explicit StepCost(int stages) : stages_(stages), sum_(stages), most_(1) {}

  // Numbers of rows whose cost relative to each other may be known beforehand.
  static constexpr std::array<std::int64_t, 8> kShape = {1, 2, 3, 4, 6, 8, 12, 16};
  // seconds: times of frames of kShape rows on any stage. Without them a typical shape is assumed.
  void set_shape(std::span<const double> seconds) {
    sum_.set_shape(seconds);
    most_.set_shape(seconds);
  }

  // Takes what a frame of so many rows cost the stages.
  void observe(std::int64_t rows, const FrameCost& cost);
  // Takes that a lap lasted overhead_s longer than its computing.
  void observe_overhead(double overhead_s);

  int stages() const { return stages_; }
  // A slot: the time that the slowest stage takes for a frame of so many rows.
  double slot_s(std::int64_t rows) const { return most_.seconds(rows); }
  // A lap: the time of such a frame once round the ring, all stages and the hops between them.
  double lap_s(std::int64_t rows) const { return sum_.seconds(rows) + overhead_s_; }

 private:
  // Times by number of rows: a shape, which is relative to one row, and its scale.
  class Curve {
   public:
    // one: a row's time until something is measured, in any unit, because only ratios matter until then.
    explicit Curve(double one);
    void set_shape(std::span<const double> seconds);
    void observe(std::int64_t rows, double seconds);
    double seconds(std::int64_t rows) const;

   private:
    static constexpr std::array<std::int64_t, 11> kWidths = {1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64};
    static std::size_t index_of(std::int64_t rows);  // of the last of kWidths that is at most `rows`
    double cost(std::int64_t rows) const;            // in units of scale_
    std::array<double, kWidths.size()> shape_;       // by width
    double scale_;                                   // seconds of one row, or nearly
    int observed_ = 0;
  };
  int stages_;
  Curve sum_, most_;
  double overhead_s_ = 0;
  bool overhead_known_ = false;
};

// What a pass through the output head costs, learned while passes happen: one row, which reads all of its weights, and
// what each further row adds.
class OutputHeadCost {
 public:
  void observe(std::int64_t rows, double seconds);
  // A row that will be needed with a higher probability than this is cheaper in the present pass than in one of its
  // own.
  double least_probability() const;

 private:
  double one_s_ = 0, further_s_ = 0;  // running means
  int ones_ = 0, furthers_ = 0;
};

}  // namespace jupiter

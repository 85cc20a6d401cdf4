// What a pass through the pipeline costs by the number of its rows, learned while it runs.
#pragma once

#include <array>
#include <cstdint>
#include <span>

#include "parallel/pipeline/frame.hpp"

namespace jupiter {

class StepCost {
 public:
  explicit StepCost(int stages) : stages_(stages), sum_(stages), most_(1) {}

  // Widths, rows, whose cost relative to each other may be known beforehand.
  static constexpr std::array<std::int64_t, 8> kShape = {1, 2, 3, 4, 6, 8, 12, 16};
  // seconds: of kShape, on any stage. Without it a typical shape serves.
  void set_shape(std::span<const double> seconds) {
    sum_.set_shape(seconds);
    most_.set_shape(seconds);
  }

  // A frame of so many rows went through all stages.
  void observe(std::int64_t rows, const FrameCost& cost);
  // The way round the ring took `overhead_s` besides computing.
  void observe_overhead(double overhead_s);

  int stages() const { return stages_; }
  double slot_s(std::int64_t rows) const { return most_.seconds(rows); }  // of the slowest stage
  double lap_s(std::int64_t rows) const { return sum_.seconds(rows) + overhead_s_; }

 private:
  // Times by width: a shape and its scale.
  class Curve {
   public:
    // `one`: a row's time in any unit until something is measured; only ratios matter then.
    explicit Curve(double one);
    void set_shape(std::span<const double> seconds);
    void observe(std::int64_t rows, double seconds);
    double seconds(std::int64_t rows) const;

   private:
    static constexpr std::array<std::int64_t, 11> kWidths = {1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64};
    static std::size_t index_of(std::int64_t rows);  // of the widest entry that is no wider
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

// What passes over the output head cost, learned while they happen: the reading of its weights, and what each further
// row adds.
class OutputHeadCost {
 public:
  void observe(std::int64_t rows, double seconds);
  // A row that is wanted later with a higher probability than this is cheaper in the present pass than in one of its
  // own.
  double least_probability() const;

 private:
  double one_s_ = 0, further_s_ = 0;  // running means
  int ones_ = 0, furthers_ = 0;
};

}  // namespace jupiter

// Running means by number of rows.
#include "parallel/pipeline/step_cost.hpp"

#include <algorithm>

namespace jupiter {

namespace {

// Cost of 1, 2, 3, ... rows (Curve::kWidths) over that of one: packed 4-bit weights, measured (kernels/README.md).
constexpr std::array<double, 11> kTypical = {1, 1.06, 1.13, 1.2, 1.38, 1.55, 2.2, 2.8, 4.1, 5.4, 10.6};
constexpr double kNewest = 0.15;   // weight of a new observation in a running mean
constexpr double kOfShape = 0.02;  // the same in the cost of its number of rows
constexpr int kSettled = 8;        // so many observations tell the speed only, before they tell about the shape

}  // namespace

StepCost::Curve::Curve(double one) : shape_(kTypical), scale_(one) {}

// The costs of wider frames than any of those grow as typical ones do.
void StepCost::Curve::set_shape(std::span<const double> seconds) {
  if (seconds.size() != kShape.size() || !(seconds[0] > 0)) return;
  for (std::size_t i = 1; i < shape_.size(); ++i) {
    const bool known = i < seconds.size();
    const double cost =
        known ? seconds[i] / seconds[0] : shape_[seconds.size() - 1] * kTypical[i] / kTypical[seconds.size() - 1];
    shape_[i] = std::max(shape_[i - 1], cost);
  }
}

std::size_t StepCost::Curve::index_of(std::int64_t rows) {
  std::size_t i = 0;
  while (i + 1 < kWidths.size() && kWidths[i + 1] <= rows) ++i;
  return i;
}

double StepCost::Curve::cost(std::int64_t rows) const {
  const std::size_t i = index_of(rows);
  if (i + 1 == kWidths.size()) return shape_[i] * static_cast<double>(rows) / static_cast<double>(kWidths[i]);
  const double low = shape_[i], high = std::max(low, shape_[i + 1]);
  return low + (high - low) * static_cast<double>(rows - kWidths[i]) / static_cast<double>(kWidths[i + 1] - kWidths[i]);
}

// The machine's speed changes sooner than what a width costs compared with other widths. So the scale moves fast, for
// all widths at once, and the shape slowly. A mean for each width would compare times of different minutes.
void StepCost::Curve::observe(std::int64_t rows, double seconds) {
  const double ratio = cost(rows);
  scale_ += (observed_ == 0 ? 1 : std::max(kNewest, 1.0 / (observed_ + 1))) * (seconds / ratio - scale_);
  ++observed_;
  if (observed_ < kSettled) return;
  shape_[index_of(rows)] *= 1 + kOfShape * (std::clamp(seconds / (scale_ * ratio), 0.5, 2.0) - 1);
}

double StepCost::Curve::seconds(std::int64_t rows) const {
  return scale_ * cost(rows);
}

void StepCost::observe(std::int64_t rows, const FrameCost& cost) {
  if (rows < 1 || rows > 2 * kMaxDraftNodes) return;
  sum_.observe(rows, cost.sum_s());
  most_.observe(rows, cost.most_s());
}

void StepCost::observe_overhead(double overhead_s) {
  overhead_s = std::max(overhead_s, 0.0);
  overhead_s_ += (overhead_known_ ? kNewest : 1) * (overhead_s - overhead_s_);
  overhead_known_ = true;
}

void OutputHeadCost::observe(std::int64_t rows, double seconds) {
  const auto learn = [](double& mean, int& count, double value) {
    ++count;
    mean += std::max(kNewest, 1.0 / count) * (value - mean);
  };
  if (rows == 1) {
    learn(one_s_, ones_, seconds);
  } else if (rows > 1 && ones_ > 0) {
    learn(further_s_, furthers_, std::max(seconds - one_s_, 0.0) / static_cast<double>(rows - 1));
  }
}

double OutputHeadCost::least_probability() const {
  constexpr double typical = 0.12;  // of a pass for each further row, before anything is measured
  if (ones_ < 3 || furthers_ < 3) return typical;
  return std::clamp(further_s_ / one_s_, 0.03, 0.5);
}

}  // namespace jupiter

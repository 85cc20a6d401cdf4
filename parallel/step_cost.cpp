// Running means by width.
#include "parallel/step_cost.hpp"

#include <algorithm>

namespace jupiter {

namespace {

// Cost of 1, 2, 3, ... rows (Curve::kWidths) over that of one: packed 4-bit weights, measured (kernels/README.md).
constexpr std::array<double, 11> kTypical = {1, 1.06, 1.13, 1.2, 1.38, 1.55, 2.2, 2.8, 4.1, 5.4, 10.6};
constexpr double kNewest = 0.15;  // weight of a new observation in a running mean

}  // namespace

void StepCost::Curve::observe(std::int64_t rows, double seconds) {
  std::size_t i = 0;
  while (i + 1 < kWidths.size() && kWidths[i + 1] <= rows) ++i;
  // Brought to the width of the entry along the typical shape.
  double typical = kTypical[i];
  if (i + 1 < kWidths.size()) {
    typical += (kTypical[i + 1] - kTypical[i]) * static_cast<double>(rows - kWidths[i]) /
               static_cast<double>(kWidths[i + 1] - kWidths[i]);
  } else {
    typical *= static_cast<double>(rows) / static_cast<double>(kWidths[i]);
  }
  const double here = seconds * kTypical[i] / typical;
  const double newest = count_[i] == 0 ? 1 : std::max(kNewest, 1.0 / (count_[i] + 1));
  mean_[i] += newest * (here - mean_[i]);
  ++count_[i];
  const double one = seconds / typical;
  scale_ += (observed_ == 0 ? 1 : std::max(kNewest / 2, 1.0 / (observed_ + 1))) * (one - scale_);
  ++observed_;
}

double StepCost::Curve::at(std::size_t i) const {
  return count_[i] >= 3 ? mean_[i] : scale_ * kTypical[i];
}

double StepCost::Curve::seconds(std::int64_t rows) const {
  std::size_t i = 0;
  while (i + 1 < kWidths.size() && kWidths[i + 1] <= rows) ++i;
  if (i + 1 == kWidths.size()) return at(i) * static_cast<double>(rows) / static_cast<double>(kWidths[i]);
  const double low = at(i), high = std::max(low, at(i + 1));
  return low + (high - low) * static_cast<double>(rows - kWidths[i]) / static_cast<double>(kWidths[i + 1] - kWidths[i]);
}

void StepCost::observe(std::int64_t rows, const FrameCost& cost) {
  if (rows < 1 || rows > 2 * kMaxDraftNodes) return;
  sum_.observe(rows, cost.sum_s);
  most_.observe(rows, cost.most_s);
}

void StepCost::observe_overhead(double overhead_s) {
  overhead_s = std::max(overhead_s, 0.0);
  overhead_s_ += (overhead_known_ ? kNewest : 1) * (overhead_s - overhead_s_);
  overhead_known_ = true;
}

void HeadCost::observe(std::int64_t rows, double seconds) {
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

double HeadCost::least_probability() const {
  constexpr double typical = 0.12;  // of a pass for each further row, before anything is measured
  if (ones_ < 3 || furthers_ < 3) return typical;
  return std::clamp(further_s_ / one_s_, 0.03, 0.5);
}

}  // namespace jupiter

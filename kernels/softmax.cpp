#include "kernels/softmax.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>

namespace jupiter {

namespace {

constexpr std::size_t kLanes = 16;

double sum_in_lanes(std::span<const float> x) {
  std::array<double, kLanes> sums{};
  std::size_t i = 0;
  for (; i + kLanes <= x.size(); i += kLanes) {
    for (std::size_t lane = 0; lane < kLanes; ++lane) sums[lane] += static_cast<double>(x[i + lane]);
  }
  for (; i < x.size(); ++i) sums[0] += static_cast<double>(x[i]);
  return std::accumulate(sums.begin(), sums.end(), 0.0);
}

}  // namespace

float largest(std::span<const float> values) {
  std::array<float, kLanes> most;
  most.fill(values[0]);
  std::size_t i = 0;
  for (; i + kLanes <= values.size(); i += kLanes) {
    for (std::size_t lane = 0; lane < kLanes; ++lane) most[lane] = std::max(most[lane], values[i + lane]);
  }
  for (; i < values.size(); ++i) most[0] = std::max(most[0], values[i]);
  return *std::max_element(most.begin(), most.end());
}

template <SumOrder order>
double exponentials(const KernelTable& kernels, std::span<float> x) {
  kernels.exponential(x.data(), std::ssize(x), x.data());
  if constexpr (order == SumOrder::lanes) return sum_in_lanes(x);
  return std::accumulate(x.begin(), x.end(), 0.0);
}

template <SumOrder order>
double exponentials(const KernelTable& kernels, std::span<const float> logits, float most, std::span<float> out) {
  std::transform(logits.begin(), logits.end(), out.begin(), [most](float l) { return l - most; });
  return exponentials<order>(kernels, out);
}

template double exponentials<SumOrder::sequential>(const KernelTable&, std::span<float>);
template double exponentials<SumOrder::lanes>(const KernelTable&, std::span<float>);
template double exponentials<SumOrder::sequential>(const KernelTable&, std::span<const float>, float, std::span<float>);
template double exponentials<SumOrder::lanes>(const KernelTable&, std::span<const float>, float, std::span<float>);

void normalise(std::span<float> x, double sum) {
  for (float& v : x) v = static_cast<float>(static_cast<double>(v) / sum);
}

double log_sum_exp(const KernelTable& kernels, std::span<const float> logits, float most, std::vector<float>& scratch) {
  scratch.resize(logits.size());
  return std::log(exponentials<SumOrder::lanes>(kernels, logits, most, scratch)) + static_cast<double>(most);
}

}  // namespace jupiter

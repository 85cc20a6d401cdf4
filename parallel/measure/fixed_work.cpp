// A chain of multiplications, each of which needs the one before.
#include "parallel/measure/fixed_work.hpp"

#include <algorithm>

#include "io/timer.hpp"

namespace jupiter {

namespace {

volatile std::uint64_t sink;

void work(std::int64_t steps) {
  std::uint64_t x = sink + 1;
  for (std::int64_t i = 0; i < steps; ++i) x = x * 6364136223846793005u + 1442695040888963407u;
  sink = x;
}

}  // namespace

FixedWork::FixedWork(double seconds) {
  constexpr std::int64_t kTrial = 2'000'000;
  const auto start = Clock::now();
  work(kTrial);
  steps_ = std::max<std::int64_t>(1, static_cast<std::int64_t>(kTrial * seconds / seconds_since(start)));
}

void FixedWork::operator()() const {
  work(steps_);
}

}  // namespace jupiter

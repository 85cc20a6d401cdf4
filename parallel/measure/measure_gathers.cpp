// Gathers among boards that compute in between, as those of a tensor group do. Exchanges back to back would find the
// other boards awake, which they are not in the middle of a layer.
#include <algorithm>

#include "io/timer.hpp"
#include "parallel/comm/collectives.hpp"
#include "parallel/measure/fixed_work.hpp"
#include "parallel/measure/measure.hpp"
#include "parallel/pipeline/group_channels.hpp"

namespace jupiter {

namespace {

constexpr std::size_t kSmall = 512, kLarge = 32 << 10;  // bytes of a board's piece
constexpr int kGathers = 64, kRepeats = 3;
constexpr double kWork_s = 2e-4;  // of computing before each gather
constexpr std::chrono::seconds kDeadline{60};

// Seconds by which a gather of such pieces lengthens the computing before it.
double gather_s(GroupChannels& channels, std::size_t bytes, const FixedWork& work) {
  std::vector<double> samples;
  for (int r = 0; r < kRepeats; ++r) {
    channels.exchange({}, [](int, std::span<const std::byte>) {});  // all begin together
    const auto start = Clock::now();
    for (int i = 0; i < kGathers; ++i) work();
    const double alone_s = seconds_since(start);
    channels.exchange({}, [](int, std::span<const std::byte>) {});
    const auto again = Clock::now();
    for (int i = 0; i < kGathers; ++i) {
      work();
      channels.exchange(std::vector<std::byte>(bytes), [](int, std::span<const std::byte>) {});
    }
    samples.push_back((seconds_since(again) - alone_s) / kGathers);
  }
  return std::max(median(samples), 0.0);
}

// The first n ranks as one group, every other rank by itself.
MpiSession group_of(const MpiSession& mpi, int n) {
  std::vector<int> ranks{mpi.world(0)}, boards{n};
  for (int r = n; r < mpi.size(); ++r) {
    ranks.push_back(mpi.world(r));
    boards.push_back(1);
  }
  for (int r = 1; r < n; ++r) ranks.push_back(mpi.world(r));
  return mpi.arranged(ranks, boards);
}

}  // namespace

std::vector<GatherCost> measure_gathers(const MpiSession& mpi, const MeasureProgress& progress) {
  std::vector<GatherCost> costs;
  const FixedWork work(kWork_s);
  for (int n = 2; n <= mpi.size(); ++n) {
    double small = 0, large = 0;
    if (mpi.rank() < n) {
      const MpiSession group = group_of(mpi, n);
      GroupChannels channels(group, 2 * kLarge, kDeadline);
      small = gather_s(channels, kSmall, work);
      large = gather_s(channels, kLarge, work);
    }
    const auto slowest = [](const std::vector<double>& all) { return *std::max_element(all.begin(), all.end()); };
    const std::vector<double> smalls = all_gather(mpi, small), larges = all_gather(mpi, large);
    const double bytes = static_cast<double>(kLarge - kSmall) * (n - 1);
    const double byte_s = std::max(slowest(larges) - slowest(smalls), 0.0) / bytes;
    costs.push_back({n, std::max(slowest(smalls) - byte_s * static_cast<double>(kSmall) * (n - 1), 0.0), byte_s});
    progress(static_cast<double>(n - 1) / (mpi.size() - 1));
  }
  return costs;
}

}  // namespace jupiter

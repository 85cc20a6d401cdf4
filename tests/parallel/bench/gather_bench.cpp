// What a gather among boards that compute in between adds to the computing: pieces point to point (GroupChannels), and
// MPI_Iallgatherv, in turn. A Markdown table of medians, microseconds.
//   mpirun -n BOARDS gather_bench [ROUNDS]
#include <fmt/format.h>
#include <mpi.h>

#include <algorithm>
#include <cstdlib>
#include <iostream>
#include <numeric>

#include "io/timer.hpp"
#include "parallel/comm/collectives.hpp"
#include "parallel/measure/fixed_work.hpp"
#include "parallel/measure/measure.hpp"
#include "parallel/pipeline/group_channels.hpp"

namespace jupiter {
namespace {

constexpr double kWork_s = 3e-4;  // of computing before each gather
constexpr int kGathers = 100;     // of one sample
constexpr std::chrono::seconds kDeadline{60};

// Seconds that a gather adds.
double added_s(const MpiSession& mpi, const FixedWork& work, const auto& gather) {
  barrier(mpi);
  const auto start = Clock::now();
  for (int i = 0; i < kGathers; ++i) work();
  const double alone_s = seconds_since(start);
  barrier(mpi);
  const auto again = Clock::now();
  for (int i = 0; i < kGathers; ++i) {
    work();
    gather();
  }
  const std::vector<double> all = all_gather(mpi, (seconds_since(again) - alone_s) / kGathers);
  return *std::max_element(all.begin(), all.end());
}

void iallgatherv(std::vector<std::byte>& mine, std::vector<std::byte>& all, const std::vector<int>& counts,
                 const std::vector<int>& places) {
  MPI_Request request;
  check_mpi(MPI_Iallgatherv(mine.data(), static_cast<int>(mine.size()), MPI_BYTE, all.data(), counts.data(),
                            places.data(), MPI_BYTE, MPI_COMM_WORLD, &request),
            "MPI_Iallgatherv");
  wait_politely(
      [&] {
        int done = 0;
        check_mpi(MPI_Test(&request, &done, MPI_STATUS_IGNORE), "MPI_Test");
        return done != 0;
      },
      "MPI_Iallgatherv", kDeadline);
}

int run(int rounds) {
  const MpiSession mpi;
  const int boards = mpi.size();
  std::vector<int> order(static_cast<std::size_t>(boards));
  std::iota(order.begin(), order.end(), 0);
  const MpiSession group = mpi.arranged(order, {boards});
  const FixedWork work(kWork_s);
  if (mpi.rank() == 0) std::cout << "| bytes of a piece | pieces | MPI_Iallgatherv | ratio |\n|---|---|---|---|\n";
  for (const int bytes : {160, 600, 3000, 12'000, 100'000}) {
    std::vector<double> ours, theirs;
    std::vector<std::byte> mine(static_cast<std::size_t>(bytes)), all(mine.size() * static_cast<std::size_t>(boards));
    std::vector<int> counts(static_cast<std::size_t>(boards), bytes), places;
    for (int b = 0; b < boards; ++b) places.push_back(b * bytes);
    GroupChannels channels(group, static_cast<std::uint64_t>(bytes), kDeadline);
    for (int r = 0; r < rounds; ++r) {
      ours.push_back(added_s(mpi, work, [&] {
        channels.exchange(mine, [&](int board, std::span<const std::byte> piece) {
          std::copy(piece.begin(), piece.end(), all.begin() + places[static_cast<std::size_t>(board)]);
        });
      }));
      theirs.push_back(added_s(mpi, work, [&] { iallgatherv(mine, all, counts, places); }));
    }
    if (mpi.rank() == 0) {
      std::cout << fmt::format("| {} | {:.0f} | {:.0f} | {:.2f} |\n", bytes, median(ours) * 1e6, median(theirs) * 1e6,
                               median(theirs) / median(ours));
    }
  }
  return 0;
}

}  // namespace
}  // namespace jupiter

int main(int argc, char** argv) {
  try {
    return jupiter::run(argc > 1 ? std::atoi(argv[1]) : 7);
  } catch (const std::exception& e) {
    std::cerr << "gather_bench: " << e.what() << "\n";
    return 1;
  }
}

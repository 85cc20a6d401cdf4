// The peaks of every rank's machine, measured by all ranks together.
#pragma once

#include <vector>

#include "kernels/peak.hpp"
#include "parallel/comm/mpi.hpp"

namespace jupiter {

struct RankPeaks {
  double read_bytes_per_s = 0;
  double multiplies_per_s = 0;  // 0: the table has no instruction for them
};

// Reading is measured on one rank after the other, as ranks read their weights for one token; multiplication on all at
// once, as ranks share a prompt's chunks. Collective. Returns the peaks by rank on rank 0, nothing elsewhere. pool:
// null on a rank without layers, whose peaks are 0.
std::vector<RankPeaks> measure_peaks(const MpiSession& mpi, ThreadPool* pool, std::uint64_t buffer_bytes);

}  // namespace jupiter

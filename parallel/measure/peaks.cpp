// Measured in an order that all ranks keep.
#include "parallel/measure/peaks.hpp"

#include "parallel/comm/collectives.hpp"

namespace jupiter {

std::vector<RankPeaks> measure_peaks(const MpiSession& mpi, ThreadPool* pool, std::uint64_t buffer_bytes) {
  RankPeaks mine;
  for (int rank = 0; rank < mpi.size(); ++rank) {
    if (rank == mpi.rank() && pool != nullptr) mine.read_bytes_per_s = read_peak(*pool, buffer_bytes);
    barrier(mpi);
  }
  if (pool != nullptr) mine.multiplies_per_s = multiply_peak(kernels(), *pool);
  return gather(mpi, mine);
}

}  // namespace jupiter

// Measured in an order that all ranks keep.
#include "parallel/peaks.hpp"

#include "parallel/message.hpp"

namespace jupiter {

namespace {

void wait_for_all(const MpiSession& mpi) {
  gather_text(mpi, "");
  broadcast_text(mpi, "");
}

}  // namespace

std::vector<RankPeaks> measure_peaks(const MpiSession& mpi, ThreadPool* pool, std::uint64_t buffer_bytes) {
  RankPeaks mine;
  for (int rank = 0; rank < mpi.size(); ++rank) {
    if (rank == mpi.rank() && pool != nullptr) mine.read_bytes_per_s = read_peak(*pool, buffer_bytes);
    wait_for_all(mpi);
  }
  if (pool != nullptr) mine.multiplies_per_s = multiply_peak(kernels(), *pool);
  std::vector<std::byte> bytes;
  PayloadWriter(bytes).value(mine);
  std::vector<RankPeaks> all;
  for (const std::string& text : gather_text(mpi, {reinterpret_cast<const char*>(bytes.data()), bytes.size()})) {
    PayloadReader reader(std::as_bytes(std::span(text)));
    all.push_back(reader.value<RankPeaks>());
    reader.end();
  }
  return all;
}

}  // namespace jupiter

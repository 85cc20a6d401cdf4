// Measuring a profile: this rank's layers, embedding and head, and the links between ranks.
#pragma once

#include <functional>

#include "parallel/mpi.hpp"
#include "parallel/profile.hpp"
#include "parallel/stage.hpp"

namespace jupiter {

struct MeasureOptions {
  std::int64_t max_rows = 512;      // largest chunk that is measured
  std::int64_t context_tokens = 0;  // largest context that is measured
  double seconds_per_point = 0.15;  // a point is repeated until this long, three times at least
};

// Times of this board's part of the model. Throws what the forward pass throws.
BoardProfile measure_board(const ModelConfig& config, const ModelFiles& files, ThreadPool& pool,
                           const MeasureOptions& options, const std::function<void(double fraction)>& progress);

// Every pair of ranks, both directions, one pair at a time; collective. The links are complete on rank 0.
std::vector<LinkProfile> measure_links(const MpiSession& mpi, const std::function<void(double fraction)>& progress);

}  // namespace jupiter

// Measures a profile: this rank's layers, embedding and output head, the links between ranks, and what messages cost.
#pragma once

#include <functional>
#include <memory>

#include "parallel/comm/mpi.hpp"
#include "parallel/pipeline/stage.hpp"
#include "parallel/plan/profile.hpp"

namespace jupiter {

struct MeasureOptions {
  std::int64_t max_rows = 512;      // largest chunk that is measured
  std::int64_t context_tokens = 0;  // largest context that is measured
  double seconds_per_point = 0.06;  // for so long a point is repeated in each of three sweeps over all points
};

using MeasureProgress = std::function<void(double fraction)>;

// Measures this board with its part of the model. Throws what the forward pass throws. The arguments must outlive it.
class BoardMeasurement {
 public:
  BoardMeasurement(const ModelConfig& config, const ModelFiles& files, ThreadPool& pool, const MeasureOptions& options);
  ~BoardMeasurement();
  // Times of layers, embedding and output head.
  BoardProfile run(const MeasureProgress& progress);
  // Computes a few layers, the same every time, for about `seconds` on a board of this profile.
  void work(const BoardProfile& measured, double seconds);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// Measures both directions of every pair of ranks, one pair at a time. Collective. The links are complete on rank 0.
std::vector<LinkProfile> measure_links(const MpiSession& mpi, const MeasureProgress& progress);

// Measures gathers among the first 2, 3, ... ranks, all of which compute before each (tensor groups). Collective;
// complete on rank 0.
std::vector<GatherCost> measure_gathers(const MpiSession& mpi, const MeasureProgress& progress);

// What frames take from computing on this board: the call that sends one, and all that receiving one adds.
struct TransferCosts {
  TransferCost send;
  TransferCost receive;
};

// The ranks form a ring in which all compute and pass frames on at the same time, as the stages of a full pipeline do.
// While it lives, `pool` polls its channels, so that what is measured then includes the polling of a run. Collective;
// only one may exist at a time.
class RingTraffic {
 public:
  RingTraffic(const MpiSession& mpi, const ModelConfig& config, ThreadPool& pool);
  ~RingTraffic();
  // Times `work` (always the same, about 10 ms) with and without frames. All costs are 0 where this rank is alone.
  TransferCosts measure(const std::function<void()>& work);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

double median(std::vector<double> values);
// The mean without the lowest and the highest tenth.
double mean_of_the_middle(std::vector<double> values);

}  // namespace jupiter

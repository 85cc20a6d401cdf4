// Measuring a profile: this rank's layers, embedding and output head, the links between ranks, and what messages cost.
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
  double seconds_per_point = 0.06;  // in each of three sweeps over all points, a point is repeated until this long
};

using MeasureProgress = std::function<void(double fraction)>;

// This board's part of the model. Throws what the forward pass throws. The arguments must outlive it.
class BoardMeasurement {
 public:
  BoardMeasurement(const ModelConfig& config, const ModelFiles& files, ThreadPool& pool, const MeasureOptions& options);
  ~BoardMeasurement();
  // Times of layers, embedding and output head.
  BoardProfile run(const MeasureProgress& progress);
  // A few layers, the same every time, for about `seconds` on a board of this profile.
  void work(const BoardProfile& measured, double seconds);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// Every pair of ranks, both directions, one pair at a time; collective. The links are complete on rank 0.
std::vector<LinkProfile> measure_links(const MpiSession& mpi, const MeasureProgress& progress);

// What frames take from computing on this board: the call that sends one, and all that receiving one adds.
struct TransferCosts {
  TransferCost send;
  TransferCost receive;
};

// The ranks as a ring in which everybody computes and passes frames on at the same time, as the stages of a full
// pipeline do. While it lives, `pool` polls its channels, so that what is measured then holds the polling of a run.
// Collective, one at a time.
class RingTraffic {
 public:
  RingTraffic(const MpiSession& mpi, const ModelConfig& config, ThreadPool& pool);
  ~RingTraffic();
  // Times `work` (always the same, about 10 ms) with and without frames; nothing where this rank is alone.
  TransferCosts measure(const std::function<void()>& work);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

double median(std::vector<double> values);
// Without the lowest and the highest tenth.
double mean_of_the_middle(std::vector<double> values);

}  // namespace jupiter

// Each half goes through all layers; where it gathers, the other one goes on.
#include "parallel/pipeline/lane_pass.hpp"

#include <algorithm>

#include "parallel/plan/stage_memory.hpp"

namespace jupiter {

namespace {

constexpr std::int64_t kLeastRows = 32;

TensorGroup with_link(TensorGroup group, GroupLink& link) {
  group.link = &link;
  return group;
}

}  // namespace

std::pair<std::vector<RowRun>, std::vector<RowRun>> split_runs(const std::vector<RowRun>& runs, std::int64_t rows) {
  std::pair<std::vector<RowRun>, std::vector<RowRun>> halves;
  for (const RowRun& run : runs) {
    const std::int64_t first = std::clamp<std::int64_t>(rows, 0, run.rows);
    rows -= first;
    if (first > 0) halves.first.push_back({run.sequence, run.first_position, first, {}});
    if (first < run.rows) {
      halves.second.push_back({run.sequence, run.first_position + first, run.rows - first, {}});
    }
  }
  return halves;
}

LanePass::LanePass(const ModelConfig& config, const TensorGroup& group, GroupChannels& channels, std::int64_t max_rows,
                   int threads)
    : link_(channels, lanes_),
      group_(with_link(group, link_)),
      scratch_(config, group.mine(), second_lane_rows(max_rows), threads) {}

bool LanePass::suits(const std::vector<RowRun>& runs, std::int64_t rows) {
  return rows >= kLeastRows && std::all_of(runs.begin(), runs.end(), [](const RowRun& r) { return r.tree.empty(); });
}

void LanePass::run(const BlockContext& c, const std::vector<LayerWeights>& layers, const std::vector<RowRun>& runs,
                   MatrixView<float> x) {
  const std::int64_t second_rows = second_lane_rows(x.rows), first_rows = x.rows - second_rows;
  const auto halves = split_runs(runs, first_rows);
  const BlockContext first{c.rt, c.config, c.cache, c.rope, c.scratch, group_};
  const BlockContext second{c.rt, c.config, c.cache, c.rope, scratch_, group_};
  const auto pass = [&](const BlockContext& context, const std::vector<RowRun>& rows, MatrixView<float> part) {
    for (std::size_t l = 0; l < layers.size(); ++l) {
      forward_block(context, layers[l], static_cast<std::int64_t>(l), rows, part);
    }
  };
  lanes_.run([&] { pass(first, halves.first, x.slice(0, first_rows)); },
             [&] { pass(second, halves.second, x.slice(first_rows, second_rows)); });
}

}  // namespace jupiter

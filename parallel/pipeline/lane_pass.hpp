// Frames of many rows in a tensor group: two halves of their rows pass the layers in turn, so that a board computes one
// half while the pieces of the other are on their way. Rows do not depend on the rows beside them, so the bits are
// those of one pass.
#pragma once

#include <vector>

#include "kernels/block.hpp"
#include "parallel/pipeline/group_channels.hpp"
#include "parallel/pipeline/lanes.hpp"

namespace jupiter {

// The first `rows` rows of some runs, and the others.
std::pair<std::vector<RowRun>, std::vector<RowRun>> split_runs(const std::vector<RowRun>& runs, std::int64_t rows);

class LanePass {
 public:
  // group: of this board. channels must outlive it. max_rows: of a frame.
  LanePass(const ModelConfig& config, const TensorGroup& group, GroupChannels& channels, std::int64_t max_rows,
           int threads);

  // Fewer rows gain less than two passes over the weights cost. Rows of trees read those before them, wherever these
  // lie.
  static bool suits(const std::vector<RowRun>& runs, std::int64_t rows);

  // All layers. context: of a pass in one; its scratch serves the first half.
  void run(const BlockContext& context, const std::vector<LayerWeights>& layers, const std::vector<RowRun>& runs,
           MatrixView<float> x);
  std::size_t bytes() const { return scratch_.bytes(); }

 private:
  // Sends this board's pieces, and lets the other half go on before it waits for those of the others.
  class Link : public GroupLink {
   public:
    Link(GroupChannels& channels, Lanes& lanes) : channels_(channels), lanes_(lanes) {}
    void exchange(std::vector<std::byte> mine, const GroupChannels::Take& take) override {
      channels_.send(std::move(mine));
      lanes_.turn();
      channels_.receive(take);
    }

   private:
    GroupChannels& channels_;
    Lanes& lanes_;
  };
  Lanes lanes_;
  Link link_;
  TensorGroup group_;
  BlockScratch scratch_;  // of the second half
};

}  // namespace jupiter

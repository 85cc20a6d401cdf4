// The blocks of every stage's KV cache, counted on rank 0.
//
// The only truth is the cache of rank 0's own stage. Every stage opens, extends, shares and closes sequences in the
// order in which rank 0 submits that, and rank 0 does it first, so after the same message each stage holds the same
// blocks for the same positions. Only trees differ: a later stage may know of more verdicts, and then places fewer
// rows, perhaps in other spare blocks. So the spare blocks of a tree are set aside in full while its sequence decodes.
#pragma once

#include <map>

#include "parallel/pipeline/stage.hpp"

namespace jupiter {

class KvAccount {
 public:
  // The stage must outlive it.
  explicit KvAccount(const Stage& first) : stage_(first) {}

  std::int64_t total() const { return stage_.cache().total_blocks(); }
  // Blocks that no sequence holds and no tree may claim.
  std::int64_t free() const;
  // Blocks that would be free if only the sequences that were opened here were left.
  std::int64_t free_for_open() const;
  // Sets aside the spare blocks of a sequence's tree; until close().
  void open(SequenceId sequence, std::int64_t tree_blocks) { tree_blocks_[sequence] = tree_blocks; }
  void close(SequenceId sequence) { tree_blocks_.erase(sequence); }

  // Blocks that an open sequence takes for positions first .. end - 1.
  std::int64_t needed(SequenceId sequence, std::int64_t first, std::int64_t end) const;
  // Most blocks that it takes for so many rows of its tree.
  std::int64_t needed_for_tree(SequenceId sequence, std::int64_t rows, std::int64_t end_position) const;
  // Committed positions of an open sequence.
  std::int64_t length(SequenceId sequence) const { return stage_.sequence(sequence).length; }
  // Whether closing the sequence frees any block.
  bool frees_blocks(SequenceId sequence) const {
    return stage_.cache().blocks_of_its_own(stage_.sequence(sequence)) > 0;
  }

 private:
  std::int64_t set_aside() const;
  const Stage& stage_;
  std::map<SequenceId, std::int64_t> tree_blocks_;  // of the open sequences
};

}  // namespace jupiter

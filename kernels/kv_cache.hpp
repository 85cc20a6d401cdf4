// Key-value cache of one stage: blocks of 32 positions, which sequences take from one pool. Which slot holds which
// position is metadata of the sequence, which the arithmetic does not depend on.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "kernels/kernel_table.hpp"

namespace jupiter {

enum class KvType : std::uint8_t { f16 = 0, f32 = 1, q8_0 = 2 };
std::string_view name(KvType type);
std::optional<KvType> kv_type_from_name(std::string_view text);

using BlockId = std::int32_t;

// Where one position's keys and values lie.
struct Slot {
  BlockId block = 0;
  std::int32_t lane = 0;
  bool operator==(const Slot&) const = default;
};

// A drafted token's number within its sequence; children have higher numbers than their parents.
using NodeId = std::uint32_t;

// An uncommitted node, one of possibly several that follow the same parent.
struct TreeNode {
  NodeId id = 0;
  NodeId parent = 0;
  std::int64_t position = 0;
  Slot slot;
};

// The positions of one sequence, and where they lie. The home of position p is lane p % 32 of blocks[p / 32]. A tree
// node lies at the home of its position where that is free, so that a chain needs no copies, and in a spare block
// otherwise.
struct Sequence {
  std::vector<BlockId> blocks;
  std::int64_t length = 0;  // committed positions
  // The uncommitted tail (kernels/token_tree.hpp).
  NodeId tip = 0;                 // the node at position length - 1; 0 stands for the end of a prompt
  std::optional<NodeId> decided;  // the child of tip that is known to be right but is not computed yet
  std::vector<TreeNode> nodes;    // parents before children
  std::vector<BlockId> spare;     // blocks of nodes that are not at home

  Slot home(std::int64_t position) const {
    return {blocks[position / kKvBlock], static_cast<std::int32_t>(position % kKvBlock)};
  }
};

struct KvShape {
  std::int64_t n_layers = 0;  // of this stage
  std::int64_t n_kv_heads = 0;
  std::int64_t head_dim = 0;
  KvType keys = KvType::f16;
  KvType values = KvType::f16;
};

class KvCache {
 public:
  // Memory is touched only where it is used. UsageError where head_dim is no multiple of q8_0's groups.
  KvCache(const KvShape& shape, std::int64_t n_blocks);
  ~KvCache();
  KvCache(const KvCache&) = delete;
  KvCache& operator=(const KvCache&) = delete;

  // Gives the sequence blocks of its own for positions first .. end - 1, and room for those before; a block that others
  // use too is copied. MemoryError where the pool is empty.
  void reserve(Sequence& sequence, std::int64_t first, std::int64_t end);
  // Forgets positions from `length` on and every tree node, and returns the blocks that this frees.
  void truncate(Sequence& sequence, std::int64_t length);
  // A sequence that shares the first `length` positions with this one; blocks are counted, not copied.
  Sequence fork(const Sequence& from, std::int64_t length);
  // One block from the pool, for tree nodes; release() gives it back.
  BlockId take();
  void release(BlockId block);
  std::int64_t free_blocks() const { return std::ssize(free_); }
  std::int64_t total_blocks() const { return n_blocks_; }
  // How many blocks reserve() would take from the pool.
  std::int64_t blocks_to_reserve(const Sequence& sequence, std::int64_t first, std::int64_t end) const;
  // Blocks that go back to the pool when this sequence is truncated to nothing: those that no other one uses.
  std::int64_t blocks_of_its_own(const Sequence& sequence) const;
  // Different blocks that these sequences hold together.
  std::int64_t blocks_held(std::span<const Sequence* const> sequences) const;
  std::int64_t used_bytes() const;  // of all blocks that were ever in use
  std::size_t allocated_bytes() const { return storage_bytes_; }

  // Stores one position's keys and values, [n_kv_heads][head_dim] each. false: a value does not fit the type.
  [[nodiscard]] bool write(std::int64_t layer, Slot slot, const float* keys, const float* values);
  // Copies one position, all layers and heads.
  void copy(Slot from, Slot to);
  // A block as f32: keys [head_dim][32], values [32][head_dim]. The pointer may be `scratch` or the cache itself.
  const float* keys(const KernelTable& k, std::int64_t layer, BlockId block, std::int64_t head, float* scratch) const;
  const float* values(const KernelTable& k, std::int64_t layer, BlockId block, std::int64_t head, float* scratch) const;
  // Overwrites one lane of a block that keys() or values() gave in scratch.
  void patch_keys(std::int64_t layer, Slot slot, std::int64_t head, std::int64_t lane, float* block) const;
  void patch_values(std::int64_t layer, Slot slot, std::int64_t head, std::int64_t lane, float* block) const;
  // Asks for a block's bytes ahead of keys() and values(): blocks of one head lie too far apart for the processor to
  // guess the next one.
  void prefetch(std::int64_t layer, BlockId block, std::int64_t head) const;
  const KvShape& shape() const { return shape_; }
  static std::int64_t bytes_per_block(const KvShape& shape);  // all layers and heads

 private:
  void copy_block(BlockId from, BlockId to);
  bool is_shared(BlockId block) const { return users_[block] > 1; }
  std::byte* key_block(std::int64_t layer, BlockId block, std::int64_t head) const;
  std::byte* value_block(std::int64_t layer, BlockId block, std::int64_t head) const;
  KvShape shape_;
  std::int64_t n_blocks_;
  std::int64_t key_bytes_, value_bytes_;  // of one head's block
  std::byte* storage_ = nullptr;
  std::size_t storage_bytes_ = 0;
  std::vector<BlockId> free_;        // the last is taken first
  std::vector<std::int32_t> users_;  // by block
  std::int64_t most_used_ = 0;
};

}  // namespace jupiter

// The uncommitted tail of a sequence: a tree of drafted tokens after the committed positions. A row of a tree attends
// to the committed positions and to its own ancestors. Rejecting a branch only changes metadata; committing one moves
// at most its own rows.
//
// A verdict may reach a stage before or after the rows that it speaks of, and twice. Every function here is right in
// any order (parallel/pipeline/SPECULATION.md has the protocol).
#pragma once

#include <optional>
#include <vector>

#include "kernels/kv_cache.hpp"

namespace jupiter {

// A row of a tree as it travels.
struct TreeLink {
  NodeId node = 0;
  NodeId parent = 0;
};

// Says that `node` follows `parent` for certain. The parent and all of its ancestors are committed, and every node that
// is neither on this path nor a descendant of `node` is rejected. The node itself may not be computed yet.
struct Verdict {
  NodeId node = 0;
  NodeId parent = 0;
};

// A position of a row's path whose keys and values do not lie in its home slot.
struct Detour {
  std::int64_t position = 0;
  Slot slot;
};

// Where a row of a tree stands, and what it attends to besides home slots.
struct TreeRow {
  std::int64_t position = 0;
  Slot slot;
  std::vector<Detour> detours;  // by ascending position; the row's own position is the last where it is not at home
};

// Whether a row with this number and parent can still be right.
bool is_live(const Sequence& sequence, NodeId node, NodeId parent);

// Whether an uncommitted node is `ancestor` or descends from it.
bool descends(const Sequence& sequence, NodeId node, NodeId ancestor);

// Adds a live row and reserves its blocks. MemoryError where the pool is empty.
TreeRow add_node(KvCache& cache, Sequence& sequence, NodeId node, NodeId parent);

// Applies a verdict. One about the past, or about nodes that are not known here, changes nothing.
void commit(KvCache& cache, Sequence& sequence, const Verdict& verdict);

// Commits the decided node if its row is there. Call it after the row's keys and values were written in all layers.
void commit_decided(KvCache& cache, Sequence& sequence);

}  // namespace jupiter

// The uncommitted tail of a sequence: a tree of drafted tokens behind the committed positions. A row of a tree sees the
// committed positions and its own ancestors. Rejecting a branch is metadata; committing one moves at most its own rows.
//
// Decisions may reach a stage before or after the rows that they speak of, and twice: every rule here holds in any
// order.
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

// `node` follows its parent for certain: the parent and all before it are committed, and whatever is neither on this
// path nor behind it is rejected. The node itself may not be computed yet.
struct Verdict {
  NodeId node = 0;
  NodeId parent = 0;
};

// A position at which a row's path leaves the home slots.
struct Detour {
  std::int64_t position = 0;
  Slot slot;
};

// Where a row of a tree stands and what it sees.
struct TreeRow {
  std::int64_t position = 0;
  Slot slot;
  std::vector<Detour> detours;  // ascending; its own position included where it is not at home
};

// Whether a row with this number and parent can still be right.
bool is_live(const Sequence& sequence, NodeId node, NodeId parent);

// Whether an uncommitted node is `ancestor` or comes after it.
bool descends(const Sequence& sequence, NodeId node, NodeId ancestor);

// Adds a live row; its blocks are reserved. MemoryError where the pool is empty.
TreeRow add_node(KvCache& cache, Sequence& sequence, NodeId node, NodeId parent);

// Applies a verdict; one about the past changes nothing.
void settle(KvCache& cache, Sequence& sequence, const Verdict& verdict);

// Commits the decided node when its row is there. Call after its keys and values were written in all layers.
void settle_decided(KvCache& cache, Sequence& sequence);

}  // namespace jupiter

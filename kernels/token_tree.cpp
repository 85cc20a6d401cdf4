// A tail holds a few dozen nodes at most, so plain searches are the fastest ones.
#include "kernels/token_tree.hpp"

#include <algorithm>

namespace jupiter {

namespace {

const TreeNode* find(const Sequence& s, NodeId id) {
  const auto it = std::find_if(s.nodes.begin(), s.nodes.end(), [&](const TreeNode& n) { return n.id == id; });
  return it == s.nodes.end() ? nullptr : &*it;
}

// The node and its uncommitted ancestors, oldest first.
std::vector<TreeNode> path_to(const Sequence& s, NodeId id) {
  std::vector<TreeNode> path;
  for (const TreeNode* n = find(s, id); n != nullptr; n = find(s, n->parent)) path.push_back(*n);
  std::reverse(path.begin(), path.end());
  return path;
}

bool taken(const Sequence& s, Slot slot) {
  return std::any_of(s.nodes.begin(), s.nodes.end(), [&](const TreeNode& n) { return n.slot == slot; });
}

Slot spare_slot(KvCache& cache, Sequence& s) {
  for (const BlockId block : s.spare) {
    for (std::int32_t lane = 0; lane < kKvBlock; ++lane) {
      if (!taken(s, {block, lane})) return {block, lane};
    }
  }
  s.spare.push_back(cache.take());
  return {s.spare.back(), 0};
}

void release_spare(KvCache& cache, Sequence& s) {
  if (!s.nodes.empty()) return;
  for (; !s.spare.empty(); s.spare.pop_back()) cache.release(s.spare.back());
}

// Makes the path to node `id` part of the committed positions, and drops all nodes that do not descend from it.
void commit_path(KvCache& cache, Sequence& s, NodeId id) {
  const std::vector<TreeNode> path = path_to(s, id);
  std::vector<NodeId> kept = {id};
  std::vector<TreeNode> nodes;
  for (const TreeNode& n : s.nodes) {  // parents come first
    if (n.id == id || std::find(kept.begin(), kept.end(), n.parent) == kept.end()) continue;
    kept.push_back(n.id);
    nodes.push_back(n);
  }
  for (const TreeNode& n : path) {
    const Slot home = s.home(n.position);
    if (n.slot != home) cache.copy(n.slot, home);  // the node that was there is rejected now
    s.length = n.position + 1;
  }
  s.nodes = std::move(nodes);
  s.tip = id;
  s.decided.reset();
  release_spare(cache, s);
}

}  // namespace

bool is_live(const Sequence& s, NodeId node, NodeId parent) {
  if (parent == s.tip) return node > s.tip && (!s.decided || *s.decided == node);
  return node > parent && find(s, parent) != nullptr;
}

bool descends(const Sequence& s, NodeId node, NodeId ancestor) {
  for (const TreeNode* n = find(s, node); n != nullptr; n = find(s, n->parent)) {
    if (n->id == ancestor) return true;
  }
  return false;
}

TreeRow add_node(KvCache& cache, Sequence& s, NodeId node, NodeId parent) {
  TreeRow row;
  const TreeNode* above = find(s, parent);
  row.position = above != nullptr ? above->position + 1 : s.length;
  cache.reserve(s, std::min(row.position, s.length), row.position + 1);
  for (const TreeNode& n : path_to(s, parent)) {
    if (n.slot != s.home(n.position)) row.detours.push_back({n.position, n.slot});
  }
  row.slot = s.home(row.position);
  if (taken(s, row.slot)) {
    row.slot = spare_slot(cache, s);
    row.detours.push_back({row.position, row.slot});
  }
  s.nodes.push_back({node, parent, row.position, row.slot});
  return row;
}

void commit(KvCache& cache, Sequence& s, const Verdict& v) {
  if (find(s, v.node) != nullptr) return commit_path(cache, s, v.node);
  if (v.node <= s.tip) return;                                    // about the past
  if (v.parent != s.tip && find(s, v.parent) == nullptr) return;  // about nodes that are not known here
  if (v.parent != s.tip) commit_path(cache, s, v.parent);
  s.nodes.clear();  // siblings of a node whose row is still to come, and what descends from them
  release_spare(cache, s);
  s.decided = v.node;
}

void commit_decided(KvCache& cache, Sequence& s) {
  if (s.decided && find(s, *s.decided) != nullptr) commit_path(cache, s, *s.decided);
}

}  // namespace jupiter

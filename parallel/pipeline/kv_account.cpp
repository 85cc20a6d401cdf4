#include "parallel/pipeline/kv_account.hpp"

#include <algorithm>

namespace jupiter {

std::int64_t KvAccount::set_aside() const {
  std::int64_t sum = 0;
  for (const auto& [id, blocks] : tree_blocks_) {
    sum += std::max<std::int64_t>(0, blocks - std::ssize(stage_.sequence(id).spare));
  }
  return sum;
}

std::int64_t KvAccount::free() const {
  return stage_.cache().free_blocks() - set_aside();
}

std::int64_t KvAccount::free_for_open() const {
  std::vector<const Sequence*> open;
  for (const auto& [id, blocks] : tree_blocks_) open.push_back(&stage_.sequence(id));
  return total() - stage_.cache().blocks_held(open) - set_aside();
}

std::int64_t KvAccount::needed(SequenceId sequence, std::int64_t first, std::int64_t end) const {
  return stage_.cache().blocks_to_reserve(stage_.sequence(sequence), first, end);
}

std::int64_t KvAccount::needed_for_tree(SequenceId sequence, std::int64_t rows, std::int64_t end_position) const {
  const Sequence& s = stage_.sequence(sequence);
  // If every row that is under way followed the one before it.
  const std::int64_t end = std::min(end_position, s.length + std::ssize(s.nodes) + rows);
  return stage_.cache().blocks_to_reserve(s, s.length, std::max(s.length, end));
}

}  // namespace jupiter

// A few dozen entries at most: plain searches.
#include "parallel/pipeline/prefix_cache.hpp"

#include <algorithm>

namespace jupiter {

namespace {

std::int64_t common_tokens(std::span<const TokenId> a, std::span<const TokenId> b) {
  return std::mismatch(a.begin(), a.end(), b.begin(), b.end()).first - a.begin();
}

}  // namespace

PrefixCache::Match PrefixCache::find(std::span<const TokenId> prompt, std::int64_t limit) const {
  Match best;
  for (const Entry& e : entries_) {
    const std::int64_t n = std::min(common_tokens(e.tokens, prompt), limit);
    if (n >= kLeastTokens && n > best.tokens) best = {e.sequence, n};
  }
  return best;
}

void PrefixCache::touch(SequenceId sequence) {
  const auto it =
      std::find_if(entries_.begin(), entries_.end(), [&](const Entry& e) { return e.sequence == sequence; });
  if (it != entries_.end()) entries_.splice(entries_.end(), entries_, it);
}

bool PrefixCache::is_worth_keeping(std::span<const TokenId> tokens) const {
  const auto n = std::ssize(tokens);
  return n >= kLeastTokens && find(tokens, n).tokens < n;
}

std::vector<SequenceId> PrefixCache::add(SequenceId sequence, std::vector<TokenId> tokens) {
  std::vector<SequenceId> superfluous;
  std::erase_if(entries_, [&](const Entry& e) {
    const bool covered = common_tokens(e.tokens, tokens) == std::ssize(e.tokens);
    if (covered) superfluous.push_back(e.sequence);
    return covered;
  });
  entries_.push_back({sequence, std::move(tokens)});
  return superfluous;
}

std::optional<SequenceId> PrefixCache::drop(const std::function<bool(SequenceId)>& may_go) {
  const auto it = std::find_if(entries_.begin(), entries_.end(), [&](const Entry& e) { return may_go(e.sequence); });
  if (it == entries_.end()) return std::nullopt;
  const SequenceId sequence = it->sequence;
  entries_.erase(it);
  return sequence;
}

}  // namespace jupiter

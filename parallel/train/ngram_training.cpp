// Contexts are sorted and not hashed, so memory stays linear in the tokens and the tables come out ascending.
#include "parallel/train/ngram_training.hpp"

#include <algorithm>
#include <map>

#include "kernels/softmax.hpp"

namespace jupiter {

namespace {

constexpr std::int64_t kSweepRows = 128;  // tokens of a frame
constexpr double kLeastShare = 0.02;      // of a follower

struct Follower {
  TokenId token = 0;
  double share = 0;
};

// Adds one context to a table; followers in any order.
void append(DraftTable& t, std::uint64_t key, std::int64_t count, std::vector<Follower>& followers) {
  std::sort(followers.begin(), followers.end(), [](const Follower& a, const Follower& b) {
    return a.share != b.share ? a.share > b.share : a.token < b.token;
  });
  if (t.first.empty()) t.first.push_back(0);
  t.keys.push_back(key);
  t.counts.push_back(static_cast<std::uint8_t>(std::min<std::int64_t>(count, 255)));
  for (std::size_t i = 0; i < std::min(followers.size(), kDraftFollowers); ++i) {
    if (followers[i].share < kLeastShare) break;
    t.tokens.push_back(followers[i].token);
    t.shares.push_back(static_cast<std::uint8_t>(255 * followers[i].share));
  }
  t.first.push_back(static_cast<std::uint32_t>(t.tokens.size()));
}

}  // namespace

void NgramCounts::add(std::span<const TokenId> sequence, std::size_t counted_from) {
  for (std::size_t i = 0; i < sequence.size(); ++i) {
    tokens_.push_back(sequence[i]);
    use_.push_back(i < counted_from ? kNotCounted : static_cast<std::uint8_t>(std::min(i, kDraftOrders)));
    counted_ += i >= counted_from ? 1 : 0;
  }
}

DraftTable NgramCounts::table(std::size_t order, std::int64_t least_count, std::size_t most_contexts) const {
  std::vector<std::pair<std::uint64_t, TokenId>> seen;
  for (std::size_t i = order; i < tokens_.size(); ++i) {
    if (use_[i] == kNotCounted || use_[i] < order) continue;
    seen.emplace_back(draft_key(std::span(tokens_).subspan(i - order, order), vocab_size_), tokens_[i]);
  }
  std::sort(seen.begin(), seen.end());
  const auto end_of = [&](std::size_t at) {
    std::size_t end = at;
    while (end < seen.size() && seen[end].first == seen[at].first) ++end;
    return end;
  };
  // Where more contexts were seen often enough than there is room for, the rarer ones go.
  std::map<std::int64_t, std::size_t> contexts_by_count;
  for (std::size_t at = 0, end = 0; at < seen.size(); at = end) {
    end = end_of(at);
    ++contexts_by_count[static_cast<std::int64_t>(end - at)];
  }
  std::size_t room = most_contexts;
  for (auto c = contexts_by_count.rbegin(); c != contexts_by_count.rend() && c->first >= least_count; ++c) {
    if (c->second > room) {
      least_count = c->first + 1;
      break;
    }
    room -= c->second;
  }
  DraftTable t;
  t.first.push_back(0);
  std::vector<Follower> followers;
  for (std::size_t at = 0, end = 0; at < seen.size(); at = end) {
    end = end_of(at);
    const auto count = static_cast<std::int64_t>(end - at);
    if (count < least_count) continue;
    followers.clear();
    for (std::size_t i = at; i < end; ++i) {
      if (i == at || seen[i].second != seen[i - 1].second) followers.push_back({seen[i].second, 0});
      followers.back().share += 1.0 / static_cast<double>(count);
    }
    append(t, seen[at].first, count, followers);
  }
  return t;
}

void SingleTokens::row(std::span<const float> logits) {
  scratch_.resize(logits.size());
  best_.resize(logits.size());
  for (std::size_t i = 0; i < logits.size(); ++i) best_[i] = {logits[i], static_cast<TokenId>(i)};
  const double sum = exponentials(kernels_, logits, largest(logits), scratch_);
  const std::size_t n = std::min(kDraftFollowers, best_.size());
  std::partial_sort(best_.begin(), best_.begin() + n, best_.end(), std::greater<>());
  NextTokens& next = rows_.emplace_back();
  for (std::size_t i = 0; i < n; ++i) {
    next.tokens[i] = best_[i].second;
    next.probabilities[i] = static_cast<float>(static_cast<double>(scratch_[best_[i].second]) / sum);
  }
}

void sweep_single_tokens(Pipeline& pipeline, const std::vector<TokenId>& prefix, std::int64_t vocab_size,
                         const std::function<void(std::int64_t done)>& progress) {
  const SequenceId parent = pipeline.open({});
  const std::int64_t position = std::ssize(prefix);
  const std::int64_t max_rows = pipeline.limits().max_rows;
  for (std::int64_t at = 0; at < position;) {
    const std::int64_t rows = std::min(position - at, max_rows);
    Frame f;
    f.runs.push_back(FrameRun::consecutive(parent, at, rows));
    f.tokens.assign(prefix.begin() + at, prefix.begin() + at + rows);
    pipeline.submit(std::move(f));
    at += rows;
  }
  std::vector<SequenceId> places;  // each frame begins at the same position of these anew
  SequenceOptions share;
  share.parent = parent;
  share.shared_tokens = position;
  for (std::int64_t i = 0; i < std::min({kSweepRows, max_rows, vocab_size}); ++i)
    places.push_back(pipeline.open(share));
  for (std::int64_t token = 0; token < vocab_size;) {
    Frame f;
    for (std::size_t i = 0; i < places.size() && token < vocab_size; ++i, ++token) {
      f.runs.push_back(FrameRun::consecutive(places[i], position, 1, FrameRun::every_row));
      f.tokens.push_back(static_cast<TokenId>(token));
    }
    pipeline.submit(std::move(f));
    while (pipeline.has_result()) pipeline.next_result();
    progress(token);
  }
  while (pipeline.pending_results() > 0) pipeline.next_result();
  places.push_back(parent);
  for (const SequenceId s : places) pipeline.close(s, {});
  for (const SequenceId s : places) pipeline.closed(s);
}

DraftTable blend_single(const DraftTable& counted, std::span<const NextTokens> expected) {
  DraftTable t;
  t.first.push_back(0);
  std::vector<Follower> followers;
  for (std::size_t token = 0; token < expected.size(); ++token) {
    followers.clear();
    const auto at = counted.find(token);
    const double count = at ? counted.counts[*at] : 0, total = count + kExpectedCount;
    const NextTokens& next = expected[token];
    for (std::size_t i = 0; i < kDraftFollowers; ++i) {
      followers.push_back({next.tokens[i], kExpectedCount * static_cast<double>(next.probabilities[i]) / total});
    }
    for (std::uint32_t i = at ? counted.first[*at] : 0; at && i < counted.first[*at + 1]; ++i) {
      const double share = count * counted.shares[i] / 255 / total;
      const auto same = std::find_if(followers.begin(), followers.end(),
                                     [&](const Follower& f) { return f.token == counted.tokens[i]; });
      if (same == followers.end()) {
        followers.push_back({counted.tokens[i], share});
      } else {
        same->share += share;
      }
    }
    append(t, token, static_cast<std::int64_t>(count), followers);
  }
  return t;
}

}  // namespace jupiter

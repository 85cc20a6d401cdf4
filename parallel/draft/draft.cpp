// Lookup in the sequence itself, and the oracle of the tests.
#include "parallel/draft/draft.hpp"

#include <algorithm>

#include "io/enum_names.hpp"
#include "io/hash.hpp"
#include "kernels/sampler.hpp"
#include "parallel/draft/draft_blender.hpp"

namespace jupiter {

namespace {

constexpr std::array<std::string_view, kDraftSources> kSourceNames = {"lookup", "table",  "heads",
                                                                      "model",  "oracle", "grammar"};

std::uint64_t key_of(DraftContext context, std::size_t order) {
  const DraftContext last = context.last(order);
  std::uint64_t key = order;
  for (const TokenId t : last) key = (key ^ static_cast<std::uint32_t>(t)) * 0x9e3779b97f4a7c15ull ^ (key >> 29);
  return key;
}

}  // namespace

std::string_view name(DraftSource source) {
  return kSourceNames[index_of(source)];
}

void LookupDrafter::Followers::add(TokenId token) {
  std::size_t at = 0;
  while (at < n && tokens[at] != token) ++at;
  std::uint16_t count = 1;
  if (at < n) {
    count = static_cast<std::uint16_t>(std::min(counts[at] + 1, 1000));
  } else if (n < kFollowers) {
    at = n++;
  } else {
    at = kFollowers - 1;
  }
  for (; at > 0; --at) {
    tokens[at] = tokens[at - 1];
    counts[at] = counts[at - 1];
  }
  tokens[0] = token;
  counts[0] = count;
}

bool LookupDrafter::Followers::contains(TokenId token) const {
  return std::find(tokens.begin(), tokens.begin() + n, token) != tokens.begin() + n;
}

const LookupDrafter::Followers* LookupDrafter::find(std::size_t order, DraftContext context) const {
  if (context.size() < order) return nullptr;
  const auto& map = index_[order - 1];
  const auto it = map.find(key_of(context, order));
  return it == map.end() ? nullptr : &it->second;
}

double LookupDrafter::trust(std::size_t order) const {
  // Before anything is counted: long matches are mostly right, single tokens mostly not.
  constexpr std::array<double, kOrders> prior = {0.10, 0.30, 0.40, 0.50, 0.60, 0.75};
  constexpr double weight = 4;
  const std::size_t i = order - 1;
  return (hits_[i] + weight * prior[i]) / (tries_[i] + weight);
}

void LookupDrafter::propose(DraftContext context, std::vector<Proposal>& out) {
  double left = 1;
  for (std::size_t order = kOrders; order > 0 && left > 0.01; --order) {
    const Followers* f = find(order, context);
    if (f == nullptr) continue;
    // Recent ones count more: weight count / (1 + age in the list).
    double sum = 0;
    std::array<double, kFollowers> weight{};
    for (std::size_t i = 0; i < f->n; ++i) sum += weight[i] = f->counts[i] / static_cast<double>(1 + i);
    const double here = left * trust(order);
    for (std::size_t i = 0; i < f->n; ++i) {
      out.push_back({f->tokens[i], static_cast<float>(here * weight[i] / sum), DraftSource::lookup});
    }
    left -= here;
  }
}

void LookupDrafter::observe(DraftContext context, TokenId token) {
  bool found = false;
  for (std::size_t order = std::min(kOrders, context.size()); order > 0; --order) {
    Followers& f = index_[order - 1].try_emplace(key_of(context, order)).first->second;
    if (f.n > 0 && !found) {  // shorter matches are asked only where longer ones were wrong
      found = f.contains(token);
      tries_[order - 1] += 1;
      hits_[order - 1] += found ? 1 : 0;
    }
    f.add(token);
  }
}

OracleDrafter::OracleDrafter(std::vector<TokenId> tokens, double hit_rate, std::int64_t vocab_size, std::uint64_t seed)
    : tokens_(std::move(tokens)), hit_rate_(hit_rate), vocab_size_(vocab_size), seed_(seed) {}

void OracleDrafter::propose(DraftContext context, std::vector<Proposal>& out) {
  if (context.size() >= tokens_.size()) return;
  TokenId token = tokens_[context.size()];
  const double u = uniform(seed_, std::ssize(context), 0);
  if (u >= hit_rate_) token = static_cast<TokenId>((token + 1) % vocab_size_);
  out.push_back({token, static_cast<float>(hit_rate_), DraftSource::oracle});
}

std::vector<Proposal> DraftMixer::propose(DraftContext context, std::size_t count, const DraftWorth& worth) const {
  std::vector<Proposal> all, one;
  double left = 1;
  for (const auto& drafter : drafters_) {
    one.clear();
    drafter->propose(context, one);
    double used = 0;
    for (Proposal p : one) {
      used += p.probability;
      p.probability = static_cast<float>(p.probability * left);
      const auto same = std::find_if(all.begin(), all.end(), [&](const Proposal& a) { return a.token == p.token; });
      if (same == all.end()) {
        all.push_back(p);
      } else {
        same->probability += p.probability;
      }
    }
    left *= 1 - std::min(used, 1.0);
  }
  if (blender_) blender_->blend(context, worth, all);
  const auto likelier = [](const Proposal& a, const Proposal& b) {
    return a.probability != b.probability ? a.probability > b.probability : a.token < b.token;
  };
  const auto n = static_cast<std::ptrdiff_t>(std::min(count, all.size()));
  std::partial_sort(all.begin(), all.begin() + n, all.end(), likelier);
  all.resize(n);
  return all;
}

void DraftMixer::set_hidden(std::span<const float> hidden) const {
  if (blender_) blender_->set_hidden(hidden);
}

void DraftMixer::observe(DraftContext context, TokenId token) const {
  for (const auto& d : drafters_) d->observe(context, token);
  if (blender_) blender_->observe(context, token);
}

void DraftMixer::prefetch(DraftContext decided) const {
  if (blender_) blender_->prefetch(decided);
}

bool DraftMixer::has_news() const {
  return blender_ && blender_->has_news();
}

NeuralUse DraftMixer::neural_use() const {
  return blender_ ? blender_->use() : NeuralUse{};
}

}  // namespace jupiter

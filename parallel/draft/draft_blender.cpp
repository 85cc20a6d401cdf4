// Blending of a neural drafter's guesses with those of the drafters that cost nothing.
#include "parallel/draft/draft_blender.hpp"

#include <algorithm>
#include <chrono>

#include "io/timer.hpp"

namespace jupiter {

namespace {

// A context belongs to the first class whose bound is above the others' highest probability.
constexpr std::array<double, 4> kConfidenceBelow = {0.25, 0.6, 0.85, 2};
// What is assumed before anything is counted, by class: the network's weight in the mixture, and what it adds to the
// probability of the right token. Both count as much as kPriorTokens observed tokens.
constexpr std::array<double, 4> kPriorWeight = {0.8, 0.65, 0.5, 0.3}, kPriorGain = {0.35, 0.2, 0.1, 0.03};
constexpr double kPriorTokens = 10;
constexpr double kLeastJoint = 0.04;  // a context that is less likely than this is never worth a question
constexpr double kNewest = 0.1;       // weight of a new time in the running mean
constexpr std::int64_t kTrials = 4;   // questions that are asked before time and gain decide

double probability_of(const std::vector<Proposal>& proposals, TokenId token) {
  for (const Proposal& p : proposals) {
    if (p.token == token) return static_cast<double>(p.probability);
  }
  return 0;
}

}  // namespace

std::size_t DraftBlender::confidence_of(const std::vector<Proposal>& others) {
  double most = 0;
  for (const Proposal& p : others) most = std::max(most, static_cast<double>(p.probability));
  std::size_t i = 0;
  while (most >= kConfidenceBelow[i]) ++i;
  return i;
}

double DraftBlender::weight(std::size_t i) const {
  return (weight_sum_[i] + kPriorTokens * kPriorWeight[i]) / (weight_count_[i] + kPriorTokens);
}

double DraftBlender::gain(std::size_t i) const {
  return (gain_sum_[i] + kPriorTokens * kPriorGain[i]) / (weight_count_[i] + kPriorTokens);
}

// The network gets what the others leave open.
DraftBlender::Shares DraftBlender::shares(const Node& node) const {
  double said = 0, guessed = 0;
  for (const Proposal& p : node.others) said += static_cast<double>(p.probability);
  for (const DraftGuess& g : node.guesses) guessed += static_cast<double>(g.probability);
  const double others = 1 - weight(node.confidence);
  const double trusted = guessed > 0 ? std::min(calibration_.trust(), 1 / guessed) : 0;
  return {others, (1 - others * std::min(said, 1.0)) * trusted};
}

void DraftBlender::learn(const Node& node, TokenId token) {
  double guessed = 0;
  for (const DraftGuess& g : node.guesses) {
    calibration_.promised += static_cast<double>(g.probability);
    if (g.token == token) guessed = static_cast<double>(g.probability);
  }
  calibration_.hits += guessed > 0 ? 1 : 0;
  const double others = probability_of(node.others, token), w = weight(node.confidence);
  const Shares s = shares(node);
  gain_sum_[node.confidence] += s.others * others + s.network * guessed - others;
  // The posterior probability that the token came from the network's side of the mixture; the prior where neither side
  // named it.
  weight_sum_[node.confidence] += guessed + others > 0 ? w * guessed / (w * guessed + (1 - w) * others) : w;
  weight_count_[node.confidence] += 1;
}

void DraftBlender::observe(DraftContext context, TokenId token) {
  if (!nodes_.empty() && context.size() >= root_) {
    const DraftContext path = context.subspan(root_ - 1);
    const auto node = nodes_.find({path.begin(), path.end()});
    if (node != nodes_.end()) learn(node->second, token);
  }
  decided_ = context.size() + 1;
  stale_ = true;
}

// Null where the network has nothing to say (yet).
const DraftBlender::Node* DraftBlender::ask(DraftContext context, const std::vector<Proposal>& others) {
  const DraftContext path = context.subspan(root_ - 1);
  const auto [node, fresh] = nodes_.try_emplace({path.begin(), path.end()});
  if (!fresh) return &node->second;
  const auto start = std::chrono::steady_clock::now();
  node->second = {others, network_->guess(context, root_ - 1), confidence_of(others)};
  const double seconds = seconds_since(start);
  cost_s_ += (use_.asked == 0 ? 1 : kNewest) * (seconds - cost_s_);
  ++use_.asked;
  use_.seconds += seconds;
  if (!node->second.guesses.empty()) return &node->second;
  nodes_.erase(node);
  return nullptr;
}

void DraftBlender::blend(DraftContext context, const DraftWorth& worth, std::vector<Proposal>& proposals) {
  if (hidden_.empty() || context.size() < decided_) return;
  const std::size_t confidence = confidence_of(proposals);
  if (worth.joint < kLeastJoint) return;
  if (thrifty_ && use_.asked >= kTrials && worth.joint * gain(confidence) * worth.token_s <= cost_s_) return;
  if (stale_) {
    nodes_.clear();
    network_->begin(hidden_);
    root_ = decided_;
    stale_ = false;
  }
  const Node* node = ask(context, proposals);
  if (node == nullptr) return;
  const Shares s = shares(*node);
  for (Proposal& p : proposals) p.probability = static_cast<float>(s.others * static_cast<double>(p.probability));
  for (const DraftGuess& g : node->guesses) {
    const auto p = static_cast<float>(s.network * static_cast<double>(g.probability));
    const auto same =
        std::find_if(proposals.begin(), proposals.end(), [&](const Proposal& x) { return x.token == g.token; });
    if (same == proposals.end()) {
      proposals.push_back({g.token, p, source_});
    } else {
      if (p > same->probability) same->source = source_;
      same->probability += p;
    }
  }
}

}  // namespace jupiter

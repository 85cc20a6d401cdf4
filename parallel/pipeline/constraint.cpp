// The best token is tried first, since it is mostly allowed; a mask of the whole vocabulary is made where it is not.
#include "parallel/pipeline/constraint.hpp"

#include <algorithm>
#include <bit>
#include <limits>

namespace jupiter {

namespace {

// How likely the longest token is that begins what the grammar forces: models split texts in other ways now and then.
constexpr float kForced = 0.9f;
constexpr std::size_t kForcedBytes = 64;

void scale(std::vector<Proposal>& drafts, float factor) {
  for (Proposal& d : drafts) d.probability *= factor;
}

float sum_of(const std::vector<Proposal>& drafts) {
  float sum = 0;
  for (const Proposal& d : drafts) sum += d.probability;
  return sum;
}

}  // namespace

Constraint::Constraint(std::shared_ptr<Matcher> matcher, std::int64_t answer_position, std::vector<TokenId> end_tokens)
    : matcher_(std::move(matcher)),
      answer_position_(answer_position),
      end_tokens_(std::move(end_tokens)),
      followed_(answer_position),
      state_(matcher_->start()) {}

bool Constraint::is_end(TokenId token) const {
  return std::find(end_tokens_.begin(), end_tokens_.end(), token) != end_tokens_.end();
}

bool Constraint::may_end(State state) const {
  return state >= 0 && matcher_->may_end(state);
}

Constraint::State Constraint::after(State state, TokenId token) {
  if (state < 0) return kRefused;
  if (is_end(token)) return may_end(state) ? kEnded : kRefused;
  return matcher_->next_token(state, token);
}

Constraint::State Constraint::follow(std::span<const TokenId> history) {
  if (std::ssize(history) < followed_) {
    followed_ = answer_position_;
    state_ = matcher_->start();
  }
  for (; followed_ < std::ssize(history); ++followed_) state_ = after(state_, history[followed_]);
  if (matcher_->states() > kMostStates && state_ >= 0) {
    auto fresh = std::make_shared<Matcher>(matcher_->grammar(), matcher_->shared_vocabulary());
    state_ = fresh->adopt(*matcher_, state_);
    matcher_ = std::move(fresh);
  }
  return state_;
}

// Where nothing may follow, the answer ends: with nothing left to say, or because no token spells what should follow.
std::vector<float> Constraint::masked(std::span<const float> logits) {
  std::vector<float> out(logits.size(), -std::numeric_limits<float>::infinity());
  const TokenMask* mask = state_ >= 0 ? &matcher_->mask(state_) : nullptr;
  const bool may_follow = mask != nullptr && mask->count > 0;
  for (std::size_t word = 0; may_follow && word < mask->bits.size(); ++word) {
    for (std::uint64_t bits = mask->bits[word]; bits != 0; bits &= bits - 1) {
      const std::size_t t = 64 * word + static_cast<std::size_t>(std::countr_zero(bits));
      if (t < out.size()) out[t] = logits[t];
    }
  }
  const bool ends = !may_follow || may_end(state_);
  for (const TokenId t : end_tokens_) {
    if (t < 0 || t >= std::ssize(out)) continue;
    out[t] = ends ? logits[t] : -std::numeric_limits<float>::infinity();
  }
  return out;
}

TokenId Constraint::draw(const KernelTable& kernels, std::span<const float> logits, const SamplingOptions& options,
                         std::span<const TokenId> history) {
  const State state = follow(history);
  const std::int64_t position = std::ssize(history);
  if (options.temperature <= 0) {
    const TokenId best = sample(kernels, logits, options, history, position);
    if (after(state, best) != kRefused) return best;
  }
  return sample(kernels, masked(logits), options, history, position);
}

void Constraint::filter(State state, std::size_t count, std::vector<Proposal>& drafts) {
  const float before = sum_of(drafts);
  std::erase_if(drafts, [&](const Proposal& d) { return after(state, d.token) == kRefused; });
  // What was refused is shared by what is left.
  const float left = sum_of(drafts), refused = before - left;
  if (refused > 0 && left > 0) scale(drafts, std::min(1 / (1 - std::min(refused, 0.99f)), 1 / left));
  const std::string text = state >= 0 ? matcher_->forced(state, kForcedBytes) : "";
  const TokenId forced = matcher_->vocabulary().longest_prefix(text);
  if (forced < 0) return;
  std::erase_if(drafts, [&](const Proposal& d) { return d.token == forced; });
  const float others = sum_of(drafts);
  if (others > 0) scale(drafts, std::min(1.0f, (1 - kForced) / others));
  drafts.insert(drafts.begin(), {forced, kForced, DraftSource::grammar});
  if (drafts.size() > count) drafts.resize(count);
}

std::shared_ptr<Matcher> MatcherCache::get(const GrammarSpec& grammar) {
  const auto known = std::find_if(matchers_.begin(), matchers_.end(), [&](const auto& m) {
    return m->grammar() == grammar && m->states() <= Constraint::kMostStates;
  });
  std::shared_ptr<Matcher> matcher;
  if (known != matchers_.end()) {
    matcher = *known;
    matchers_.erase(known);
  } else {
    std::erase_if(matchers_, [&](const auto& m) { return m->grammar() == grammar; });
    matcher = std::make_shared<Matcher>(grammar, vocabulary_);
  }
  matchers_.insert(matchers_.begin(), matcher);
  if (matchers_.size() > kMost) matchers_.pop_back();
  return matcher;
}

}  // namespace jupiter

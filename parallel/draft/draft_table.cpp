// Blending as in prediction by partial matching (Cleary and Witten 1984), with counts that were made beforehand.
#include "parallel/draft/draft_table.hpp"

#include <algorithm>

namespace jupiter {

namespace {

constexpr double kEscape = 2;  // a context counts as if something new had followed it so many times

}  // namespace

std::vector<TableDrafter::Guess> TableDrafter::followers(std::size_t order, DraftContext context) const {
  std::vector<Guess> guesses;
  if (context.size() < order) return guesses;
  const DraftTable& t = data_->tables[order - 1];
  const auto at = t.find(draft_key(context.last(order), data_->identity.vocab_size));
  if (!at) return guesses;
  const double count = t.counts[*at] + (order == 1 ? kExpectedCount : 0), known = count / (count + kEscape);
  for (std::uint32_t i = t.first[*at]; i < t.first[*at + 1]; ++i) {
    guesses.push_back({t.tokens[i], known * t.shares[i] / 255});
  }
  return guesses;
}

void TableDrafter::propose(DraftContext context, std::vector<Proposal>& out) {
  double left = 1;
  for (std::size_t order = kDraftOrders; order > 0 && left > 0.01; --order) {
    double used = 0;
    for (const Guess& g : followers(order, context)) {
      const double p = std::min(g.probability * calibrations_[order - 1].trust(), 1 - used);
      used += p;
      out.push_back({g.token, static_cast<float>(left * p), DraftSource::table});
    }
    left *= 1 - used;
  }
}

void TableDrafter::observe(DraftContext context, TokenId token) {
  for (std::size_t order = kDraftOrders; order > 0; --order) {
    const auto guesses = followers(order, context);
    if (guesses.empty()) continue;
    for (const Guess& g : guesses) {
      calibrations_[order - 1].promised += g.probability;
      calibrations_[order - 1].hits += g.token == token ? 1 : 0;
    }
    return;  // shorter contexts are asked where longer ones know nothing
  }
}

}  // namespace jupiter

// The drafter that asks n-gram tables, which a model made of its own answers: what followed one, two and three tokens.
#pragma once

#include "io/model/draft_file.hpp"
#include "parallel/draft/draft.hpp"

namespace jupiter {

// The longest context is asked first. Its entry gets as much of the probability as its count is worth, and the rest
// goes to the next shorter context (blending as in prediction by partial matching). How well each length of context
// predicts this sequence is counted as the text goes on.
class TableDrafter : public Drafter {
 public:
  explicit TableDrafter(std::shared_ptr<const DraftData> data) : data_(std::move(data)) {}
  void propose(DraftContext context, std::vector<Proposal>& out) override;
  void observe(DraftContext context, TokenId token) override;

 private:
  struct Guess {
    TokenId token = 0;
    double probability = 0;
  };
  // What the table of contexts of `order` tokens says, as shares of a probability of 1.
  std::vector<Guess> followers(std::size_t order, DraftContext context) const;

  std::shared_ptr<const DraftData> data_;
  std::array<Calibration, kDraftOrders> calibrations_{};  // by length of the context
};

}  // namespace jupiter

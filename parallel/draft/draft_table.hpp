// The drafter that a model made of its own answers: tables of what followed one, two and three tokens in them.
#pragma once

#include "io/model/draft_file.hpp"
#include "parallel/draft/draft.hpp"

namespace jupiter {

// Longest context first; an entry speaks for as much as its count is worth, the rest goes to the shorter context. How
// well each length keeps its promises is counted as the text goes on.
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
  // What the table of `order` tokens says, of a probability of 1.
  std::vector<Guess> followers(std::size_t order, DraftContext context) const;
  double trust(std::size_t order) const;

  std::shared_ptr<const DraftData> data_;
  std::array<double, kDraftOrders> hits_{}, promised_{};
};

}  // namespace jupiter

// A draft model on another rank than the last one: it computes while that rank waits for frames. The last rank tells
// it what is decided; it goes on from there, always with its likeliest token, and tells what it thinks at every step.
// Nobody waits for either message (parallel/DESIGN.md, decision 9): a guess that comes too late for one segment joins a
// later one.
#pragma once

#include "parallel/comm/channel.hpp"
#include "parallel/draft_model/draft_model.hpp"
#include "parallel/pipeline/pipeline.hpp"

namespace jupiter {

// Decided tokens, as a change of those told before: their first `kept`, then `tokens`.
struct ContextChange {
  std::uint32_t kept = 0;
  std::vector<TokenId> tokens;
};
// What may follow the context with this hash (XXH3 of its token ids).
struct ContextGuesses {
  std::uint64_t context_hash = 0;
  std::vector<HeadGuess> guesses;
};
Message encode_context(std::uint64_t id, const ContextChange& change);
Message encode_guesses(std::uint64_t id, const ContextGuesses& guesses);
// PeerError where sizes, ids or probabilities are outside their limits.
ContextChange decode_context(const Message& message, const FrameLimits& limits);
ContextGuesses decode_guesses(const Message& message, const FrameLimits& limits);

// On the rank with the model: goes on from the newest context until it has said enough about it.
class DraftServer : public IdleWork {
 public:
  // What is enough.
  struct Enough {
    std::size_t tokens = 12;  // beyond the decided ones
    double sureness = 0.02;   // of a chain as a whole: less likely ones are not followed
  };
  // limits: of the model that is drafted for. last_rank: who asks.
  DraftServer(const MpiSession& mpi, int last_rank, std::unique_ptr<DraftModel> model, const FrameLimits& limits,
              const Enough& enough);
  void work(const std::function<bool()>& wanted) override;
  double spent_s() const override { return spent_s_; }

 private:
  void take(const ContextChange& change);
  bool has_work() const;

  std::unique_ptr<DraftModel> model_;
  FrameLimits limits_;
  Enough enough_;
  ReceiveChannel in_;
  SendChannel out_;
  std::vector<TokenId> decided_;
  std::vector<TokenId> context_;  // decided tokens and the likeliest after them; the last one was not answered yet
  std::vector<double> sureness_;  // of each token behind the decided ones, given those before it
  std::uint64_t next_id_ = 1;
  double spent_s_ = 0;
};

// On the last rank: heads that know what came from `rank`. limits: of this model.
std::unique_ptr<HeadMaker> remote_draft_head(const MpiSession& mpi, int rank, const FrameLimits& limits);

}  // namespace jupiter

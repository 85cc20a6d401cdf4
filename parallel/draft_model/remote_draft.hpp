// A draft model on another rank than the last one. It computes while that rank waits for frames. The last rank sends
// the decided tokens; the model goes on from there, always with its likeliest token, and sends its guesses at every
// step. Nobody waits for either message (parallel/DESIGN.md, decision 9): a guess that comes too late for one segment
// joins a later one.
#pragma once

#include "parallel/comm/channel.hpp"
#include "parallel/draft_model/draft_model.hpp"
#include "parallel/pipeline/pipeline.hpp"

namespace jupiter {

// The decided tokens as a change of those sent before: the first `kept` of them, then `tokens`.
struct ContextChange {
  std::uint32_t kept = 0;
  std::vector<TokenId> tokens;
};
// What may follow the context that has this hash (XXH3 of its token ids).
struct ContextGuesses {
  std::uint64_t context_hash = 0;
  std::vector<DraftGuess> guesses;
};
Message encode_context(std::uint64_t id, const ContextChange& change);
Message encode_guesses(std::uint64_t id, const ContextGuesses& guesses);
// PeerError where sizes, ids or probabilities are outside their limits.
ContextChange decode_context(const Message& message, const FrameLimits& limits);
ContextGuesses decode_guesses(const Message& message, const FrameLimits& limits);

// Runs on the rank that has the model, and drafts from the newest context until enough is said about it.
class DraftServer : public IdleWork {
 public:
  // How far it drafts.
  struct Enough {
    std::size_t tokens = 12;   // beyond the decided ones
    double confidence = 0.02;  // a chain of tokens that is less probable than this as a whole is not followed
  };
  // limits: those of the model that is drafted for. last_rank: the rank that gets the guesses.
  DraftServer(const MpiSession& mpi, int last_rank, std::unique_ptr<DraftModel> model, const FrameLimits& limits,
              const Enough& enough);
  void work(const std::function<bool()>& should_yield) override;
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
  std::vector<TokenId> context_;     // decided tokens and the likeliest after them; the next pass guesses what follows
  std::vector<double> confidences_;  // probability of each token after the decided ones, given those before it
  std::uint64_t next_id_ = 1;
  double spent_s_ = 0;
};

// The last rank's drafters, which use the guesses that come from `rank`. limits: those of this model.
std::unique_ptr<NeuralDrafterFactory> remote_model_drafters(const MpiSession& mpi, int rank, const FrameLimits& limits);

}  // namespace jupiter

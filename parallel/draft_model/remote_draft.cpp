// Guesses name their context by its hash. So no question is needed: guesses about another context are not used.
#include "parallel/draft_model/remote_draft.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>

#include "io/hash.hpp"
#include "io/timer.hpp"

namespace jupiter {

namespace {

constexpr std::size_t kMostGuesses = 16;       // guesses in one message
constexpr std::size_t kMostKnown = 256;        // contexts that the last rank remembers
constexpr std::int64_t kIdleRows = 8;          // rows of one piece of idle work, for which a frame may have to wait
constexpr std::uint64_t kGuessesBytes = 1024;  // of one message, headers included

std::uint64_t hash_of(DraftContext context) {
  return hash_bytes(context.data(), context.size_bytes());
}

PeerError wrong(const std::string& what, const std::string& expected, const std::string& found) {
  return PeerError(what + ": expected " + expected + ", found " + found);
}

void check_kind(const Message& m, MessageKind kind, const std::string& what) {
  if (m.kind != kind) throw wrong("draft model", what, "kind " + std::to_string(static_cast<int>(m.kind)));
}

void check_token(TokenId token, const FrameLimits& limits) {
  if (token < 0 || token >= limits.vocab_size) {
    throw wrong("token of the draft model", "less than " + std::to_string(limits.vocab_size), std::to_string(token));
  }
}

std::uint64_t context_bytes(const FrameLimits& limits) {
  return 64 + static_cast<std::uint64_t>(limits.max_position + 1) * sizeof(TokenId);
}

// What the drafters of all sequences share. The model drafts for the newest sequence only; the previous turn of a
// conversation may still be open.
struct Remote {
  Remote(const MpiSession& mpi, int rank, const FrameLimits& frame_limits)
      : limits(frame_limits), out(mpi, rank, Tag::context), in(mpi, rank, Tag::guesses, kGuessesBytes) {}

  void poll() {
    out.poll();
    in.poll();
    while (const auto m = in.receive()) {
      ContextGuesses g = decode_guesses(*m, limits);
      if (!known.contains(g.context_hash)) order.push_back(g.context_hash);
      known[g.context_hash] = std::move(g.guesses);
      news = true;
      if (order.size() <= kMostKnown) continue;
      known.erase(order.front());
      order.pop_front();
    }
  }

  void tell(DraftContext context) {
    const auto same = std::mismatch(told.begin(), told.end(), context.begin(), context.end());
    const auto kept = static_cast<std::size_t>(same.first - told.begin());
    const DraftContext fresh = context.subspan(kept);
    ContextChange c;
    c.kept = static_cast<std::uint32_t>(kept);
    for (const TokenId token : fresh) c.tokens.push_back(token);
    if (c.tokens.empty() && c.kept == told.size()) return;
    told.assign(context.begin(), context.end());
    out.send(encode_context(next_id++, c));
  }

  FrameLimits limits;
  SendChannel out;
  ReceiveChannel in;
  std::map<std::uint64_t, std::vector<DraftGuess>> known;
  std::deque<std::uint64_t> order;  // the keys of `known`, oldest first
  std::vector<TokenId> told;        // the context as the other rank knows it
  std::uint64_t next_id = 1;
  bool news = false;
  ExclusiveUse use;
};

class RemoteModelDrafter : public NeuralDrafter {
 public:
  explicit RemoteModelDrafter(std::shared_ptr<Remote> remote) : remote_(std::move(remote)) {}
  RemoteModelDrafter(const RemoteModelDrafter&) = delete;
  RemoteModelDrafter& operator=(const RemoteModelDrafter&) = delete;
  ~RemoteModelDrafter() override { remote_->use.release(this); }

  void begin(std::span<const float>) override {}
  std::vector<DraftGuess> guess(DraftContext context, std::size_t root) override {
    if (!remote_->use.take_if_free(this)) return {};
    remote_->tell(context.first(root + 1));
    remote_->poll();
    remote_->news = false;
    const auto known = remote_->known.find(hash_of(context));
    return known == remote_->known.end() ? std::vector<DraftGuess>{} : known->second;
  }
  void prefetch(DraftContext decided) override {
    remote_->use.take(this);
    remote_->tell(decided);
  }
  bool has_news() override {
    if (!remote_->use.has(this)) return false;
    remote_->poll();
    return remote_->news;
  }

 private:
  std::shared_ptr<Remote> remote_;
};

class RemoteModelFactory : public NeuralDrafterFactory {
 public:
  explicit RemoteModelFactory(std::shared_ptr<Remote> remote) : remote_(std::move(remote)) {}
  std::unique_ptr<NeuralDrafter> make() const override { return std::make_unique<RemoteModelDrafter>(remote_); }

 private:
  std::shared_ptr<Remote> remote_;
};

}  // namespace

std::unique_ptr<NeuralDrafterFactory> remote_model_drafters(const MpiSession& mpi, int rank,
                                                            const FrameLimits& limits) {
  return std::make_unique<RemoteModelFactory>(std::make_shared<Remote>(mpi, rank, limits));
}

Message encode_context(std::uint64_t id, const ContextChange& change) {
  Message m{MessageKind::context, id, {}};
  PayloadWriter w(m.payload);
  w.value(change.kept);
  w.array(std::span<const TokenId>(change.tokens));
  return m;
}

ContextChange decode_context(const Message& message, const FrameLimits& limits) {
  check_kind(message, MessageKind::context, "a context");
  PayloadReader r(message.payload);
  ContextChange c;
  c.kept = r.value<std::uint32_t>();
  c.tokens = r.array<TokenId>(static_cast<std::size_t>(limits.max_position) + 1);
  r.end();
  for (const TokenId t : c.tokens) check_token(t, limits);
  return c;
}

Message encode_guesses(std::uint64_t id, const ContextGuesses& guesses) {
  Message m{MessageKind::guesses, id, {}};
  PayloadWriter w(m.payload);
  w.value(guesses.context_hash);
  w.array(std::span<const DraftGuess>(guesses.guesses));
  return m;
}

ContextGuesses decode_guesses(const Message& message, const FrameLimits& limits) {
  check_kind(message, MessageKind::guesses, "guesses");
  PayloadReader r(message.payload);
  ContextGuesses g;
  g.context_hash = r.value<std::uint64_t>();
  g.guesses = r.array<DraftGuess>(kMostGuesses);
  r.end();
  for (const DraftGuess& guess : g.guesses) {
    check_token(guess.token, limits);
    if (!(guess.probability >= 0 && guess.probability <= 1)) {
      throw wrong("draft model", "a probability from 0 to 1", std::to_string(guess.probability));
    }
  }
  return g;
}

DraftServer::DraftServer(const MpiSession& mpi, int last_rank, std::unique_ptr<DraftModel> model,
                         const FrameLimits& limits, const Enough& enough)
    : model_(std::move(model)),
      limits_(limits),
      enough_(enough),
      in_(mpi, last_rank, Tag::context, context_bytes(limits)),
      out_(mpi, last_rank, Tag::guesses) {}

// Where the newly decided tokens are those that the model had guessed, the rest of its chain stays.
void DraftServer::take(const ContextChange& change) {
  if (change.kept > decided_.size()) {
    throw wrong("context for the draft model", "at most " + std::to_string(decided_.size()) + " kept tokens",
                std::to_string(change.kept));
  }
  const std::size_t before = decided_.size();
  decided_.resize(change.kept);
  decided_.insert(decided_.end(), change.tokens.begin(), change.tokens.end());
  const bool guessed = change.kept == before && decided_.size() <= context_.size() &&
                       std::equal(decided_.begin(), decided_.end(), context_.begin());
  if (guessed) {
    confidences_.erase(confidences_.begin(), confidences_.begin() + (decided_.size() - before));
  } else {
    context_ = decided_;
    confidences_.clear();
  }
}

bool DraftServer::has_work() const {
  if (context_.empty() || confidences_.size() > enough_.tokens) return false;
  double all = 1;
  for (const double p : confidences_) all *= p;
  return all >= enough_.confidence;
}

void DraftServer::work(const std::function<bool()>& should_yield) {
  in_.poll();
  out_.poll();
  while (const auto m = in_.receive()) take(decode_context(*m, limits_));
  if (!has_work()) return;
  const auto start = std::chrono::steady_clock::now();
  const auto guesses = model_->step(context_, kIdleRows, should_yield);
  if (guesses) {
    out_.send(encode_guesses(next_id_++, {hash_of(context_), *guesses}));
    if (guesses->empty()) {  // longer than the draft model's own context
      confidences_.push_back(0);
      context_.push_back(0);
    } else {
      confidences_.push_back(static_cast<double>(guesses->front().probability));
      context_.push_back(guesses->front().token);
    }
  }
  spent_s_ += seconds_since(start);
}

}  // namespace jupiter

// Questions and answers over a channel in each direction.
#include "parallel/pipeline/shared_head.hpp"

#include <algorithm>
#include <string>

#include "io/error.hpp"

namespace jupiter {

SharedHead::SharedHead(const MpiSession& mpi, std::vector<Helper> helpers, std::uint64_t max_message_bytes)
    : helpers_(std::move(helpers)) {
  for (const Helper& h : helpers_) {
    peers_.push_back({SendChannel(mpi, h.rank, Tag::head), ReceiveChannel(mpi, h.rank, Tag::head, max_message_bytes)});
  }
}

void SharedHead::ask(const Message& message) {
  for (Peer& p : peers_) p.out.send(Message(message));
}

std::vector<Message> SharedHead::answers() {
  std::vector<Message> all;
  for (std::size_t i = 0; i < peers_.size(); ++i) {
    const std::string who = "rank " + std::to_string(helpers_[i].rank) + " (shares the output head)";
    wait_politely(
        [&] {
          poll();
          if (auto m = peers_[i].in.receive()) all.push_back(std::move(*m));
          return all.size() > i;
        },
        who);
    if (all.back().kind == MessageKind::head_logits) continue;
    throw PeerError(who + ": expected logits, found a message of kind " +
                    std::to_string(static_cast<int>(all.back().kind)));
  }
  return all;
}

void SharedHead::poll() {
  for (Peer& p : peers_) {
    p.out.poll();
    p.in.poll();
  }
}

bool SharedHead::idle() const {
  return std::all_of(peers_.begin(), peers_.end(), [](const Peer& p) { return p.out.idle(); });
}

std::uint64_t SharedHead::sent_bytes() const {
  std::uint64_t sum = 0;
  for (const Peer& p : peers_) sum += p.out.stats().bytes;
  return sum;
}

HeadHelper::HeadHelper(const MpiSession& mpi, int last, std::uint64_t max_message_bytes)
    : out_(mpi, last, Tag::head), in_(mpi, last, Tag::head, max_message_bytes) {}

void HeadHelper::answer(const std::function<Message(const Message& asked)>& compute) {
  poll();
  while (const auto asked = in_.receive()) {
    out_.send(compute(*asked));
    out_.poll();
  }
}

void HeadHelper::poll() {
  out_.poll();
  in_.poll();
}

}  // namespace jupiter

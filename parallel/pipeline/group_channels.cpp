// Pieces are numbered, so that boards which are not at the same gather notice it.
#include "parallel/pipeline/group_channels.hpp"

#include <algorithm>

#include "io/timer.hpp"

namespace jupiter {

GroupChannels::GroupChannels(const MpiSession& mpi, std::uint64_t max_message_bytes, std::chrono::seconds deadline)
    : board_(mpi.board()), deadline_(deadline) {
  const std::vector<int> ranks = mpi.group(mpi.stage());
  for (int b = 0; b < static_cast<int>(ranks.size()); ++b) {
    const int rank = ranks[static_cast<std::size_t>(b)];
    if (b == board_) continue;
    peers_.push_back({b, rank, SendChannel(mpi, rank, Tag::piece),
                      ReceiveChannel(mpi, rank, Tag::piece, max_message_bytes), SendChannel(mpi, rank, Tag::group),
                      ReceiveChannel(mpi, rank, Tag::group, max_message_bytes)});
  }
}

void GroupChannels::poll() {
  for (Peer& p : peers_) {
    p.pieces_out.poll();
    p.pieces_in.poll();
    p.out.poll();
    p.in.poll();
  }
}

bool GroupChannels::idle() const {
  return std::all_of(peers_.begin(), peers_.end(), [](const Peer& p) { return p.pieces_out.idle() && p.out.idle(); });
}

// meanwhile: what is to be done while the message is on its way.
Message GroupChannels::wait_for(Peer& peer, ReceiveChannel& channel, MessageKind kind,
                                const std::function<void()>& meanwhile) {
  std::optional<Message> message;
  wait_politely(
      [&] {
        poll();
        if (!message) message = channel.receive();
        if (meanwhile) meanwhile();
        return message.has_value();
      },
      "rank " + std::to_string(peer.rank) + " (board " + std::to_string(peer.board) + " of the tensor group)",
      deadline_);
  if (message->kind != kind) {
    throw PeerError("rank " + std::to_string(peer.rank) + " of the tensor group: expected a message of kind " +
                    std::to_string(static_cast<int>(kind)) + ", found " +
                    std::to_string(static_cast<int>(message->kind)));
  }
  return std::move(*message);
}

void GroupChannels::send(std::vector<std::byte> mine) {
  ++sent_;
  ++stats_.gathers;
  stats_.sent_bytes += mine.size() * peers_.size();
  for (std::size_t i = 0; i + 1 < peers_.size(); ++i) {
    peers_[i].pieces_out.send({MessageKind::piece, sent_, mine});
  }
  peers_.back().pieces_out.send({MessageKind::piece, sent_, std::move(mine)});
}

void GroupChannels::receive(const Take& take) {
  ++received_;
  const auto start = Clock::now();
  std::vector<bool> taken(peers_.size());
  const auto take_piece = [&](std::size_t i, const Message& m) {
    if (m.id != received_) {
      throw PeerError("rank " + std::to_string(peers_[i].rank) + " of the tensor group: expected piece " +
                      std::to_string(received_) + ", found " + std::to_string(m.id));
    }
    take(peers_[i].board, m.payload);
    taken[i] = true;
  };
  for (std::size_t i = 0; i < peers_.size(); ++i) {
    if (taken[i]) continue;
    const Message m = wait_for(peers_[i], peers_[i].pieces_in, MessageKind::piece, [&] {
      for (std::size_t k = i + 1; k < peers_.size(); ++k) {
        if (taken[k]) continue;
        if (const auto piece = peers_[k].pieces_in.receive()) take_piece(k, *piece);
      }
    });
    take_piece(i, m);
  }
  stats_.wait_s += seconds_since(start);
}

void GroupChannels::command(const Message& message) {
  for (Peer& p : peers_) p.out.send(Message(message));
}

std::vector<Message> GroupChannels::answers(MessageKind kind) {
  std::vector<Message> all;
  for (Peer& p : peers_) all.push_back(wait_for(p, p.in, kind, {}));
  return all;
}

std::optional<Message> GroupChannels::next_command() {
  return peers_.front().in.receive();
}

void GroupChannels::answer(Message&& message) {
  peers_.front().out.send(std::move(message));
}

}  // namespace jupiter

// The boards of a tensor group, over MPI. In the middle of a layer every board sends every other one its piece, without
// a pass through any of them. Between frames the leader, which alone speaks with other stages, tells the others what to
// do: they apply the same verdicts, frames and ends in the same order, so their caches stay alike.
#pragma once

#include <optional>
#include <vector>

#include "kernels/tensor_group.hpp"
#include "parallel/comm/channel.hpp"

namespace jupiter {

struct GroupStats {
  std::uint64_t gathers = 0;
  std::uint64_t sent_bytes = 0;  // pieces to all other boards
  double wait_s = 0;             // for pieces
};

class GroupChannels : public GroupLink {
 public:
  // Of this rank's group, with mpi.holds_layers(). deadline: of any piece or answer; PeerError names the rank.
  GroupChannels(const MpiSession& mpi, std::uint64_t max_message_bytes, std::chrono::seconds deadline);

  using Take = std::function<void(int board, std::span<const std::byte> piece)>;
  void exchange(std::vector<std::byte> mine, const Take& take) override {
    send(std::move(mine));
    receive(take);
  }
  // The two halves of a gather. Several may be under way; they end in the order in which they began.
  void send(std::vector<std::byte> mine);
  void receive(const Take& take);

  int board() const { return board_; }  // this one; 0 leads
  bool leads() const { return board_ == 0; }

  // The leader's part: a command to all others, and one answer of each of them, by board from 1 on.
  void command(const Message& message);
  std::vector<Message> answers(MessageKind kind);
  // The others' part.
  std::optional<Message> next_command();
  void answer(Message&& message);

  void poll();
  bool idle() const;
  const GroupStats& stats() const { return stats_; }

 private:
  struct Peer {
    int board, rank;
    SendChannel pieces_out;
    ReceiveChannel pieces_in;
    SendChannel out;  // commands, or answers
    ReceiveChannel in;
  };
  Message wait_for(Peer& peer, ReceiveChannel& channel, MessageKind kind, const std::function<void()>& meanwhile);

  int board_ = 0;
  std::chrono::seconds deadline_;
  std::vector<Peer> peers_;
  std::uint64_t sent_ = 0, received_ = 0;  // gathers
  GroupStats stats_;
};

}  // namespace jupiter

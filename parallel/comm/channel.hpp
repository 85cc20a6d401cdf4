// One-way channels between two ranks. A message is cut into parts below MPI's eager limit, so that it moves while both
// sides compute and poll. Every part has a fixed header, which the receiver checks. An operation in flight owns its
// buffer. Only await_message() and flush() wait.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>

#include "parallel/comm/message.hpp"
#include "parallel/comm/mpi.hpp"

namespace jupiter {

enum class Tag : int {
  exchange = 1,
  forward = 2,
  ring = 3,
  measure = 4,
  verdict = 5,
  context = 6,
  guesses = 7,
  group = 8,
  piece = 9,
  head = 10
};

struct ChannelStats {
  std::uint64_t messages = 0;
  std::uint64_t bytes = 0;  // headers included
};

class SendChannel {
 public:
  SendChannel(const MpiSession& mpi, int peer, Tag tag);
  ~SendChannel();
  SendChannel(SendChannel&&) noexcept;

  void send(Message&& message);
  // Moves data and frees the buffers of parts that are sent.
  void poll();
  bool idle() const;  // whether nothing is in flight
  const ChannelStats& stats() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

class ReceiveChannel {
 public:
  // How many messages the channel is for. A channel for one message takes no part of what others send with the same tag
  // after it.
  enum class Count { one, many };
  // A message that claims more than max_message_bytes is refused (PeerError).
  ReceiveChannel(const MpiSession& mpi, int peer, Tag tag, std::uint64_t max_message_bytes, Count count = Count::many);
  ~ReceiveChannel();
  ReceiveChannel(ReceiveChannel&&) noexcept;

  // Moves data. Whole messages wait in a queue until receive() takes them.
  void poll();
  std::optional<Message> receive();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// Waits for the next message and moves the data of `out` meanwhile. PeerError after a minute of silence.
Message await_message(SendChannel& out, ReceiveChannel& in, int peer);
// Waits until everything is sent.
void flush(SendChannel& out, int peer);

}  // namespace jupiter

// One-way channels between two ranks. A message is cut into parts below MPI's eager limit, so that it moves while both
// sides compute and poll; every part has a fixed header that the receiver checks. An operation in flight owns its
// buffer; nothing here blocks.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>

#include "parallel/comm/message.hpp"
#include "parallel/comm/mpi.hpp"

namespace jupiter {

enum class Tag : int { exchange = 1, forward = 2, ring = 3, measure = 4, verdict = 5, context = 6, guesses = 7 };

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
  bool idle() const;  // nothing in flight
  const ChannelStats& stats() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

class ReceiveChannel {
 public:
  // How many messages the channel is for. Where others use the same tag after it, it must take no part of theirs.
  enum class Count { one, many };
  // max_message_bytes: a message that claims more is refused (PeerError).
  ReceiveChannel(const MpiSession& mpi, int peer, Tag tag, std::uint64_t max_message_bytes, Count count = Count::many);
  ~ReceiveChannel();
  ReceiveChannel(ReceiveChannel&&) noexcept;

  // Moves data; whole messages queue up until receive() takes them.
  void poll();
  std::optional<Message> receive();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// The next message, while `out` keeps moving. PeerError after a minute of silence.
Message await_message(SendChannel& out, ReceiveChannel& in, int peer);
// Until everything is sent.
void flush(SendChannel& out, int peer);

}  // namespace jupiter

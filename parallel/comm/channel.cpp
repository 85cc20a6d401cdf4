// Parts in flight as MPI requests that own their buffers.
#include "parallel/comm/channel.hpp"

#include <mpi.h>

#include <array>
#include <cassert>
#include <exception>

namespace jupiter {

namespace {

constexpr std::uint32_t kMagic = 0x4a55'5031;  // "JUP1"
// Below the eager limit of TCP (64 KiB); shared memory has a lower one, but there a rendezvous is cheap.
constexpr std::size_t kPartBytes = 48 << 10;
constexpr std::size_t kPreposted = 8;

struct PartHeader {
  std::uint32_t magic = kMagic;
  std::uint16_t kind = 0;
  std::uint16_t reserved = 0;
  std::uint64_t message = 0;        // Message::id
  std::uint64_t message_bytes = 0;  // payload of the whole message
  std::uint32_t part = 0;
  std::uint32_t part_bytes = 0;  // payload in this part
};
static_assert(sizeof(PartHeader) == 32);

// A request and the memory that MPI reads or writes meanwhile.
struct Pending {
  MPI_Request request = MPI_REQUEST_NULL;
  std::vector<std::byte> buffer;

  bool done(MPI_Status* status) {
    int flag = 0;
    check_mpi(MPI_Test(&request, &flag, status), "MPI_Test");
    return flag != 0;
  }
};

}  // namespace

struct SendChannel::Impl {
  int peer;
  int tag;
  std::deque<std::unique_ptr<Pending>> in_flight;
  ChannelStats stats;

  // While an exception is on its way the peer may be dead: the buffers are leaked rather than waited for.
  ~Impl() {
    if (in_flight.empty()) return;
    if (std::uncaught_exceptions() > 0) {
      for (auto& p : in_flight) (void)p.release();
      return;
    }
    for (auto& p : in_flight) MPI_Wait(&p->request, MPI_STATUS_IGNORE);
  }
};

SendChannel::SendChannel(const MpiSession& mpi, int peer, Tag tag)
    : impl_(new Impl{mpi.world(peer), static_cast<int>(tag), {}, {}}) {}
SendChannel::~SendChannel() = default;
SendChannel::SendChannel(SendChannel&&) noexcept = default;

void SendChannel::send(Message&& message) {
  const std::size_t total = message.payload.size();
  std::size_t at = 0;
  std::uint32_t part = 0;
  do {
    const std::size_t n = std::min(kPartBytes, total - at);
    auto pending = std::make_unique<Pending>();
    const PartHeader header{.kind = static_cast<std::uint16_t>(message.kind),
                            .message = message.id,
                            .message_bytes = total,
                            .part = part++,
                            .part_bytes = static_cast<std::uint32_t>(n)};
    pending->buffer.resize(sizeof header + n);
    std::memcpy(pending->buffer.data(), &header, sizeof header);
    if (n > 0) std::memcpy(pending->buffer.data() + sizeof header, message.payload.data() + at, n);
    check_mpi(MPI_Isend(pending->buffer.data(), static_cast<int>(pending->buffer.size()), MPI_BYTE, impl_->peer,
                        impl_->tag, MPI_COMM_WORLD, &pending->request),
              "MPI_Isend");
    impl_->stats.bytes += pending->buffer.size();
    impl_->in_flight.push_back(std::move(pending));
    at += n;
  } while (at < total);
  ++impl_->stats.messages;
}

void SendChannel::poll() {
  while (!impl_->in_flight.empty() && impl_->in_flight.front()->done(MPI_STATUS_IGNORE)) impl_->in_flight.pop_front();
}

bool SendChannel::idle() const {
  return impl_->in_flight.empty();
}
const ChannelStats& SendChannel::stats() const {
  return impl_->stats;
}

struct ReceiveChannel::Impl {
  int peer;
  int tag;
  std::uint64_t max_message_bytes;
  bool only_one;
  std::deque<std::unique_ptr<Pending>> posted;  // matched by MPI in this order
  Message assembling;
  std::uint64_t assembling_bytes = 0;  // of the whole message
  std::uint32_t next_part = 0;
  std::deque<Message> whole;

  void post(std::unique_ptr<Pending> pending) {
    pending->buffer.resize(sizeof(PartHeader) + kPartBytes);
    check_mpi(MPI_Irecv(pending->buffer.data(), static_cast<int>(pending->buffer.size()), MPI_BYTE, peer, tag,
                        MPI_COMM_WORLD, &pending->request),
              "MPI_Irecv");
    posted.push_back(std::move(pending));
  }

  [[noreturn]] void malformed(const std::string& expected, const std::string& found) const {
    throw PeerError("message from rank " + std::to_string(peer) + ": expected " + expected + ", found " + found);
  }

  void take(const std::vector<std::byte>& buffer, int received) {
    PartHeader h;
    if (received < static_cast<int>(sizeof h)) malformed("a header", std::to_string(received) + " bytes");
    std::memcpy(&h, buffer.data(), sizeof h);
    if (h.magic != kMagic) malformed("this program's messages", "others (different versions?)");
    if (h.part_bytes != static_cast<std::uint32_t>(received) - sizeof h) {
      malformed(std::to_string(h.part_bytes) + " bytes", std::to_string(received - static_cast<int>(sizeof h)));
    }
    if (h.part != next_part) malformed("part " + std::to_string(next_part), std::to_string(h.part));
    if (h.part == 0) {
      if (h.message_bytes > max_message_bytes) {
        malformed("at most " + std::to_string(max_message_bytes) + " bytes", std::to_string(h.message_bytes));
      }
      assembling = Message{static_cast<MessageKind>(h.kind), h.message, {}};
      assembling.payload.reserve(h.message_bytes);
      assembling_bytes = h.message_bytes;
    } else if (h.message != assembling.id || h.message_bytes != assembling_bytes) {
      malformed("message " + std::to_string(assembling.id), std::to_string(h.message));
    }
    if (assembling.payload.size() + h.part_bytes > assembling_bytes) {
      malformed(std::to_string(assembling_bytes) + " bytes", "more");
    }
    const auto* first = buffer.data() + sizeof h;
    assembling.payload.insert(assembling.payload.end(), first, first + h.part_bytes);
    ++next_part;
    if (assembling.payload.size() == assembling_bytes) {
      whole.push_back(std::move(assembling));
      next_part = 0;
    } else if (h.part_bytes == 0) {
      malformed("progress", "an empty part");
    }
  }

  // Receives that never matched are cancelled; while an exception is on its way they are leaked.
  ~Impl() {
    for (auto& p : posted) {
      if (std::uncaught_exceptions() > 0) {
        (void)p.release();
        continue;
      }
      MPI_Cancel(&p->request);
      MPI_Wait(&p->request, MPI_STATUS_IGNORE);
    }
  }
};

ReceiveChannel::ReceiveChannel(const MpiSession& mpi, int peer, Tag tag, std::uint64_t max_message_bytes, Count count)
    : impl_(
          new Impl{mpi.world(peer), static_cast<int>(tag), max_message_bytes, count == Count::one, {}, {}, 0, 0, {}}) {
  const std::size_t posted = count == Count::one ? 1 : kPreposted;
  for (std::size_t i = 0; i < posted; ++i) impl_->post(std::make_unique<Pending>());
}
ReceiveChannel::~ReceiveChannel() = default;
ReceiveChannel::ReceiveChannel(ReceiveChannel&&) noexcept = default;

void ReceiveChannel::poll() {
  MPI_Status status;
  while (!impl_->posted.empty() && impl_->posted.front()->done(&status)) {
    int received = 0;
    MPI_Get_count(&status, MPI_BYTE, &received);
    std::unique_ptr<Pending> pending = std::move(impl_->posted.front());
    impl_->posted.pop_front();
    note_activity();
    impl_->take(pending->buffer, received);
    const bool finished = impl_->only_one && !impl_->whole.empty();
    if (!finished) impl_->post(std::move(pending));
  }
}

Message await_message(SendChannel& out, ReceiveChannel& in, int peer) {
  std::optional<Message> message;
  wait_politely(
      [&] {
        out.poll();
        in.poll();
        message = in.receive();
        return message.has_value();
      },
      "rank " + std::to_string(peer), std::chrono::seconds(60));
  return std::move(*message);
}

void flush(SendChannel& out, int peer) {
  wait_politely(
      [&] {
        out.poll();
        return out.idle();
      },
      "rank " + std::to_string(peer));
}

std::optional<Message> ReceiveChannel::receive() {
  if (impl_->whole.empty()) return std::nullopt;
  Message message = std::move(impl_->whole.front());
  impl_->whole.pop_front();
  return message;
}

}  // namespace jupiter

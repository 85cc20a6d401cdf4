// Gathers go point to point, one peer after the other: they are short and rare. The rest are MPI's collectives.
#include "parallel/comm/collectives.hpp"

#include <mpi.h>

#include <algorithm>
#include <cstring>
#include <span>

#include "parallel/comm/channel.hpp"

namespace jupiter {

namespace {

constexpr std::size_t kMessageBytes = 4 << 20;  // of a gather

// Each message's number says how many bytes follow it.
void send_bytes(const MpiSession& mpi, int peer, std::span<const std::byte> bytes) {
  SendChannel channel(mpi, peer, Tag::exchange);
  do {
    const std::size_t n = std::min(kMessageBytes, bytes.size());
    Message m{MessageKind::exchange, bytes.size() - n, {bytes.begin(), bytes.begin() + n}};
    bytes = bytes.subspan(n);
    channel.send(std::move(m));
    flush(channel, peer);
  } while (!bytes.empty());
}

Message receive_one(const MpiSession& mpi, int peer) {
  ReceiveChannel channel(mpi, peer, Tag::exchange, kMessageBytes, ReceiveChannel::Count::one);
  std::optional<Message> message;
  wait_politely(
      [&] {
        channel.poll();
        message = channel.receive();
        return message.has_value();
      },
      "rank " + std::to_string(peer));
  return std::move(*message);
}

// Memory is taken for what has arrived, never for what is announced.
Bytes receive_bytes(const MpiSession& mpi, int peer) {
  Message m = receive_one(mpi, peer);
  Bytes bytes = std::move(m.payload);
  while (m.id > 0) {
    const std::uint64_t left = m.id;
    m = receive_one(mpi, peer);
    if (m.payload.empty() || m.payload.size() + m.id != left) {
      throw PeerError("exchange with rank " + std::to_string(peer) + ": expected the next of " + std::to_string(left) +
                      " bytes, found " + std::to_string(m.payload.size()) + " before " + std::to_string(m.id));
    }
    bytes.insert(bytes.end(), m.payload.begin(), m.payload.end());
  }
  return bytes;
}

}  // namespace

std::vector<Bytes> gather_bytes(const MpiSession& mpi, Bytes mine) {
  if (mpi.rank() != 0) {
    send_bytes(mpi, 0, mine);
    return {};
  }
  std::vector<Bytes> all{std::move(mine)};
  for (int r = 1; r < mpi.size(); ++r) all.push_back(receive_bytes(mpi, r));
  return all;
}

void barrier(const MpiSession& mpi) {
  gather_bytes(mpi, {});
  Bytes none;
  broadcast_bytes(mpi, 0, none);
}

namespace {
constexpr std::size_t kPieceBytes = 1 << 20;  // of a collective

// A collective in flight. Its buffer is not the caller's: where waiting ends with an exception, MPI may still write.
struct Collective {
  explicit Collective(std::size_t bytes) : data(new std::vector<std::byte>(bytes)) {}
  void wait(std::chrono::seconds deadline) {
    wait_politely(
        [&] {
          int done = 0;
          check_mpi(MPI_Test(&request, &done, MPI_STATUS_IGNORE), "MPI_Test");
          return done != 0;
        },
        "the other ranks of a collective", deadline);
    finished = true;
  }
  ~Collective() {
    if (finished) delete data;
  }
  std::vector<std::byte>* data;
  MPI_Request request = MPI_REQUEST_NULL;
  bool finished = false;
};

void broadcast_piece(int world_root, std::span<std::byte> piece, std::chrono::seconds deadline) {
  Collective c(piece.size());
  std::copy(piece.begin(), piece.end(), c.data->begin());
  check_mpi(
      MPI_Ibcast(c.data->data(), static_cast<int>(piece.size()), MPI_BYTE, world_root, MPI_COMM_WORLD, &c.request),
      "MPI_Ibcast");
  c.wait(deadline);
  std::copy(c.data->begin(), c.data->end(), piece.begin());
}

void reduce_piece(int world_root, std::span<float> piece, std::chrono::seconds deadline) {
  Collective mine(piece.size_bytes()), sum(piece.size_bytes());
  std::memcpy(mine.data->data(), piece.data(), piece.size_bytes());
  check_mpi(MPI_Ireduce(mine.data->data(), sum.data->data(), static_cast<int>(piece.size()), MPI_FLOAT, MPI_SUM,
                        world_root, MPI_COMM_WORLD, &sum.request),
            "MPI_Ireduce");
  sum.wait(deadline);
  mine.finished = true;
  std::memcpy(piece.data(), sum.data->data(), piece.size_bytes());
}
}  // namespace

// To one rank and back from it: an all-reduce may sum in another order on each rank.
void sum_over_ranks(const MpiSession& mpi, std::vector<float>& values, std::chrono::seconds deadline) {
  if (mpi.size() == 1) return;
  const std::span<float> all(values);
  for (std::size_t at = 0; at < all.size(); at += kPieceBytes / sizeof(float)) {
    const auto piece = all.subspan(at, std::min(kPieceBytes / sizeof(float), all.size() - at));
    reduce_piece(mpi.world(0), piece, deadline);
    broadcast_piece(mpi.world(0), std::as_writable_bytes(piece), deadline);
  }
}

void broadcast_bytes(const MpiSession& mpi, int root, std::vector<std::byte>& bytes, std::chrono::seconds deadline) {
  if (mpi.size() == 1) return;
  std::uint64_t size = bytes.size();
  broadcast_piece(mpi.world(root), std::as_writable_bytes(std::span(&size, 1)), deadline);
  if (mpi.rank() != root) bytes.clear();
  for (std::size_t at = 0; at < size; at += kPieceBytes) {
    const std::size_t n = std::min<std::size_t>(kPieceBytes, size - at);
    if (mpi.rank() != root) bytes.resize(at + n);  // for what comes now, never for all that is announced
    broadcast_piece(mpi.world(root), std::span(bytes).subspan(at, n), deadline);
  }
}

}  // namespace jupiter

// Rank r sends messages of many sizes to rank r + 1 round the ring while it receives; contents and order are checked.
#include <cstdio>

#include "parallel/comm/channel.hpp"
#include "parallel/comm/collectives.hpp"

using namespace jupiter;

namespace {

constexpr std::size_t kSizes[] = {0, 1, 31, 1000, 49151, 49152, 49153, 200000, 3, 98304, 5000000};

std::byte pattern(std::size_t message, std::size_t i) {
  return static_cast<std::byte>((message * 31 + i * 7) & 255);
}

bool correct(const Message& m, std::size_t index) {
  if (m.id != index || m.payload.size() != kSizes[index] || m.kind != MessageKind::frame) return false;
  for (std::size_t i = 0; i < m.payload.size(); ++i) {
    if (m.payload[i] != pattern(index, i)) return false;
  }
  return true;
}

int check_ring(const MpiSession& mpi) {
  const int next = (mpi.rank() + 1) % mpi.size(), previous = (mpi.rank() + mpi.size() - 1) % mpi.size();
  SendChannel out(mpi, next, Tag::forward);
  ReceiveChannel in(mpi, previous, Tag::forward, 5000000);
  std::size_t sent = 0, received = 0;
  int wrong = 0;
  wait_politely(
      [&] {
        if (sent < std::size(kSizes)) {
          Message m{MessageKind::frame, sent, std::vector<std::byte>(kSizes[sent])};
          for (std::size_t i = 0; i < m.payload.size(); ++i) m.payload[i] = pattern(sent, i);
          out.send(std::move(m));
          ++sent;
        }
        out.poll();
        in.poll();
        while (const auto m = in.receive()) wrong += !correct(*m, received++);
        return sent == std::size(kSizes) && received == std::size(kSizes) && out.idle();
      },
      "the neighbours", std::chrono::seconds(60));
  return wrong;
}

// A message over the limit is refused by its header alone.
int check_limit(const MpiSession& mpi) {
  if (mpi.rank() == 0) {
    SendChannel out(mpi, 1, Tag::ring);
    out.send({MessageKind::frame, 1, std::vector<std::byte>(101)});
    wait_politely(
        [&] {
          out.poll();
          return out.idle();
        },
        "rank 1", std::chrono::seconds(60));
    return 0;
  }
  if (mpi.rank() != 1) return 0;
  ReceiveChannel in(mpi, 0, Tag::ring, 100);
  try {
    wait_politely(
        [&] {
          in.poll();
          return in.receive().has_value();
        },
        "rank 0", std::chrono::seconds(60));
  } catch (const PeerError& e) {
    return std::string(e.what()).find("at most 100 bytes") == std::string::npos;
  }
  return 1;
}

// What MPI refuses is an error of ours that names the call, not the end of the job.
int check_errors(const MpiSession& mpi) {
  try {
    SendChannel(mpi, mpi.size() + 5, Tag::ring).send({MessageKind::frame, 1, {}});
  } catch (const PeerError& e) {
    return std::string(e.what()).find("MPI_Isend") == std::string::npos;
  }
  return 1;
}

}  // namespace

int main() {
  const MpiSession mpi;
  const int wrong = check_ring(mpi) + check_limit(mpi) + check_errors(mpi);
  if (wrong > 0) std::fprintf(stderr, "rank %d: %d checks failed\n", mpi.rank(), wrong);
  for (const int w : gather(mpi, wrong)) {
    if (w != 0) return 1;
  }
  return wrong > 0;
}

// Clock offsets after Cristian (1989): half of the shortest round trip is the error.
#include "parallel/comm/trace.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <span>

#include "io/files.hpp"
#include "parallel/comm/channel.hpp"
#include "parallel/comm/collectives.hpp"
#include "parallel/comm/startup.hpp"

namespace jupiter {

namespace {

constexpr int kExchanges = 20;

double now_us() {
  return std::chrono::duration<double, std::micro>(Trace::Clock::now().time_since_epoch()).count();
}

Message time_message(double us) {
  Message m{MessageKind::report, 0, {}};
  PayloadWriter(m.payload).value(us);
  return m;
}

// On rank 0: what to add to the peer's clock. The peer answers with its time.
double clock_offset_us(const MpiSession& mpi, int peer) {
  const int other = mpi.rank() == 0 ? peer : 0;
  SendChannel out(mpi, other, Tag::measure);
  ReceiveChannel in(mpi, other, Tag::measure, 64);
  double best_trip = 1e300, offset = 0;
  for (int i = 0; i < kExchanges; ++i) {
    if (mpi.rank() != 0) {
      await_message(out, in, other);
      out.send(time_message(now_us()));
      continue;
    }
    const double sent = now_us();
    out.send(time_message(sent));
    const double theirs = PayloadReader(await_message(out, in, other).payload).value<double>();
    const double received = now_us();
    if (received - sent < best_trip) {
      best_trip = received - sent;
      offset = (sent + received) / 2 - theirs;
    }
  }
  flush(out, other);
  return offset;
}

// What to add to each rank's clock, so that rank 0's first event is at 0. On every rank.
std::vector<double> clock_offsets_us(const MpiSession& mpi, double first_us, std::chrono::seconds deadline) {
  std::vector<double> offsets{-first_us};
  for (int peer = 1; peer < mpi.size(); ++peer) {
    // One pair after the other; the rest wait for what is shared below.
    if (mpi.rank() == 0 || mpi.rank() == peer) offsets.push_back(clock_offset_us(mpi, peer) - first_us);
  }
  return broadcast(mpi, offsets, 0, deadline);
}

constexpr const char* kNames[] = {"compute", "send", "wait"};

}  // namespace

// Events that memory has no room for, in a file without a name.
struct Trace::Spilled {
  int fd = -1;
  std::uint64_t written = 0, read = 0;  // events

  explicit Spilled(const std::filesystem::path& folder) {
    std::string name = (folder / "jupiter-trace-XXXXXX").string();
    fd = ::mkostemp(name.data(), O_CLOEXEC);
    if (fd < 0) throw unusable();
    ::unlink(name.c_str());
  }
  ~Spilled() {
    if (fd >= 0) ::close(fd);
  }
  Spilled(const Spilled&) = delete;
  Spilled& operator=(const Spilled&) = delete;

  static RunError unusable() {
    return RunError(
        fmt::format("--trace: events cannot be kept in the temporary folder (TMPDIR): {}", std::strerror(errno)));
  }
  template <typename Bytes, typename Transfer>
  void transfer(Bytes bytes, std::uint64_t first_event, const Transfer& call) const {
    auto at = static_cast<off_t>(first_event * sizeof(Event));
    while (!bytes.empty()) {
      const ssize_t n = call(fd, bytes.data(), bytes.size(), at);
      if (n < 0 && errno == EINTR) continue;
      if (n == 0) errno = ENOSPC;
      if (n <= 0) throw unusable();
      bytes = bytes.subspan(n);
      at += n;
    }
  }
};

void Trace::CloseSpilled::operator()(Spilled* spilled) const {
  delete spilled;
}

// After a failure events are counted no more; the answer goes on.
void Trace::spill() {
  try {
    if (!problem_) {
      if (!spilled_) spilled_.reset(new Spilled(std::filesystem::temp_directory_path()));
      spilled_->transfer(std::as_bytes(std::span<const Event>(events_)), spilled_->written, ::pwrite);
      spilled_->written += events_.size();
    }
  } catch (const std::exception& e) {
    problem_ = RunError(e.what());
  }
  events_.clear();
}

std::vector<Trace::Event> Trace::next_piece() {
  if (!spilled_ || spilled_->read == spilled_->written) return std::exchange(events_, {});
  std::vector<Event> piece(std::min<std::uint64_t>(piece_events_, spilled_->written - spilled_->read));
  spilled_->transfer(std::as_writable_bytes(std::span(piece)), spilled_->read, ::pread);
  spilled_->read += piece.size();
  return piece;
}

// The launching rank's file, grown event by event.
class TraceFile {
 public:
  explicit TraceFile(const std::string& file) : file_(file) {
    file_.write("{\"displayTimeUnit\":\"ms\",\"traceEvents\":[");
  }

  void add_rank(int rank, const std::string& host) {
    const nlohmann::json name = "rank " + std::to_string(rank) + " (" + host + ")";
    file_.write(fmt::format("{}\n{{\"ph\":\"M\",\"name\":\"process_name\",\"pid\":{},\"args\":{{\"name\":{}}}}}",
                            rank == 0 ? "" : ",", rank,
                            name.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace)));
  }

  void add_events(int rank, const std::vector<Trace::Event>& events, double offset_us) {
    std::string text;
    for (const Trace::Event& e : events) {
      const auto kind = static_cast<std::size_t>(e.kind);
      if (kind >= std::size(kNames)) throw PeerError("trace: expected a kind below 3, found " + std::to_string(kind));
      text += fmt::format(
          ",\n{{\"ph\":\"X\",\"name\":\"{0}\",\"cat\":\"{0}\",\"pid\":{1},\"tid\":{2},\"ts\":{3:.3f},\"dur\":{4:.3f},"
          "\"args\":{{\"request\":{5},\"position\":{6},\"rows\":{7}}}}}",
          kNames[kind], rank, kind == 1 ? 1 : 0, e.start_us + offset_us, e.length_us, e.request, e.position, e.rows);
    }
    file_.write(text);
  }

  void finish() {
    file_.write("\n]}\n");
    file_.put_in_place();
  }

 private:
  NewFile file_;
};

void Trace::write(const MpiSession& mpi, const std::string& file, std::chrono::seconds deadline) {
  if (!on_) return;
  RankStatus status;
  std::optional<TraceFile> out;
  // A rank that fails still takes part in every exchange.
  const auto attempt = [&](const auto& work) {
    if (status.problem) return;
    try {
      work();
    } catch (const Error& e) {
      status.problem = e;
    }
  };
  attempt([&] {
    if (mpi.is_launcher()) out.emplace(file);
  });
  const auto offsets = clock_offsets_us(mpi, first_us_, deadline);
  for (int rank = 0; rank < mpi.size(); ++rank) {
    const std::string host = broadcast(mpi, mpi.host(), rank, deadline);
    attempt([&] {
      if (out) out->add_rank(rank, host);
    });
    for (std::vector<Event> piece;;) {
      if (mpi.rank() == rank) {
        piece.clear();
        attempt([&] { piece = next_piece(); });
      }
      piece = broadcast(mpi, piece, rank, deadline);
      if (piece.empty()) break;
      attempt([&] {
        if (out) out->add_events(rank, piece, offsets[rank]);
      });
    }
  }
  if (problem_ && !status.problem) status.problem = problem_;
  agree(mpi, status);
  attempt([&] {
    if (out) out->finish();
  });
  agree(mpi, status);
}

}  // namespace jupiter

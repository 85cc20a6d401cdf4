// Clock offsets after Cristian (1989): half of the shortest round trip is the error.
#include "parallel/trace.hpp"

#include <nlohmann/json.hpp>
#include <span>

#include "parallel/channel.hpp"

namespace jupiter {

namespace {

using nlohmann::json;
using nlohmann::ordered_json;

constexpr int kExchanges = 20;
constexpr std::size_t kMaxEvents = 1 << 24;

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

std::string pack(const MpiSession& mpi, const std::vector<Trace::Event>& events) {
  std::vector<std::byte> bytes;
  PayloadWriter w(bytes);
  w.text(mpi.host());
  w.array(std::span<const Trace::Event>(events));
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

constexpr const char* kNames[] = {"compute", "send", "wait"};

void append(json& all, int rank, const std::string& packed, double offset_us, double origin_us) {
  PayloadReader r(std::as_bytes(std::span(packed)));
  const std::string host = r.text();
  all.push_back({{"ph", "M"},
                 {"name", "process_name"},
                 {"pid", rank},
                 {"args", {{"name", "rank " + std::to_string(rank) + " (" + host + ")"}}}});
  for (const Trace::Event& e : r.array<Trace::Event>(kMaxEvents)) {
    const auto kind = static_cast<std::size_t>(e.kind);
    if (kind >= std::size(kNames)) throw PeerError("trace: expected a kind below 3, found " + std::to_string(kind));
    all.push_back({{"ph", "X"},
                   {"name", kNames[kind]},
                   {"cat", kNames[kind]},
                   {"pid", rank},
                   {"tid", kind == 1 ? 1 : 0},
                   {"ts", e.start_us + offset_us - origin_us},
                   {"dur", e.length_us},
                   {"args", {{"request", e.request}, {"position", e.position}, {"rows", e.rows}}}});
  }
}

}  // namespace

std::string Trace::gather(const MpiSession& mpi) const {
  if (!on_) return {};
  std::vector<double> offsets{0};
  for (int peer = 1; peer < mpi.size(); ++peer) {
    // One pair after the other; the rest wait for the text below.
    if (mpi.rank() == 0 || mpi.rank() == peer) offsets.push_back(clock_offset_us(mpi, peer));
  }
  const auto packed = gather_text(mpi, pack(mpi, events_));
  if (mpi.rank() != 0) return {};
  const double origin = events_.empty() ? 0 : events_.front().start_us;
  json all = json::array();
  for (std::size_t r = 0; r < packed.size(); ++r) append(all, static_cast<int>(r), packed[r], offsets[r], origin);
  return json{{"traceEvents", all}, {"displayTimeUnit", "ms"}}.dump() + "\n";
}

}  // namespace jupiter

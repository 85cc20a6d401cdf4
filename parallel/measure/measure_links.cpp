// Messages between pairs of ranks: how long they take, and how long they keep both ends from computing.
#include <algorithm>
#include <cstdio>
#include <cstring>

#include "io/timer.hpp"
#include "parallel/comm/channel.hpp"
#include "parallel/comm/collectives.hpp"
#include "parallel/measure/measure.hpp"
#include "parallel/pipeline/frame.hpp"

namespace jupiter {

namespace {

constexpr std::size_t kSmall = 1200, kLarge = 96 << 10;

// Computing that ends at no particular moment and lasts about as long as a stage waits for its next frame: exchanges
// back to back would always find the other board at the same point of its own schedule (of the kernel, of an emulated
// board's pauses), and awake. Returns the seconds.
double busy_for_a_while(std::uint32_t& random) {
  constexpr double kLeast = 4e-3, kMost = 16e-3;
  random = random * 1664525u + 1013904223u;
  const double wanted = kLeast + (kMost - kLeast) * static_cast<double>(random >> 8) / (1 << 24);
  const auto start = Clock::now();
  while (seconds_since(start) < wanted) {
  }
  return seconds_since(start);
}

// Mean one-way time of messages of `bytes`, begun by the lower rank. The answer
// begins with the pause that the peer made before it.
double one_way_s(int peer, bool begin, std::size_t bytes, int repeats, SendChannel& out, ReceiveChannel& in) {
  std::vector<double> samples;
  std::uint32_t random = 1;
  const auto send = [&](double paused) {
    Message m{MessageKind::report, 0, std::vector<std::byte>(bytes)};
    std::memcpy(m.payload.data(), &paused, sizeof paused);
    out.send(std::move(m));
  };
  for (int i = 0; i < repeats; ++i) {
    if (!begin) {
      await_message(out, in, peer);
      send(busy_for_a_while(random));
      continue;
    }
    busy_for_a_while(random);
    const auto start = Clock::now();
    send(0);
    const Message answer = await_message(out, in, peer);
    samples.push_back(seconds_since(start) - PayloadReader(answer.payload).value<double>());
  }
  if (!begin) return 0;
  return mean_of_the_middle(std::move(samples)) / 2;
}

constexpr int kFrames = 8, kRepeats = 5;
constexpr std::int64_t kMostRows = 64;

FrameLimits frame_limits(const ModelConfig& c) {
  return {kMostRows, kMostRows, c.vocab_size, c.dim * bytes_of(c.residual)};
}

}  // namespace

struct RingTraffic::Impl {
  const MpiSession& mpi;
  ThreadPool& pool;
  FrameLimits limits;
  int next, before;
  SendChannel out;
  ReceiveChannel in;

  Impl(const MpiSession& session, const ModelConfig& config, ThreadPool& threads)
      : mpi(session),
        pool(threads),
        limits(frame_limits(config)),
        next((session.rank() + 1) % session.size()),
        before((session.rank() + session.size() - 1) % session.size()),
        out(session, next, Tag::measure),
        in(session, before, Tag::measure, limits.max_message_bytes()) {
    pool.set_poll([this] {
      out.poll();
      in.poll();
    });
  }
  ~Impl() { pool.set_poll(nullptr); }
  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;

  // Seconds that a frame of so many rows takes from computing: the call that sends it, and the rest.
  struct Cost {
    double send_s = 0;
    double rest_s = 0;
  };
  Cost cost(std::int64_t rows, const std::function<void()>& work) {
    Frame frame;
    frame.runs.push_back(FrameRun::consecutive(1, 0, rows));
    frame.tokens.assign(rows, 0);
    frame.residual.resize(rows * limits.residual_row_bytes);
    std::vector<double> sends, rests;
    for (int r = 0; r < kRepeats; ++r) {
      barrier(mpi);
      const auto start = Clock::now();
      for (int i = 0; i < kFrames; ++i) work();
      const double alone_s = seconds_since(start);
      barrier(mpi);
      const Loaded loaded = work_and_pass_on(frame, work);
      sends.push_back(loaded.send_s / kFrames);
      rests.push_back((loaded.total_s - loaded.send_s - alone_s) / kFrames);
    }
    return {median(sends), std::max(median(rests), 0.0)};
  }

 private:
  struct Loaded {
    double total_s = 0;
    double send_s = 0;
  };
  Loaded work_and_pass_on(const Frame& frame, const std::function<void()>& work) {
    Loaded loaded;
    int received = 0;
    const auto take = [&] {
      for (; const auto m = in.receive(); ++received) decode_frame(*m, limits);
    };
    const auto start = Clock::now();
    for (int i = 0; i < kFrames; ++i) {
      const auto sending = Clock::now();
      out.send(encode(frame, 0));
      loaded.send_s += seconds_since(sending);
      work();
      take();
    }
    loaded.total_s = seconds_since(start);
    for (; received < kFrames; ++received) decode_frame(await_message(out, in, before), limits);
    flush(out, next);
    return loaded;
  }
};

RingTraffic::RingTraffic(const MpiSession& mpi, const ModelConfig& config, ThreadPool& pool)
    : impl_(mpi.size() > 1 ? std::make_unique<Impl>(mpi, config, pool) : nullptr) {}
RingTraffic::~RingTraffic() = default;

namespace {

// A line through what a frame of one row and a large one cost.
TransferCost line(double small_s, double large_s, double small_bytes, double large_bytes) {
  TransferCost c;
  c.byte_s = std::max(large_s - small_s, 0.0) / (large_bytes - small_bytes);
  c.message_s = std::max(small_s - c.byte_s * small_bytes, 0.0);
  return c;
}

}  // namespace

std::vector<LinkProfile> measure_links(const MpiSession& mpi, const MeasureProgress& progress) {
  std::vector<LinkProfile> links;
  const int pairs = mpi.size() * (mpi.size() - 1) / 2;
  int done = 0;
  for (int a = 0; a < mpi.size(); ++a) {
    for (int b = a + 1; b < mpi.size(); ++b) {
      // Every rank takes part in the exchange at the end, so pairs are measured one after the other.
      LinkProfile measured{a, b, 0, 0};
      if (mpi.rank() == a || mpi.rank() == b) {
        const int peer = mpi.rank() == a ? b : a;
        SendChannel out(mpi, peer, Tag::measure);
        ReceiveChannel in(mpi, peer, Tag::measure, 2 * kLarge);
        const bool begin = mpi.rank() == a;
        one_way_s(peer, begin, kSmall, 5, out, in);
        const double small = one_way_s(peer, begin, kSmall, 40, out, in);
        const double large = one_way_s(peer, begin, kLarge, 15, out, in);
        const double rate = static_cast<double>(kLarge - kSmall) / std::max(large - small, 1e-7);
        const double latency = std::max(small - static_cast<double>(kSmall) / rate, 1e-7);
        measured = {a, b, latency, rate};
        flush(out, peer);
      }
      const std::vector<LinkProfile> all = all_gather(mpi, measured);
      if (mpi.rank() == 0) {
        const LinkProfile& found = all[a];
        links.push_back(found);
        links.push_back({b, a, found.latency_s, found.bytes_per_s});
      }
      progress(static_cast<double>(++done) / pairs);
    }
  }
  return links;
}

TransferCosts RingTraffic::measure(const std::function<void()>& work) {
  TransferCosts costs;
  if (!impl_) return costs;
  const std::int64_t row_bytes = impl_->limits.residual_row_bytes + static_cast<std::int64_t>(sizeof(TokenId));
  const std::int64_t rows = std::clamp<std::int64_t>(static_cast<std::int64_t>(kLarge) / row_bytes, 2, kMostRows);
  const Impl::Cost small = impl_->cost(1, work), large = impl_->cost(rows, work);
  const auto bytes = static_cast<double>(row_bytes);
  costs.send = line(small.send_s, large.send_s, bytes, bytes * static_cast<double>(rows));
  costs.receive = line(small.rest_s, large.rest_s, bytes, bytes * static_cast<double>(rows));
  return costs;
}

}  // namespace jupiter

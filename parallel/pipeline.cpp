// In-band order is the protocol: open, frames and close of a sequence pass every stage in the order of submission.
#include "parallel/pipeline.hpp"

#include <sys/resource.h>

#include "io/error.hpp"

namespace jupiter {

namespace {

using Clock = std::chrono::steady_clock;
double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// open, close, stop: a sequence or an exit code, and sampling options.
struct ControlBody {
  std::uint32_t value = 0;
  SamplingOptions sampling;
};

ControlBody read_control(const Message& message) {
  PayloadReader r(message.payload);
  const auto body = r.value<ControlBody>();
  r.end();
  return body;
}

Message control(MessageKind kind, std::uint64_t id, const ControlBody& body) {
  Message m{kind, id, {}};
  PayloadWriter(m.payload).value(body);
  return m;
}

Message digest_message(std::uint64_t id, std::uint64_t digest) {
  Message m{MessageKind::closed, id, {}};
  PayloadWriter(m.payload).value(digest);
  return m;
}

std::optional<SendChannel> output_of(const MpiSession& mpi) {
  if (mpi.stages() == 1) return std::nullopt;
  if (mpi.rank() + 1 < mpi.stages()) return SendChannel(mpi, mpi.rank() + 1, Tag::forward);
  return SendChannel(mpi, 0, Tag::ring);
}

}  // namespace

StageRunner::StageRunner(const MpiSession& mpi, Stage& stage, Trace& trace)
    : stage_(stage), trace_(trace), last_(mpi.rank() + 1 == mpi.stages()), out_(output_of(mpi)) {}

void StageRunner::pass_on(Message&& message) {
  if (out_) {
    out_->send(std::move(message));
  } else {
    answers_.push_back(std::move(message));
  }
}

void StageRunner::process(Message&& message) {
  switch (message.kind) {
    case MessageKind::open: {
      const ControlBody body = read_control(message);
      stage_.open(body.value, body.sampling);
      if (!last_) pass_on(std::move(message));
      return;
    }
    case MessageKind::frame: {
      Frame frame = decode_frame(message, stage_.limits());
      const auto start = Clock::now();
      const std::vector<SampledToken> tokens = stage_.forward(frame);
      const auto computed = Clock::now();
      const FrameRun& run = frame.runs.front();
      pass_on(last_ ? encode_result(message.id, tokens) : encode(frame, message.id));
      trace_.add(Trace::Kind::compute, start, computed, run.sequence, run.first_position,
                 static_cast<std::int32_t>(frame.rows()));
      trace_.add(Trace::Kind::send, computed, Clock::now(), run.sequence, run.first_position,
                 static_cast<std::int32_t>(frame.rows()));
      return;
    }
    case MessageKind::close: {
      const std::uint64_t digest = stage_.close(read_control(message).value);
      pass_on(last_ ? digest_message(message.id, digest) : std::move(message));
      return;
    }
    case MessageKind::stop:
      if (!last_) pass_on(std::move(message));
      return;
    default:
      throw PeerError("message: expected open, frame, close or stop, found kind " +
                      std::to_string(static_cast<int>(message.kind)));
  }
}

Pipeline::Pipeline(const MpiSession& mpi, Stage& stage, ThreadPool& pool, Trace& trace, const Options& options)
    : mpi_(mpi), stage_(stage), pool_(pool), trace_(trace), options_(options), runner_(mpi, stage, trace) {
  if (options_.max_in_flight <= 0) options_.max_in_flight = 2 * mpi.stages() + 2;
  if (mpi.stages() > 1) {
    ring_.emplace(mpi, mpi.stages() - 1, Tag::ring, stage.limits().max_message_bytes());
    pool.set_poll([this] { poll(); });
  }
}

Pipeline::~Pipeline() {
  pool_.set_poll(nullptr);
}

void Pipeline::poll() {
  runner_.poll();
  if (ring_) ring_->poll();
}

void Pipeline::take_answers() {
  poll();
  const auto take = [&](const Message& m) {
    if (m.kind == MessageKind::result) {
      results_.push_back(decode_result(m, stage_.limits()));
      ++answered_;
    } else if (m.kind == MessageKind::closed) {
      PayloadReader r(m.payload);
      digest_ = r.value<std::uint64_t>();
      r.end();
    } else {
      throw PeerError("answer of the last rank: expected a result, found kind " +
                      std::to_string(static_cast<int>(m.kind)));
    }
  };
  for (; !runner_.answers().empty(); runner_.answers().pop_front()) take(runner_.answers().front());
  if (!ring_) return;
  while (const auto m = ring_->receive()) take(*m);
}

void Pipeline::wait_for(const std::function<bool()>& ready) {
  const auto start = Clock::now();
  wait_politely(
      [&] {
        take_answers();
        return ready();
      },
      "rank " + std::to_string(mpi_.stages() - 1) + " (the last stage)", options_.deadline);
  trace_.add(Trace::Kind::wait, start, Clock::now(), 0, 0, 0);
  wait_s_ += seconds_since(start);
}

void Pipeline::send(MessageKind kind, std::uint32_t value, const SamplingOptions* sampling) {
  runner_.process(control(kind, next_id_++, {value, sampling != nullptr ? *sampling : SamplingOptions{}}));
}

SequenceId Pipeline::open(const SamplingOptions& sampling) {
  const SequenceId id = next_sequence_++;
  send(MessageKind::open, id, &sampling);
  return id;
}

void Pipeline::submit(Frame&& frame) {
  if (in_flight() >= options_.max_in_flight) {
    wait_for([&] { return in_flight() < options_.max_in_flight; });
  }
  ++submitted_;
  runner_.process(encode(frame, next_id_++));
  take_answers();
}

std::vector<SampledToken> Pipeline::next_result() {
  if (results_.empty()) wait_for([&] { return !results_.empty(); });
  std::vector<SampledToken> tokens = std::move(results_.front());
  results_.pop_front();
  ++taken_;
  return tokens;
}

std::uint64_t Pipeline::close(SequenceId sequence) {
  digest_.reset();
  send(MessageKind::close, sequence, nullptr);
  wait_for([&] { return digest_.has_value(); });
  return *digest_;
}

void Pipeline::stop(ExitCode code) {
  send(MessageKind::stop, static_cast<std::uint32_t>(code), nullptr);
  wait_for([&] { return runner_.idle(); });
}

ExitCode serve(const MpiSession& mpi, Stage& stage, ThreadPool& pool, Trace& trace, RankReport& report) {
  ReceiveChannel in(mpi, mpi.rank() - 1, Tag::forward, stage.limits().max_message_bytes());
  StageRunner runner(mpi, stage, trace);
  const auto poll = [&] {
    in.poll();
    runner.poll();
  };
  pool.set_poll(poll);
  double wait_s = 0;
  ExitCode code = ExitCode::ok;
  for (bool running = true; running;) {
    std::optional<Message> message;
    const auto start = Clock::now();
    // No deadline: rank 0 may wait for its user. A peer that dies takes this rank along (mpirun).
    wait_politely(
        [&] {
          poll();
          message = in.receive();
          return message.has_value();
        },
        "rank " + std::to_string(mpi.rank() - 1));
    wait_s += seconds_since(start);
    trace.add(Trace::Kind::wait, start, Clock::now(), 0, 0, 0);
    if (message->kind == MessageKind::stop) {
      code = static_cast<ExitCode>(read_control(*message).value);
      running = false;
    }
    runner.process(std::move(*message));
  }
  wait_politely(
      [&] {
        runner.poll();
        return runner.idle();
      },
      "the next rank");
  pool.set_poll(nullptr);
  report = local_report(mpi, stage, wait_s, runner.sent_bytes());
  return code;
}

RankReport local_report(const MpiSession& mpi, const Stage& stage, double wait_s, std::uint64_t sent_bytes) {
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  return {mpi.rank(),
          mpi.host(),
          stage.part().first_layer,
          stage.part().last_layer,
          stage.weight_bytes(),
          stage.kv_bytes(),
          usage.ru_maxrss * 1024,
          stage.compute_s(),
          wait_s,
          sent_bytes};
}

std::vector<RankReport> gather_reports(const MpiSession& mpi, const RankReport& mine) {
  std::vector<std::byte> bytes;
  PayloadWriter w(bytes);
  w.value(mine.rank);
  w.text(mine.host);
  w.value(mine.first_layer);
  w.value(mine.last_layer);
  w.value(mine.weight_bytes);
  w.value(mine.kv_bytes);
  w.value(mine.peak_rss_bytes);
  w.value(mine.compute_s);
  w.value(mine.wait_s);
  w.value(mine.sent_bytes);
  std::vector<RankReport> all;
  for (const std::string& text : gather_text(mpi, {reinterpret_cast<const char*>(bytes.data()), bytes.size()})) {
    PayloadReader r(std::as_bytes(std::span(text)));
    RankReport report;
    report.rank = r.value<int>();
    report.host = r.text();
    report.first_layer = r.value<std::int64_t>();
    report.last_layer = r.value<std::int64_t>();
    report.weight_bytes = r.value<std::uint64_t>();
    report.kv_bytes = r.value<std::int64_t>();
    report.peak_rss_bytes = r.value<std::int64_t>();
    report.compute_s = r.value<double>();
    report.wait_s = r.value<double>();
    report.sent_bytes = r.value<std::uint64_t>();
    all.push_back(std::move(report));
  }
  return all;
}

}  // namespace jupiter

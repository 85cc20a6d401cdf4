// The order of messages is part of the protocol: open, frames and close of a sequence pass every stage in the order in
// which rank 0 submitted them.
#include "parallel/pipeline/pipeline.hpp"

#include <sys/resource.h>

#include "io/error.hpp"
#include "io/timer.hpp"
#include "parallel/pipeline/control.hpp"

namespace jupiter {

namespace {

std::optional<SendChannel> output_of(const MpiSession& mpi) {
  if (mpi.stages() == 1) return std::nullopt;
  if (mpi.rank() + 1 < mpi.stages()) return SendChannel(mpi, mpi.rank() + 1, Tag::forward);
  return SendChannel(mpi, 0, Tag::ring);
}

}  // namespace

StageRunner::StageRunner(const MpiSession& mpi, Stage& stage, Trace& trace)
    : stage_(stage),
      group_(stage.group()),
      trace_(trace),
      last_(mpi.rank() + 1 == mpi.stages()),
      out_(output_of(mpi)),
      shared_head_(stage.shared_head()) {
  for (int r = 1; last_ && r < mpi.rank(); ++r) verdicts_.emplace_back(mpi, r, Tag::verdict);
  if (stage.part().helps_with_output_head()) {
    helper_.emplace(mpi, mpi.stages() - 1, most_piece_bytes(stage.config(), stage.options()));
  }
}

void StageRunner::help() {
  if (helper_) helper_->answer([&](const Message& asked) { return stage_.helped_logits(asked); });
}

void StageRunner::poll() {
  if (out_) out_->poll();
  for (SendChannel& c : verdicts_) c.poll();
  if (group_ != nullptr) group_->poll();
  if (helper_) helper_->poll();
  if (shared_head_ != nullptr) shared_head_->poll();
}

bool StageRunner::idle() const {
  return (!out_ || out_->idle()) && (group_ == nullptr || group_->idle()) && (!helper_ || helper_->idle()) &&
         (shared_head_ == nullptr || shared_head_->idle());
}

std::uint64_t StageRunner::sent_bytes() const {
  return (out_ ? out_->stats().bytes : 0) + (group_ != nullptr ? group_->stats().sent_bytes : 0) +
         (helper_ ? helper_->sent_bytes() : 0) + (shared_head_ != nullptr ? shared_head_->sent_bytes() : 0);
}

void StageRunner::pass_on(Message&& message) {
  if (out_) {
    out_->send(std::move(message));
  } else {
    answers_.push_back(std::move(message));
  }
}

// The other boards of the group do the same, after what the stage told them itself.
void StageRunner::tell_group(const Message& message) {
  if (group_ != nullptr) group_->command(message);
}

// The stages between learn at once what is rejected, and nobody waits for them (parallel/DESIGN.md, decision 9).
void StageRunner::send_verdicts(const FrameResult& result, std::uint64_t id) {
  for (const SequenceResult& r : result.sequences) {
    if (r.verdict.node == 0) continue;
    for (SendChannel& c : verdicts_) c.send(encode_verdict(id, {r.sequence, r.verdict}));
  }
}

void StageRunner::send_late_drafts() {
  const FrameResult late = stage_.late_drafts();
  if (!late.sequences.empty()) pass_on(encode_result(0, late));
}

void StageRunner::compute(Message&& message, const std::function<void()>& on_layer_done) {
  Frame frame = decode_frame(message, stage_.limits());
  const auto start = Clock::now();
  const FrameResult result = stage_.forward(frame, on_layer_done);
  const auto computed = Clock::now();
  if (last_) send_verdicts(result, message.id);
  pass_on(last_ ? encode_result(message.id, result) : encode(frame, message.id));
  const FrameRun run = frame.runs.empty() ? FrameRun{} : frame.runs.front();
  const auto rows = static_cast<std::int32_t>(frame.rows());
  trace_.add(Trace::Kind::compute, start, computed, run.sequence, run.first_position, rows);
  trace_.add(Trace::Kind::send, computed, Clock::now(), run.sequence, run.first_position, rows);
}

void StageRunner::process(Message&& message, const std::function<void()>& on_layer_done) {
  invariants_.message_came(message.id);
  switch (message.kind) {
    case MessageKind::open: {
      const Opened opened = decode_open(message);
      stage_.open(opened.sequence, opened.options);
      tell_group(message);
      if (!last_) pass_on(std::move(message));
      return;
    }
    case MessageKind::frame:
      compute(std::move(message), on_layer_done);
      return;
    case MessageKind::close: {
      const CloseRequest request = decode_close(message);
      const SequenceEnd end = stage_.close(request.sequence, request.how);
      tell_group(message);
      if (last_) message = encode_closed(message.id, {request.sequence, 0, end});
      pass_on(std::move(message));
      return;
    }
    case MessageKind::stop:
      stage_.close_all();
      tell_group(message);
      if (!last_) pass_on(std::move(message));
      return;
    default:
      throw PeerError("message: expected open, frame, close or stop, found kind " +
                      std::to_string(static_cast<int>(message.kind)));
  }
}

Pipeline::Pipeline(const MpiSession& mpi, Stage& stage, ThreadPool& pool, Trace& trace, const Options& options)
    : mpi_(mpi), stage_(stage), pool_(pool), trace_(trace), options_(options), runner_(mpi, stage, trace) {
  compute_s_.resize(static_cast<std::size_t>(mpi.stages()));
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
  runner_.help();
  const auto take = [&](const Message& m) {
    if (m.kind == MessageKind::result) {
      results_.push_back(decode_result(m, stage_.limits()));
      add_cost(results_.back().cost);
      invariants_.result_came(m.id, results_.back());
      if (!results_.back().late) ++answered_;
      for (const SequenceResult& r : results_.back().sequences) {
        if (r.verdict.node != 0) stage_.queue_verdict(r.sequence, r.verdict);
      }
    } else if (m.kind == MessageKind::closed) {
      const Closed closed = decode_closed(m);
      closed_.emplace(closed.sequence, closed.end);
    } else {
      throw PeerError("answer of the last rank: expected a result, found kind " +
                      std::to_string(static_cast<int>(m.kind)));
    }
  };
  for (; !runner_.answers().empty(); runner_.answers().pop_front()) take(runner_.answers().front());
  if (!ring_) return;
  while (const auto m = ring_->receive()) take(*m);
}

void Pipeline::add_cost(const FrameCost& cost) {
  const std::size_t stages = std::min(cost.stage_s.size(), compute_s_.size());
  for (std::size_t s = 0; s < stages; ++s) compute_s_[s] += cost.stage_s[s];
}

void Pipeline::wait_for(const std::function<bool()>& ready) {
  const auto start = Clock::now();
  const auto is_ready = [&] {
    take_answers();
    return ready();
  };
  wait_politely(
      [&] {
        if (is_ready()) return true;
        if (options_.idle != nullptr) options_.idle->work(is_ready);
        return false;
      },
      "rank " + std::to_string(mpi_.stages() - 1) + " (the last stage)", options_.deadline);
  trace_.add(Trace::Kind::wait, start, Clock::now(), 0, 0, 0);
  wait_s_ += seconds_since(start);
}

SequenceId Pipeline::open(const SequenceOptions& options) {
  const SequenceId id = next_sequence_++;
  runner_.process(encode_open(next_id_++, {id, options}));
  return id;
}

void Pipeline::submit(Frame&& frame) {
  if (in_flight() >= options_.max_in_flight) {
    wait_for([&] { return in_flight() < options_.max_in_flight; });
  }
  ++submitted_;
  invariants_.frame_submitted(next_id_);
  runner_.process(encode(frame, next_id_++), [this] { take_answers(); });
  take_answers();
}

FrameResult Pipeline::next_result() {
  if (results_.empty()) wait_for([&] { return !results_.empty(); });
  FrameResult result = std::move(results_.front());
  results_.pop_front();
  if (!result.late) ++taken_;
  return result;
}

void Pipeline::close(SequenceId sequence, const SequenceClose& close) {
  runner_.process(encode_close(next_id_++, {sequence, 0, close}));
}

SequenceEnd Pipeline::closed(SequenceId sequence) {
  if (!closed_.contains(sequence)) wait_for([&] { return closed_.contains(sequence); });
  const auto oldest = closed_.lower_bound(sequence);
  const SequenceEnd end = oldest->second;
  closed_.erase(oldest);
  return end;
}

// Frames that nobody needs any more may still be on their way. The last stage must not find those gone that share its
// output head.
void Pipeline::stop(ExitCode code) {
  if (options_.shared_head) wait_for([&] { return in_flight() == 0; });
  runner_.process(encode_stop(next_id_++, code));
  wait_for([&] { return runner_.idle(); });
}

ExitCode serve(const MpiSession& mpi, Stage& stage, ThreadPool& pool, Trace& trace, RankReport& report,
               IdleWork* idle) {
  ReceiveChannel in(mpi, mpi.rank() - 1, Tag::forward, stage.limits().max_message_bytes());
  StageRunner runner(mpi, stage, trace);
  std::optional<ReceiveChannel> verdicts;
  const bool last = mpi.rank() + 1 == mpi.stages();
  if (!last) verdicts.emplace(mpi, mpi.stages() - 1, Tag::verdict, 256);
  const auto poll = [&] {
    in.poll();
    runner.poll();
    if (verdicts) verdicts->poll();
  };
  const auto on_layer_done = [&] {
    poll();
    runner.help();
    while (const auto m = verdicts->receive()) {
      const SequenceVerdict v = decode_verdict(*m);
      stage.queue_verdict(v.sequence, v.verdict);
    }
  };
  pool.set_poll(poll);
  double wait_s = 0;
  ExitCode code = ExitCode::ok;
  for (bool running = true; running;) {
    std::optional<Message> message;
    const auto start = Clock::now();
    const auto arrived = [&] {
      poll();
      runner.help();
      if (!message) message = in.receive();
      return message.has_value();
    };
    // There is no deadline, because rank 0 may wait for its user. If a peer dies, mpirun ends this rank too.
    wait_politely(
        [&] {
          if (arrived()) return true;
          if (last) runner.send_late_drafts();
          if (idle != nullptr) idle->work(arrived);
          return false;
        },
        "rank " + std::to_string(mpi.rank() - 1));
    wait_s += seconds_since(start);
    trace.add(Trace::Kind::wait, start, Clock::now(), 0, 0, 0);
    if (message->kind == MessageKind::stop) {
      code = decode_stop(*message);
      running = false;
    }
    if (verdicts) on_layer_done();
    runner.process(std::move(*message), verdicts ? std::function<void()>(on_layer_done) : nullptr);
  }
  wait_politely(
      [&] {
        runner.poll();
        return runner.idle();
      },
      "the next rank");
  pool.set_poll(nullptr);
  report = local_report(mpi, stage, wait_s - (idle != nullptr ? idle->spent_s() : 0), runner.sent_bytes());
  return code;
}

namespace {

// One command of the group's leader. Returns the run's exit code where it ends the run.
std::optional<ExitCode> obey(Stage& stage, Trace& trace, const Message& message) {
  switch (message.kind) {
    case MessageKind::open: {
      const Opened opened = decode_open(message);
      stage.open(opened.sequence, opened.options);
      return std::nullopt;
    }
    case MessageKind::verdict: {
      const SequenceVerdict v = decode_verdict(message);
      stage.queue_verdict(v.sequence, v.verdict);
      return std::nullopt;
    }
    case MessageKind::frame: {
      Frame frame = decode_frame(message, stage.limits());
      const auto start = Clock::now();
      stage.forward(frame);
      const FrameRun run = frame.runs.empty() ? FrameRun{} : frame.runs.front();
      trace.add(Trace::Kind::compute, start, Clock::now(), run.sequence, run.first_position,
                static_cast<std::int32_t>(frame.rows()));
      return std::nullopt;
    }
    case MessageKind::head_rows:
      stage.group()->answer(stage.head_logits(message));
      return std::nullopt;
    case MessageKind::close: {
      const CloseRequest request = decode_close(message);
      stage.close(request.sequence, request.how);
      return std::nullopt;
    }
    case MessageKind::stop:
      stage.close_all();
      return decode_stop(message);
    default:
      throw PeerError("command of the tensor group's leader: found a message of kind " +
                      std::to_string(static_cast<int>(message.kind)));
  }
}

}  // namespace

ExitCode follow(const MpiSession& mpi, Stage& stage, ThreadPool& pool, Trace& trace, RankReport& report) {
  GroupChannels& group = *stage.group();
  pool.set_poll([&] { group.poll(); });
  double wait_s = 0;
  std::optional<ExitCode> code;
  while (!code) {
    std::optional<Message> message;
    const auto start = Clock::now();
    // There is no deadline, because rank 0 may wait for its user.
    wait_politely(
        [&] {
          group.poll();
          message = group.next_command();
          return message.has_value();
        },
        "rank " + std::to_string(mpi.stage()) + " (the leader of the tensor group)");
    wait_s += seconds_since(start);
    trace.add(Trace::Kind::wait, start, Clock::now(), 0, 0, 0);
    code = obey(stage, trace, *message);
  }
  wait_politely(
      [&] {
        group.poll();
        return group.idle();
      },
      "the other boards of the tensor group");
  pool.set_poll(nullptr);
  report = local_report(mpi, stage, wait_s, group.stats().sent_bytes);
  return *code;
}

RankReport local_report(const MpiSession& mpi, const Stage& stage, double wait_s, std::uint64_t sent_bytes) {
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  const GroupStats gathers = stage.group() != nullptr ? stage.group()->stats() : GroupStats{};
  return {mpi.rank(),
          mpi.host(),
          stage.part().first_layer,
          stage.part().last_layer,
          stage.weight_bytes(),
          stage.kv_bytes(),
          usage.ru_maxrss * 1024,
          stage.compute_s(),
          wait_s,
          sent_bytes,
          gathers.gathers,
          gathers.wait_s};
}

}  // namespace jupiter

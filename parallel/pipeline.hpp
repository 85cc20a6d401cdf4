// The ring of stages: rank 0 submits frames, every rank computes its layers, the last rank answers rank 0.
#pragma once

#include <deque>
#include <optional>

#include "parallel/channel.hpp"
#include "parallel/stage.hpp"
#include "parallel/trace.hpp"

namespace jupiter {

// What one rank did, for reports.
struct RankReport {
  int rank = 0;
  std::string host;
  std::int64_t first_layer = 0;
  std::int64_t last_layer = 0;
  std::uint64_t weight_bytes = 0;
  std::int64_t kv_bytes = 0;
  std::int64_t peak_rss_bytes = 0;
  double compute_s = 0;
  double wait_s = 0;
  std::uint64_t sent_bytes = 0;
};

// A stage and the channel that its output goes to: the next rank, or rank 0 from the last one.
class StageRunner {
 public:
  StageRunner(const MpiSession& mpi, Stage& stage, Trace& trace);

  // Computes or applies one message and passes its consequence on; at size 1 results pile up in `answers`.
  void process(Message&& message);
  void poll() {
    if (out_) out_->poll();
  }
  bool idle() const { return !out_ || out_->idle(); }
  std::deque<Message>& answers() { return answers_; }
  std::uint64_t sent_bytes() const { return out_ ? out_->stats().bytes : 0; }

 private:
  void pass_on(Message&& message);
  Stage& stage_;
  Trace& trace_;
  bool last_;
  std::optional<SendChannel> out_;
  std::deque<Message> answers_;
};

// Rank 0's end of the ring.
class Pipeline {
 public:
  struct Options {
    std::int64_t max_in_flight = 0;      // frames; 0: twice the ranks and two
    std::chrono::seconds deadline{600};  // for any answer of the last rank
  };
  Pipeline(const MpiSession& mpi, Stage& stage, ThreadPool& pool, Trace& trace, const Options& options);
  ~Pipeline();

  SequenceId open(const SamplingOptions& sampling);
  // Computes this rank's layers and sends the rest on its way; waits while too many frames are in flight.
  void submit(Frame&& frame);
  // The tokens of the oldest frame whose answer was not taken yet; waits for it.
  std::vector<SampledToken> next_result();
  std::int64_t in_flight() const { return submitted_ - answered_; }
  std::int64_t pending_results() const { return submitted_ - taken_; }
  // Ends a sequence; the digest of its logits rows. Results must have been taken.
  std::uint64_t close(SequenceId sequence);
  // Ends the run on all ranks.
  void stop(ExitCode code);
  double wait_s() const { return wait_s_; }
  std::uint64_t sent_bytes() const { return runner_.sent_bytes(); }
  FrameLimits limits() const { return stage_.limits(); }

 private:
  void send(MessageKind kind, SequenceId sequence, const SamplingOptions* sampling);
  void poll();
  void take_answers();
  void wait_for(const std::function<bool()>& ready);

  const MpiSession& mpi_;
  Stage& stage_;
  ThreadPool& pool_;
  Trace& trace_;
  Options options_;
  StageRunner runner_;
  std::optional<ReceiveChannel> ring_;
  std::deque<std::vector<SampledToken>> results_;
  std::optional<std::uint64_t> digest_;
  SequenceId next_sequence_ = 1;
  std::uint64_t next_id_ = 1;
  std::int64_t submitted_ = 0, answered_ = 0, taken_ = 0;
  double wait_s_ = 0;
};

// The life of every other rank: computes what comes until the run is stopped. Returns the run's exit code.
ExitCode serve(const MpiSession& mpi, Stage& stage, ThreadPool& pool, Trace& trace, RankReport& report);

// Every rank's report on rank 0, in order of rank; collective.
std::vector<RankReport> gather_reports(const MpiSession& mpi, const RankReport& mine);
// Fields that this process knows about itself.
RankReport local_report(const MpiSession& mpi, const Stage& stage, double wait_s, std::uint64_t sent_bytes);

}  // namespace jupiter

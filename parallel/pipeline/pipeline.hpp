// The ring of stages: rank 0 submits frames, every rank computes its layers, the last rank answers rank 0.
#pragma once

#include <deque>
#include <map>
#include <optional>

#include "parallel/comm/channel.hpp"
#include "parallel/comm/trace.hpp"
#include "parallel/pipeline/invariants.hpp"
#include "parallel/pipeline/stage.hpp"

namespace jupiter {

// What one rank held and did, for reports.
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
  std::uint64_t gathers = 0;  // with the other boards of its tensor group
  double gather_wait_s = 0;   // of compute_s: waiting for their pieces
  template <typename Self, typename Visit>
  static void fields(Self& s, Visit&& visit) {
    visit(s.rank, s.host, s.first_layer, s.last_layer, s.weight_bytes, s.kv_bytes, s.peak_rss_bytes, s.compute_s,
          s.wait_s, s.sent_bytes, s.gathers, s.gather_wait_s);
  }
};

// A stage and the channel that its output goes to: the next rank, or rank 0 from the last one.
class StageRunner {
 public:
  StageRunner(const MpiSession& mpi, Stage& stage, Trace& trace);

  // Computes or applies one message, and passes on what follows from it; a pipeline of one stage collects results in
  // answers(). on_layer_done: as in Stage::forward().
  void process(Message&& message, const std::function<void()>& on_layer_done = {});
  // Last rank: sends rank 0 what drafters on other ranks found since the last answer.
  void send_late_drafts();
  // A stage that shares the output head: computes what the last one asked for. It may be called between two layers.
  void help();
  void poll();
  bool idle() const;
  std::deque<Message>& answers() { return answers_; }
  std::uint64_t sent_bytes() const;

 private:
  void pass_on(Message&& message);
  void tell_group(const Message& message);
  void compute(Message&& message, const std::function<void()>& on_layer_done);
  void send_verdicts(const FrameResult& result, std::uint64_t id);
  Stage& stage_;
  GroupChannels* group_;  // null: this board is a stage of its own
  Trace& trace_;
  bool last_;
  std::optional<SendChannel> out_;
  SharedHead* shared_head_;            // null: nobody helps this stage
  std::optional<HeadHelper> helper_;   // of a stage that shares the last one's output head
  std::vector<SendChannel> verdicts_;  // last rank only: to the stages between the first one and itself
  std::deque<Message> answers_;
  RingInvariants invariants_;
};

// What a rank does while it waits.
class IdleWork {
 public:
  virtual ~IdleWork() = default;
  // Does one piece of work, if there is any. It ends early once should_yield() says that something better is to do.
  virtual void work(const std::function<bool()>& should_yield) = 0;
  virtual double spent_s() const = 0;
};

// Rank 0's end of the ring.
class Pipeline {
 public:
  struct Options {
    std::int64_t max_in_flight = 0;      // frames; 0 means twice the stages and two
    std::chrono::seconds deadline{600};  // for any answer of the last rank
    IdleWork* idle = nullptr;            // may be null; must outlive the pipeline
    bool shared_head = false;            // stages share the output head
  };
  Pipeline(const MpiSession& mpi, Stage& stage, ThreadPool& pool, Trace& trace, const Options& options);
  ~Pipeline();

  SequenceId open(const SequenceOptions& options);
  // Computes this rank's layers and sends the frame to the next rank. Waits while too many frames are in flight.
  void submit(Frame&& frame);
  // Waits for the next answer, in the order of their arrival: those to frames in the order of the frames, and late
  // ones.
  FrameResult next_result();
  bool has_result() const { return !results_.empty(); }
  std::int64_t in_flight() const { return submitted_ - answered_; }
  std::int64_t pending_results() const { return submitted_ - taken_; }
  // Ends a sequence. Its frames that are on their way end before it.
  void close(SequenceId sequence, const SequenceClose& close);
  bool is_closed(SequenceId sequence) const { return closed_.contains(sequence); }
  // Waits for what a closed sequence leaves behind.
  SequenceEnd closed(SequenceId sequence);
  // Ends the run on all ranks.
  void stop(ExitCode code);
  double wait_s() const { return wait_s_ - (options_.idle != nullptr ? options_.idle->spent_s() : 0); }
  std::uint64_t sent_bytes() const { return runner_.sent_bytes(); }
  // Seconds that each stage computed, by stage: of all frames that were answered.
  const std::vector<double>& compute_s() const { return compute_s_; }
  FrameLimits limits() const { return stage_.limits(); }
  const Stage& stage() const { return stage_; }  // this rank's

 private:
  void poll();
  void take_answers();
  void add_cost(const FrameCost& cost);
  void wait_for(const std::function<bool()>& ready);

  const MpiSession& mpi_;
  Stage& stage_;
  ThreadPool& pool_;
  Trace& trace_;
  Options options_;
  StageRunner runner_;
  std::optional<ReceiveChannel> ring_;
  std::deque<FrameResult> results_;
  std::multimap<SequenceId, SequenceEnd> closed_;  // a kept sequence is closed twice; equal keys stay in order
  SequenceId next_sequence_ = 1;
  std::uint64_t next_id_ = 1;
  std::int64_t submitted_ = 0, answered_ = 0, taken_ = 0;
  RingInvariants invariants_;
  double wait_s_ = 0;
  std::vector<double> compute_s_;
};

// What the leader of every other stage does: it computes what comes until the run is stopped. Returns the run's exit
// code.
ExitCode serve(const MpiSession& mpi, Stage& stage, ThreadPool& pool, Trace& trace, RankReport& report, IdleWork* idle);

// What the other boards of a tensor group do: they compute what their leader does until the run is stopped.
ExitCode follow(const MpiSession& mpi, Stage& stage, ThreadPool& pool, Trace& trace, RankReport& report);

// The report of this rank.
RankReport local_report(const MpiSession& mpi, const Stage& stage, double wait_s, std::uint64_t sent_bytes);

}  // namespace jupiter

// The last rank's end of the pipeline: rows that need the head, tokens drawn from their logits, trees verified.
#pragma once

#include <chrono>
#include <map>
#include <memory>

#include "io/hash.hpp"
#include "kernels/kernel_table.hpp"
#include "parallel/pipeline/speculation.hpp"
#include "parallel/plan/stage_memory.hpp"

namespace jupiter {

// What opens a sequence on every stage.
struct SequenceOptions {
  SamplingOptions sampling;
  DecodeOptions decode;
  SequenceId parent = 0;            // a kept sequence whose first positions it shares; 0: none
  std::int64_t shared_tokens = 0;   // how many
  std::vector<TokenId> end_tokens;  // a tree does not go past them
};

// How a sequence ends.
struct SequenceClose {
  std::int64_t new_tokens = 0;   // how many count; those behind were never shown to anyone
  std::int64_t kept_tokens = 0;  // so many first positions stay for later sequences to share, until it is closed again
  Verdict verdict;               // the newest that rank 0 knew: kept positions of a tree are committed by it
};

// What a sequence leaves behind.
struct SequenceEnd {
  std::uint64_t logits_digest = 0;
  DraftStats draft;
};

// Receives the logits of rows at `position` of runs with FrameRun::every_row, in order; the span dies with the call.
using LogitsSink = std::function<void(SequenceId sequence, std::int64_t position, std::span<const float> logits)>;
// Rows of the frame at the end of the model.
struct OutputHeadRows {
  MatrixView<const float> logits;  // [rows][vocab_size]
  MatrixView<const float> hidden;  // [rows][dim], after the final norm
};
// Both live until the next call. Without logits: hidden alone. With logits: at most kMaxDrawnRows rows.
using OutputHeadPass = std::function<OutputHeadRows(std::span<const std::int64_t> rows, bool logits)>;
// Receives hidden rows of runs with FrameRun::hidden, in order, as LogitsSink does.
using HiddenSink = std::function<void(SequenceId sequence, std::int64_t position, std::span<const float> hidden)>;
// Drafters of a new sequence.
using DrafterFactory = std::function<DraftMixer()>;

class Decoder {
 public:
  Decoder(const KernelTable& kernels, int stages) : kernels_(kernels), cost_(stages) {}

  void open(SequenceId sequence, const SequenceOptions& options);
  SequenceEnd close(SequenceId sequence, const SequenceClose& close);
  // A frame after the last layer, without the rows that some stage found rejected. spent_s: this stage's time so far.
  FrameResult decode(const Frame& frame, double spent_s, const OutputHeadPass& pass);

  // What drafters on other ranks found since: segments that follow those sent before; mostly none.
  FrameResult late_drafts();

  // What a frame cost all stages.
  void observe(const Frame& frame) { cost_.observe(frame.rows(), frame.cost); }

  void set_logits_sink(LogitsSink sink) { sink_ = std::move(sink); }
  void set_hidden_sink(HiddenSink sink) { hidden_sink_ = std::move(sink); }
  // Seconds of frames of the first StepCost::kShape widths on any stage: what width costs, before frames tell.
  void set_shape(std::span<const double> seconds) { cost_.set_shape(seconds); }
  void set_drafters(DrafterFactory factory) { drafters_ = std::move(factory); }

 private:
  struct State {
    SequenceOptions options;
    std::vector<TokenId> history;  // tokens by position, where no speculation keeps them
    std::optional<Speculation> speculation;
    Hasher logits;
    std::vector<std::uint64_t> digests;  // after each new token
    std::chrono::steady_clock::time_point root_sent;
    bool root_on_way = false;
    std::chrono::steady_clock::time_point segments_sent;
    std::uint64_t seen = 0;  // number of the newest frame with rows of it
  };
  // A run while its rows pass the head.
  struct Walk {
    const FrameRun* run = nullptr;
    State* state = nullptr;
    std::int64_t first_row = 0;
    std::vector<TokenId> tokens;  // of linear runs
    std::int64_t digested = 0;    // of linear runs: rows behind which the head is wanted next
    bool done = false;
  };
  State& state(SequenceId sequence);
  void time_lap(const Walk& walk, const Frame& frame, double spent_s);
  void take_rows(const Frame& frame, std::vector<Walk>& walks);
  std::vector<std::int64_t> rows_of(const Walk& walk, std::size_t limit) const;
  void advance(Walk& walk, std::span<const std::int64_t> rows, const OutputHeadRows& passed, std::int64_t first);
  void advance_linear(Walk& walk, std::size_t rows, const OutputHeadRows& passed, std::int64_t first);
  static void digest(State& state, std::span<const float> logits);
  void show_rows(const Walk& walk, const OutputHeadPass& pass) const;
  void show_hidden(const Walk& walk, const OutputHeadPass& pass) const;
  TokenId draw(State& state, std::span<const float> logits);
  int sequences_under_way() const;
  Company company_of(const Frame& frame) const;
  static bool ends(const State& state, TokenId token);

  const KernelTable& kernels_;
  StepCost cost_;
  OutputHeadCost output_head_cost_;
  std::uint64_t frames_ = 0;
  std::map<SequenceId, State> states_;
  LogitsSink sink_;
  HiddenSink hidden_sink_;
  DrafterFactory drafters_;
};

}  // namespace jupiter

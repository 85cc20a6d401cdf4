// What the last rank does after its layers: it passes rows through the output head, draws tokens from their logits, and
// verifies trees of drafted tokens.
#pragma once

#include <chrono>
#include <map>
#include <memory>

#include "io/hash.hpp"
#include "kernels/kernel_table.hpp"
#include "parallel/pipeline/output_head.hpp"
#include "parallel/pipeline/speculation.hpp"
#include "parallel/plan/stage_memory.hpp"

namespace jupiter {

// What every stage must know to open a sequence.
struct SequenceOptions {
  SamplingOptions sampling;
  DecodeOptions decode;
  SequenceId parent = 0;            // a kept sequence whose first positions it shares; 0: none
  std::int64_t shared_tokens = 0;   // how many positions it shares
  std::vector<TokenId> end_tokens;  // the answer ends with any of them, and nothing is drafted after it
  std::vector<LogitBias> logit_bias = {};
  GrammarSpec grammar = {};          // that the answer follows; then it must have end tokens
  std::int64_t answer_position = 0;  // of its first token
};

// How a sequence ends.
struct SequenceClose {
  std::int64_t new_tokens = 0;   // how many tokens of the answer count; later ones were never shown to anyone
  std::int64_t kept_tokens = 0;  // so many first positions stay for later sequences to share, until it is closed again
  Verdict verdict;               // the newest that rank 0 knew, which commits kept positions of a tree
};

// What a sequence leaves behind.
struct SequenceEnd {
  std::uint64_t logits_digest = 0;
  DraftStats draft;
};

// Receives the logits, [vocab_size], of every row of runs with FrameRun::every_row, in the order of their positions.
// The span is valid during the call only.
using LogitsSink = std::function<void(SequenceId sequence, std::int64_t position, std::span<const float> logits)>;
// Receives the hidden rows, [dim], of runs with FrameRun::hidden, as LogitsSink receives logits.
using HiddenSink = std::function<void(SequenceId sequence, std::int64_t position, std::span<const float> hidden)>;
// Makes the drafters of a new sequence.
using DrafterFactory = std::function<DraftMixer()>;
// Loads the texts of all tokens, for grammars.
using VocabularyLoader = std::function<std::shared_ptr<const TokenTrie>()>;

class Decoder {
 public:
  Decoder(const KernelTable& kernels, int stages) : kernels_(kernels), cost_(stages) {}

  void open(SequenceId sequence, const SequenceOptions& options);
  SequenceEnd close(SequenceId sequence, const SequenceClose& close);
  // Decodes a frame after the last layer. Rows that a stage found rejected are gone from it. spent_s: seconds that this
  // stage has spent on the frame so far.
  FrameResult decode(const Frame& frame, double spent_s, const OutputHeadPass& pass);

  // Segments of what drafters on other ranks found since the last results. They follow those that were sent before;
  // mostly there are none.
  FrameResult late_drafts();

  // Learns from what a frame cost the stages.
  void observe(const Frame& frame) { cost_.observe(frame.rows(), frame.cost); }

  void set_logits_sink(LogitsSink sink) { sink_ = std::move(sink); }
  void set_hidden_sink(HiddenSink sink) { hidden_sink_ = std::move(sink); }
  // seconds: times of frames of StepCost::kShape rows on any stage, from which the cost of a frame by its rows is known
  // before the first frames come.
  void set_shape(std::span<const double> seconds) { cost_.set_shape(seconds); }
  void set_drafters(DrafterFactory factory) { drafters_ = std::move(factory); }
  // Called when the first sequence with a grammar opens.
  void set_vocabulary(VocabularyLoader loader) { load_vocabulary_ = std::move(loader); }

 private:
  struct State {
    SequenceOptions options;
    std::vector<TokenId> history;            // tokens by position; empty where `speculation` keeps them
    std::unique_ptr<Constraint> constraint;  // where it has a grammar
    std::optional<Speculation> speculation;
    Hasher logits;
    std::vector<TokenLogprob> logprobs;               // of the tokens drawn in this frame
    std::vector<std::uint64_t> digests;               // after each new token
    std::chrono::steady_clock::time_point root_sent;  // when the newest tree's root left, whose lap is timed
    bool root_on_way = false;
    std::chrono::steady_clock::time_point segments_sent;  // when the newest segments left
    DrawInvariants invariants;
    std::uint64_t newest_frame = 0;  // number of the newest frame that has rows of it
  };
  // A run on its way through the output head.
  struct Walk {
    const FrameRun* run = nullptr;
    State* state = nullptr;
    std::int64_t first_row = 0;
    std::vector<TokenId> tokens;  // runs of consecutive positions: the token that was drawn
    std::int64_t digested = 0;    // runs of consecutive positions: how many rows are digested
    bool done = false;
  };
  State& state(SequenceId sequence);
  std::unique_ptr<Constraint> constraint_of(const SequenceOptions& options);
  void time_lap(const Walk& walk, const Frame& frame, double spent_s);
  void take_rows(const Frame& frame, std::vector<Walk>& walks);
  std::vector<std::int64_t> rows_of(const Walk& walk, std::size_t limit) const;
  void advance(Walk& walk, std::span<const TokenId> tokens, std::span<const std::int64_t> rows,
               const OutputHeadRows& passed, std::int64_t first);
  void advance_linear(Walk& walk, std::span<const TokenId> tokens, std::size_t rows, const OutputHeadRows& passed,
                      std::int64_t first);
  static void digest(State& state, std::int64_t position, std::uint64_t row_digest);
  static std::int64_t candidates_for(const State& state);
  void show_rows(const Walk& walk, const OutputHeadPass& pass) const;
  void show_hidden(const Walk& walk, const OutputHeadPass& pass) const;
  TokenId choose(State& state, const std::vector<TokenId>& history, std::span<const float> logits) const;
  TokenId draw(State& state, TokenId row_token, const OutputHeadRows& passed, std::int64_t row);
  int active_sequences() const;
  PipelineLoad load_of(const Frame& frame) const;
  static bool ends(const State& state, TokenId token);

  const KernelTable& kernels_;
  StepCost cost_;
  OutputHeadCost output_head_cost_;
  std::uint64_t frames_ = 0;
  std::map<SequenceId, State> states_;
  LogitsSink sink_;
  HiddenSink hidden_sink_;
  DrafterFactory drafters_;
  VocabularyLoader load_vocabulary_;
  std::optional<MatcherCache> matchers_;  // once there was a grammar
};

}  // namespace jupiter

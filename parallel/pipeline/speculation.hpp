// Speculative decoding of one sequence, on the last rank: which drafted tokens are on their way, which of them the
// model's own logits confirmed, and which to send next. It is exact: every token is the one that plain decoding would
// draw from the same row of logits with the same random number. A draft only decides whether that row is there already.
//
// Trees grow best-first by joint probability, as in Sequoia (Chen et al. 2024) and EAGLE-2 (Li et al. 2024). A lap is
// the time that a frame takes once round the ring of stages, a slot the time that the slowest stage takes for it. In
// lap mode one segment is on its way round the ring. In continuous mode (PipeInfer, Butler et al. 2024; PipeDec;
// FlowSpec) several follow each other, one a slot, and decoding goes on after a hit without waiting for a lap.
#pragma once

#include <functional>

#include "kernels/sampler.hpp"
#include "parallel/draft/draft.hpp"
#include "parallel/pipeline/constraint.hpp"
#include "parallel/pipeline/decode_options.hpp"
#include "parallel/pipeline/invariants.hpp"
#include "parallel/pipeline/step_cost.hpp"

namespace jupiter {

struct DraftStats {
  static constexpr std::size_t kDepths = 16;
  std::int64_t steps = 0;     // passes that carried rows of this sequence, after prefill
  std::int64_t rows = 0;      // rows that were computed in them
  std::int64_t accepted = 0;  // drafted tokens that were right
  std::int64_t misses = 0;    // tokens that no draft had foreseen
  std::array<std::int64_t, kDraftSources> sent_by{}, accepted_by{};
  // By depth since the last miss: how many tokens were decided there, and how many of them were drafted right.
  std::array<std::int64_t, kDepths> reached{}, right{};
  double draft_s = 0;  // time spent on drafting
  NeuralUse neural;
  DraftStats& operator+=(const DraftStats& other);
};

// What else is on the pipeline and shares its time with a sequence's rows.
struct PipelineLoad {
  int sequences = 1;                 // that are being decoded, this one included
  std::int64_t others_in_frame = 0;  // how many other sequences decode in the same frame
  std::int64_t prompt_rows = 0;      // rows of prompts in the same frame
};

class Speculation {
 public:
  // constraint: of the answer, or none; it must outlive this. Drafts that it refuses are not sent.
  Speculation(const DecodeOptions& options, DraftMixer drafters, Constraint* constraint = nullptr)
      : options_(options), drafters_(std::move(drafters)), constraint_(constraint), invariants_(options) {}

  // Takes tokens of the prompt; drafters see them, too.
  void read(std::span<const TokenId> prompt);
  // Takes the first token after the prompt, which is the root of the first tree. last: the answer ends with it.
  void start(TokenId first, bool last) { accept(first, last); }

  // Takes the rows of a segment that has arrived. They are looked at one after the other, along the path that the model
  // takes.
  void arrive(const FrameRun& run, std::span<const TreeLink> links);
  // Which of the arrived rows decides the next token with its logits; none where the path leaves the frame.
  std::optional<std::size_t> next_row() const;
  // Rows that are worth passing through the output head together: next_row(), and those that will be it with at least
  // this probability.
  std::vector<std::size_t> next_rows(std::size_t limit, double least_probability) const;
  // Takes the hidden row (after the final norm) that decides the next token; comes before start() and accept().
  void set_hidden(std::span<const float> hidden) { drafters_.set_hidden(hidden); }
  // Takes the token that follows next_row(). last: the answer ends with it.
  void accept(TokenId token, bool last);
  // A drafted child of the newest token that `accepted` lets follow it (typical acceptance), if there is one.
  std::optional<TokenId> plausible_child(const std::function<bool(TokenId)>& accepted) const;

  // What goes to rank 0: the tokens since the last call, where the last one stands, and new segments.
  SequenceResult result(SequenceId sequence, const StepCost& cost, const PipelineLoad& load);
  // Segments of what a drafter on another rank found since the last result, if it found anything.
  std::optional<SequenceResult> late_result(SequenceId sequence, const StepCost& cost, const PipelineLoad& load);

  const std::vector<TokenId>& history() const { return history_; }
  DraftStats stats() const {
    DraftStats s = stats_;
    s.neural = drafters_.neural_use();
    return s;
  }

 private:
  struct Node {
    TreeLink link;
    TokenId token = 0;
    float probability = 0;  // given its parent
    DraftSource source = DraftSource::lookup;
  };
  // A node while a tree grows.
  struct Candidate {
    Node node;
    double joint = 1;
    bool sent = false;
    std::int32_t up = -1;  // index of its parent among the expanded nodes
    std::int32_t depth = 0;
    Constraint::State state = 0;  // of the answer with it, where it is constrained
  };
  struct Growth;
  std::vector<Candidate> grow(std::size_t count);
  void expand(Growth& growth, std::int32_t index);
  void timed_extend(SequenceResult& result, const StepCost& cost, const PipelineLoad& load, bool late);
  void extend(SequenceResult& result, const StepCost& cost, const PipelineLoad& load, bool late);
  std::size_t segments_in_flight(const StepCost& cost, const PipelineLoad& load) const;
  std::size_t best_width(const std::vector<Candidate>& nodes, const StepCost& cost, const PipelineLoad& load,
                         std::size_t in_flight) const;
  void send(std::span<const Candidate> nodes, std::vector<NodeId>& ids, std::vector<Segment>& out);
  const Node* child(TokenId token) const;
  void descend_to(NodeId id);

  DecodeOptions options_;
  DraftMixer drafters_;
  Constraint* constraint_ = nullptr;
  std::vector<TokenId> history_;  // decided tokens; the last one is the root
  std::vector<Node> nodes_;       // nodes that were sent, descend from the root and can still be right
  std::vector<TreeLink> arrived_;
  Verdict verdict_;  // where the root stands
  bool root_sent_ = false;
  bool ended_ = false;
  NodeId next_id_ = 1;
  std::uint32_t epoch_ = 0;
  std::size_t outstanding_ = 0;  // segments of this epoch that are on their way
  std::size_t width_ = 0;        // rows of this epoch's segments
  std::size_t depth_ = 0;        // tokens since the last miss
  double token_s_ = 0;           // seconds that a token takes at present
  std::vector<TokenId> fresh_;   // decided tokens that were not reported yet
  DraftStats stats_;
  SpeculationInvariants invariants_;
};

}  // namespace jupiter

// Speculative decoding of one sequence, on the last rank: which drafted tokens are under way, what the model's own
// logits made of them, and which to send next. Exact: every token is the one that plain decoding would draw from the
// same logits row, with the same random number; a draft only decides whether its row is there already.
//
// Trees grow best-first by joint probability, as in Sequoia (Chen et al. 2024) and EAGLE-2 (Li et al. 2024). In lap
// mode one segment is on its way round the ring; in continuous mode (PipeInfer, Butler et al. 2024; PipeDec; FlowSpec)
// several follow each other, and a hit goes on without waiting for a lap.
#pragma once

#include <functional>

#include "kernels/sampler.hpp"
#include "parallel/draft/draft.hpp"
#include "parallel/pipeline/frame.hpp"
#include "parallel/pipeline/step_cost.hpp"

namespace jupiter {

enum class DecodeMode : std::uint8_t { plain = 0, lap = 1, continuous = 2 };

// How a sequence is decoded; travels to all stages when it opens.
struct DecodeOptions {
  DecodeMode mode = DecodeMode::plain;
  bool typical = false;           // accept what is plausible instead of what would be drawn (Cai et al., Medusa, 2024)
  std::int32_t draft_max = 16;    // nodes of a segment besides its root
  std::int32_t fixed_width = 0;   // rows of a segment; 0: chosen by cost
  std::int64_t end_position = 0;  // tokens at this position and later are not computed
};

struct DraftStats {
  static constexpr std::size_t kDepths = 16;
  std::int64_t steps = 0;     // passes that carried rows of this sequence, after prefill
  std::int64_t rows = 0;      // computed in them
  std::int64_t accepted = 0;  // drafted tokens that were right
  std::int64_t misses = 0;
  std::array<std::int64_t, kDraftSources> sent_by{}, accepted_by{};
  std::array<std::int64_t, kDepths> reached{}, right{};  // by depth since the last miss
  double draft_s = 0;
  NeuralUse neural;
  DraftStats& operator+=(const DraftStats& other);
};

// Others on the pipeline: a row then competes with theirs.
struct Company {
  int sequences = 1;             // under way, this one included
  std::int64_t beside = 0;       // of them, in the same frame
  std::int64_t prompt_rows = 0;  // in the same frame
};

class Speculation {
 public:
  Speculation(const DecodeOptions& options, DraftMixer drafters) : options_(options), drafters_(std::move(drafters)) {}

  // Tokens of the prompt; drafters see them.
  void read(std::span<const TokenId> prompt);
  // The first token after the prompt: the root of the first tree.
  void start(TokenId first, bool last) { accept(first, last); }

  // Rows of a segment arrived. They are looked at one after the other, along the path that the model takes.
  void arrive(const FrameRun& run, std::span<const TreeLink> links);
  // The row (of those arrived) whose logits decide the next token; none: the path leaves the frame.
  std::optional<std::size_t> wanted() const;
  // Rows worth passing through the head in the same go: more than the wanted one where that is cheaper than level by
  // level.
  std::vector<std::size_t> wanted_rows(std::size_t limit, double least_probability) const;
  // The hidden row (after the final norm) that decides the next token; comes before start() and accept().
  void see(std::span<const float> hidden) { drafters_.see(hidden); }
  // The token after wanted()'s row. last: the answer ends with it.
  void accept(TokenId token, bool last);
  // Whether any of the drafted children of the newest token may follow instead (typical acceptance).
  std::optional<TokenId> plausible_child(const std::function<bool(TokenId)>& accepted) const;

  // What goes to rank 0: tokens since the last call, where they stand, and new segments.
  SequenceResult result(SequenceId sequence, const StepCost& cost, const Company& company);
  // Segments for what a drafter on another rank found since then, if there is any.
  std::optional<SequenceResult> late_result(SequenceId sequence, const StepCost& cost, const Company& company);

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
  // A node in the heap of growth.
  struct Candidate {
    Node node;
    double joint = 1;
    bool sent = false;
    std::int32_t up = -1;  // index of the parent among the expanded
    std::int32_t depth = 0;
  };
  struct Growth;
  std::vector<Candidate> grow(std::size_t count);
  void expand(Growth& growth, std::int32_t index);
  void timed_extend(SequenceResult& result, const StepCost& cost, const Company& company, bool late);
  void extend(SequenceResult& result, const StepCost& cost, const Company& company, bool late);
  std::size_t segments_in_flight(const StepCost& cost, const Company& company) const;
  std::size_t best_width(const std::vector<Candidate>& nodes, const StepCost& cost, const Company& company,
                         std::size_t in_flight) const;
  void send(std::span<const Candidate> nodes, std::vector<NodeId>& ids, std::vector<Segment>& out);
  const Node* child(TokenId token) const;
  void descend_to(NodeId id);

  DecodeOptions options_;
  DraftMixer drafters_;
  std::vector<TokenId> history_;  // decided tokens; the last one is the root
  std::vector<Node> nodes_;       // sent and alive, behind the root
  std::vector<TreeLink> arrived_;
  Verdict verdict_;  // where the root stands
  bool root_sent_ = false;
  bool ended_ = false;
  NodeId next_id_ = 1;
  std::uint32_t epoch_ = 0;
  std::size_t outstanding_ = 0;  // segments of this epoch on their way
  std::size_t width_ = 0;        // of this epoch's segments
  std::size_t depth_ = 0;        // tokens since the last miss
  double token_s_ = 0;           // what a token takes as things are
  std::vector<TokenId> fresh_;   // not reported yet
  DraftStats stats_;
};

}  // namespace jupiter

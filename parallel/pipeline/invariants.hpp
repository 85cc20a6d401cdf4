// The invariants of the speculation protocol (parallel/pipeline/SPECULATION.md), all checked here. Stage, Speculation,
// Decoder, StageRunner, Pipeline and Scheduler report their events. The classes below remember what they need to judge
// them, by other means than the code that they watch, and throw where an event breaks an invariant. A frame costs a few
// searches in lists of a few dozen nodes, so the checks stay on in every build.
#pragma once

#include <array>
#include <deque>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "io/error.hpp"
#include "kernels/token_tree.hpp"
#include "parallel/pipeline/decode_options.hpp"
#include "parallel/pipeline/frame.hpp"

namespace jupiter {

// Numbered as in parallel/pipeline/SPECULATION.md.
enum class Invariant : int {
  a_draft_never_decides_a_token = 1,
  numbers_of_nodes_ascend_and_are_used_once = 2,
  frames_pass_every_stage_in_order = 3,
  verdicts_take_effect_between_frames = 4,
  a_verdict_may_come_in_any_order = 5,
  the_tip_only_rises = 6,
  a_row_is_live_where_its_path_can_be_right = 7,
  a_decided_node_is_committed_after_its_row = 8,
  a_frame_is_given_up_only_without_hope = 9,
  the_root_goes_out_once_and_first = 10,
  outstanding_segments_are_bounded = 11,
  void_segments_are_not_sent = 12,
  a_late_result_is_no_credit = 13,
  a_tree_fits_into_its_spare_blocks = 14,
  nothing_is_computed_behind_the_end = 15,
  the_digest_counts_rows_in_order = 16,
};
constexpr std::size_t kInvariants = 16;
std::string name(Invariant invariant);  // "invariant 3 (frames pass every stage in order)"

// A defect of this program: the event that is named broke the invariant.
class BrokenInvariant : public RunError {
 public:
  BrokenInvariant(Invariant invariant, const std::string& event);
  Invariant invariant() const { return invariant_; }

 private:
  Invariant invariant_;
};

// How often this process has checked an invariant, on its main thread. Tests ask, so that none of them passes because
// nothing was looked at.
std::int64_t times_checked(Invariant invariant);

// What a stage does with frames and verdicts.
class StageInvariants {
 public:
  // stages: their number in the pipeline.
  explicit StageInvariants(int stages) : stages_(stages) {}

  void opened(SequenceId sequence, const DecodeOptions& options);
  void closed(SequenceId sequence) { sequences_.erase(sequence); }
  // A frame came in, nothing of it was applied yet. Invariants 2 and 15.
  void frame_came(const Frame& frame);
  // A row of a tree stays in its frame (kept) or is taken out. kept_rows: those of its run that stay before it. 7.
  void row_pruned(SequenceId id, const Sequence& sequence, const TreeLink& row, std::span<const NodeId> kept_rows,
                  bool kept);
  // A kept row has its place in the cache. Invariants 14 and 15.
  void row_placed(SequenceId id, const Sequence& sequence, std::int64_t position);
  // The layers of a frame begin; they end when the value that is returned dies. Invariant 4.
  class Computing {
   public:
    explicit Computing(bool& computing) : computing_(computing) { computing_ = true; }
    ~Computing() { computing_ = false; }
    Computing(const Computing&) = delete;
    Computing& operator=(const Computing&) = delete;

   private:
    bool& computing_;
  };
  [[nodiscard]] Computing layers_begin() { return Computing(computing_); }
  // All layers of the frame are computed.
  void frame_computed(const Frame& frame);
  // A verdict left no hope for the frame, whose rows are still in it.
  void frame_given_up(const Frame& frame);
  // The frame leaves the stage. runs: those that it came with. answers: on the last stage those in its result. 9.
  void frame_done(const Frame& frame, std::size_t runs, std::optional<std::size_t> answers);
  // A sequence forgot its tree, because a frame begins before it or because it is closed.
  void tree_forgotten(SequenceId sequence);
  // A verdict, or a decided node (no verdict), was applied to `before` and made it `after`. Invariants 4 to 6, 8, 9.
  void verdict_applied(SequenceId id, const Sequence& before, const Sequence& after,
                       const std::optional<Verdict>& verdict);

 private:
  struct Tree {
    DecodeOptions options;
    NodeId newest = 0;              // highest number of a row that came
    std::vector<NodeId> computed;   // uncommitted nodes whose rows are computed
    std::vector<NodeId> abandoned;  // nodes of frames that were given up
  };
  void check_commit(SequenceId id, const Tree& tree, const Sequence& before, const Sequence& after);
  int stages_;
  bool computing_ = false;
  std::map<SequenceId, Tree> sequences_;
};

// What the last rank drafts, sends and counts for one sequence.
class SpeculationInvariants {
 public:
  explicit SpeculationInvariants(const DecodeOptions& options) : options_(options) {}

  // A token was decided: by a hit, whose node is then the root, or a miss, which begins an epoch. decided: tokens of
  // the sequence, this one included. last: the answer ends with it. Invariants 2 and 15.
  void token_decided(bool hit, NodeId root, std::uint32_t epoch, std::int64_t decided, bool last);
  // Invariants 2, 10, 11 and 15. stages: their number in the pipeline.
  void segment_sent(const Segment& segment, bool late, int stages);
  // A run of this sequence came back, the segment of an epoch.
  void segment_came_back(std::uint32_t epoch);
  // What this class counted; the code must have counted the same. Invariant 11.
  void outstanding_is(std::size_t found);

 private:
  DecodeOptions options_;
  std::map<NodeId, std::int64_t> positions_;  // of this epoch's nodes
  NodeId root_ = 0;
  NodeId newest_ = 0;
  bool root_sent_ = false;
  bool ended_ = false;
  std::uint32_t epoch_ = 0;
  std::size_t outstanding_ = 0;
};

// Which rows decide tokens and count in the digest, for one sequence on the last rank.
class DrawInvariants {
 public:
  // The row that was computed from `row_token` decides the token after `newest`. taken: a drafted token was taken
  // because it is plausible, which only `typical` allows. Invariant 1.
  void token_drawn(TokenId row_token, TokenId newest, bool taken, bool typical);
  // The row before the token at `position` is digested. Invariant 16.
  void row_digested(std::int64_t position);

 private:
  std::optional<std::int64_t> newest_;
};

// The order of messages on one stage, and rank 0's accounts of frames and answers.
class RingInvariants {
 public:
  // A message of rank 0 is processed by a stage. Invariant 3.
  void message_came(std::uint64_t id);
  // Rank 0 sends a frame, and gets its answer or a late result. Invariants 9 and 13.
  void frame_submitted(std::uint64_t id) { unanswered_.push_back(id); }
  void result_came(std::uint64_t id, const FrameResult& result);
  // Rank 0's scheduler sends a segment of a sequence whose newest epoch is known to be `newest`. Invariant 12.
  void segment_submitted(const Segment& segment, std::uint32_t newest);

 private:
  std::uint64_t newest_message_ = 0;
  std::deque<std::uint64_t> unanswered_;
};

}  // namespace jupiter

#include "parallel/pipeline/invariants.hpp"

#include <algorithm>

#include "io/enum_names.hpp"

namespace jupiter {

namespace {

constexpr std::array<const char*, kInvariants> kNames = {
    "a draft never decides a token",
    "numbers of nodes ascend and are used once",
    "frames pass every stage in order",
    "verdicts take effect between frames",
    "a verdict may come in any order",
    "the tip only rises",
    "a row is live where its path can be right",
    "a decided node is committed after its row",
    "a frame is given up only without hope",
    "the root goes out once and first",
    "outstanding segments are bounded",
    "void segments are not sent",
    "a late result is no credit",
    "a tree fits into its spare blocks",
    "nothing is computed behind the end",
    "the digest counts rows in order",
};

std::array<std::int64_t, kInvariants> counts;  // of checks

// event() says what happened; it is called only where the invariant is broken.
template <typename Event>
void require(Invariant invariant, bool holds, const Event& event) {
  ++counts[index_of(invariant) - 1];
  if (!holds) throw BrokenInvariant(invariant, event());
}

bool has(const std::vector<NodeId>& nodes, NodeId node) {
  return std::find(nodes.begin(), nodes.end(), node) != nodes.end();
}

const TreeNode* find(const Sequence& s, NodeId node) {
  const auto it = std::find_if(s.nodes.begin(), s.nodes.end(), [&](const TreeNode& n) { return n.id == node; });
  return it == s.nodes.end() ? nullptr : &*it;
}

std::string text(SequenceId sequence, NodeId node) {
  return "node " + std::to_string(node) + " of sequence " + std::to_string(sequence);
}

bool same_state(const Sequence& a, const Sequence& b) {
  return a.tip == b.tip && a.length == b.length && a.decided == b.decided && a.nodes.size() == b.nodes.size();
}

}  // namespace

std::string name(Invariant invariant) {
  const auto number = index_of(invariant);
  return "invariant " + std::to_string(number) + " (" + kNames[number - 1] + ")";
}

BrokenInvariant::BrokenInvariant(Invariant invariant, const std::string& event)
    : RunError("speculation: " + name(invariant) + " is broken by " + event + " (a defect of this program)"),
      invariant_(invariant) {}

std::int64_t times_checked(Invariant invariant) {
  return counts[index_of(invariant) - 1];
}

void StageInvariants::opened(SequenceId sequence, const DecodeOptions& options) {
  sequences_[sequence] = Tree{options, 0, {}, {}};
}

void StageInvariants::frame_came(const Frame& frame) {
  std::size_t link = 0;
  for (const FrameRun& run : frame.runs) {
    if ((run.flags & FrameRun::tree) == 0) continue;
    Tree& tree = sequences_[run.sequence];
    for (std::int32_t i = 0; i < run.rows; ++i) {
      const TreeLink& row = frame.links[link++];
      require(Invariant::numbers_of_nodes_ascend_and_are_used_once, row.node > tree.newest && row.node > row.parent,
              [&] { return text(run.sequence, row.node) + " after node " + std::to_string(tree.newest); });
      tree.newest = row.node;
    }
  }
}

// Written from the definition: a row is right if each step of its path is still possible.
void StageInvariants::row_pruned(SequenceId id, const Sequence& s, const TreeLink& row,
                                 std::span<const NodeId> kept_rows, bool kept) {
  const bool behind_kept = std::find(kept_rows.begin(), kept_rows.end(), row.parent) != kept_rows.end();
  const bool behind_tip = row.parent == s.tip && row.node > s.tip && s.decided.value_or(row.node) == row.node;
  const bool can_be_right = behind_kept || behind_tip || (row.parent != s.tip && find(s, row.parent) != nullptr);
  require(Invariant::a_row_is_live_where_its_path_can_be_right, kept == can_be_right,
          [&] { return text(id, row.node) + (kept ? ", which cannot be right but is kept" : ", which is taken out"); });
}

void StageInvariants::row_placed(SequenceId id, const Sequence& s, std::int64_t position) {
  const DecodeOptions& options = sequences_[id].options;
  const std::int64_t blocks = spare_tree_blocks(stages_, options.draft_max);
  require(Invariant::a_tree_fits_into_its_spare_blocks, std::ssize(s.spare) <= blocks, [&] {
    return "sequence " + std::to_string(id) + ", whose tree has " + std::to_string(s.spare.size()) +
           " spare blocks of at most " + std::to_string(blocks);
  });
  require(Invariant::nothing_is_computed_behind_the_end, position < options.end_position, [&] {
    return "a row of sequence " + std::to_string(id) + " at position " + std::to_string(position) +
           ", where computing ends at " + std::to_string(options.end_position);
  });
}

void StageInvariants::frame_computed(const Frame& frame) {
  std::size_t link = 0;
  for (const FrameRun& run : frame.runs) {
    if ((run.flags & FrameRun::tree) == 0) continue;
    Tree& tree = sequences_[run.sequence];
    for (std::int32_t i = 0; i < run.rows; ++i) tree.computed.push_back(frame.links[link++].node);
  }
}

void StageInvariants::frame_given_up(const Frame& frame) {
  std::size_t link = 0;
  for (const FrameRun& run : frame.runs) {
    if ((run.flags & FrameRun::tree) == 0) continue;
    Tree& tree = sequences_[run.sequence];
    for (std::int32_t i = 0; i < run.rows; ++i) tree.abandoned.push_back(frame.links[link++].node);
  }
}

void StageInvariants::frame_done(const Frame& frame, std::size_t runs, std::optional<std::size_t> answers) {
  require(Invariant::a_frame_is_given_up_only_without_hope, frame.runs.size() == runs && answers.value_or(runs) == runs,
          [&] {
            return "a frame of " + std::to_string(runs) + " runs that leaves with " +
                   std::to_string(frame.runs.size()) + " of them and " + std::to_string(answers.value_or(runs)) +
                   " answers";
          });
}

void StageInvariants::tree_forgotten(SequenceId sequence) {
  const auto it = sequences_.find(sequence);
  if (it == sequences_.end()) return;
  it->second.computed.clear();
  it->second.abandoned.clear();
}

// Every node that became committed was computed, and was in no frame that was given up.
void StageInvariants::check_commit(SequenceId id, const Tree& tree, const Sequence& before, const Sequence& after) {
  for (const TreeNode* n = find(before, after.tip); n != nullptr; n = find(before, n->parent)) {
    require(Invariant::a_frame_is_given_up_only_without_hope, !has(tree.abandoned, n->id),
            [&] { return text(id, n->id) + ", which is right but was in a frame that was given up"; });
    require(Invariant::a_decided_node_is_committed_after_its_row, has(tree.computed, n->id),
            [&] { return text(id, n->id) + ", which is committed but was not computed"; });
  }
}

void StageInvariants::verdict_applied(SequenceId id, const Sequence& before, const Sequence& after,
                                      const std::optional<Verdict>& verdict) {
  const auto event = [&] {
    return (verdict ? "verdict {" + std::to_string(verdict->node) + ", " + std::to_string(verdict->parent) + "}"
                    : std::string("the decided node")) +
           " on sequence " + std::to_string(id) + ", whose tip goes from " + std::to_string(before.tip) + " to " +
           std::to_string(after.tip);
  };
  require(Invariant::verdicts_take_effect_between_frames, !computing_ || !verdict, event);
  require(Invariant::the_tip_only_rises, after.tip >= before.tip && after.length >= before.length, event);
  if (verdict) {
    // About the past, or about nodes that are not known here: nothing changes. Otherwise its parent is committed, and
    // the node is or will be the only one that may follow.
    const bool known = find(before, verdict->node) != nullptr;
    const bool parent_known = verdict->parent == before.tip || find(before, verdict->parent) != nullptr;
    const bool applies = known || (verdict->node > before.tip && parent_known);
    const bool right = !applies ? same_state(before, after)
                       : known  ? after.tip == verdict->node
                                : after.tip == verdict->parent && after.decided == verdict->node && after.nodes.empty();
    require(Invariant::a_verdict_may_come_in_any_order, right, event);
  }
  Tree& tree = sequences_[id];
  check_commit(id, tree, before, after);
  require(Invariant::a_frame_is_given_up_only_without_hope, !after.decided || !has(tree.abandoned, *after.decided),
          [&] { return text(id, *after.decided) + ", which is decided but was in a frame that was given up"; });
  std::erase_if(tree.computed, [&](NodeId n) { return find(after, n) == nullptr; });
  std::erase_if(tree.abandoned, [&](NodeId n) { return n <= after.tip; });
}

void SpeculationInvariants::token_decided(bool hit, NodeId root, std::uint32_t epoch, std::int64_t decided, bool last) {
  require(Invariant::nothing_is_computed_behind_the_end, !ended_,
          [] { return std::string("a token that was decided after the end"); });
  const bool known = positions_.contains(root);
  require(Invariant::numbers_of_nodes_ascend_and_are_used_once, hit ? known : root > newest_,
          [&] { return "root " + std::to_string(root) + ", where the highest number is " + std::to_string(newest_); });
  if (!hit) {
    positions_.clear();
    newest_ = root;
    epoch_ = epoch;
    outstanding_ = 0;
    root_sent_ = false;
  }
  positions_[root] = decided - 1;
  positions_.erase(positions_.begin(), positions_.find(root));  // rejected by now, or decided
  root_ = root;
  ended_ = last;
}

void SpeculationInvariants::segment_sent(const Segment& segment, bool late, int stages) {
  const auto event = [&] {
    return "a segment of " + std::to_string(segment.links.size()) + " nodes of epoch " + std::to_string(segment.epoch) +
           ", root " + std::to_string(root_) + ", " + std::to_string(outstanding_) + " outstanding";
  };
  const bool begins_with_root = !segment.links.empty() && segment.links.front().node == root_;
  require(Invariant::the_root_goes_out_once_and_first,
          segment.epoch == epoch_ && !segment.links.empty() && (root_sent_ || begins_with_root), event);
  for (std::size_t i = 0; i < segment.links.size(); ++i) {
    const TreeLink& l = segment.links[i];
    const bool root = l.node == root_;
    require(Invariant::the_root_goes_out_once_and_first, !root || (i == 0 && !root_sent_), event);
    if (!root) {
      require(Invariant::numbers_of_nodes_ascend_and_are_used_once,
              l.node > newest_ && l.parent < l.node && positions_.contains(l.parent), event);
      newest_ = l.node;
      positions_[l.node] = positions_[l.parent] + 1;
    }
    require(Invariant::nothing_is_computed_behind_the_end, !ended_ && positions_[l.node] < options_.end_position,
            event);
  }
  root_sent_ = true;
  ++outstanding_;
  const auto most = static_cast<std::size_t>(options_.mode == DecodeMode::lap ? (late ? 2 : 1) : stages + 1);
  require(Invariant::outstanding_segments_are_bounded, outstanding_ <= most, event);
}

void SpeculationInvariants::segment_came_back(std::uint32_t epoch) {
  if (epoch == epoch_ && outstanding_ > 0) --outstanding_;
}

void SpeculationInvariants::outstanding_is(std::size_t found) {
  require(Invariant::outstanding_segments_are_bounded, found == outstanding_, [&] {
    return "a count of " + std::to_string(found) + " segments on their way, where " + std::to_string(outstanding_) +
           " are";
  });
}

void DrawInvariants::token_drawn(TokenId row_token, TokenId newest, bool taken, bool typical) {
  require(Invariant::a_draft_never_decides_a_token, row_token == newest && (!taken || typical), [&] {
    return taken && !typical ? std::string("a draft that was taken without being drawn")
                             : "a row of token " + std::to_string(row_token) + ", where token " +
                                   std::to_string(newest) + " is the newest";
  });
}

void DrawInvariants::row_digested(std::int64_t position) {
  require(Invariant::the_digest_counts_rows_in_order, !newest_ || position == *newest_ + 1, [&] {
    return "the row of the token at position " + std::to_string(position) + " after that of position " +
           std::to_string(newest_.value_or(0));
  });
  newest_ = position;
}

void RingInvariants::message_came(std::uint64_t id) {
  require(Invariant::frames_pass_every_stage_in_order, id > newest_message_,
          [&] { return "message " + std::to_string(id) + " after message " + std::to_string(newest_message_); });
  newest_message_ = id;
}

void RingInvariants::result_came(std::uint64_t id, const FrameResult& result) {
  if (result.late) {
    const bool has_tokens = std::any_of(result.sequences.begin(), result.sequences.end(),
                                        [](const SequenceResult& s) { return !s.tokens.empty(); });
    require(Invariant::a_late_result_is_no_credit, !has_tokens,
            [] { return std::string("a late result with tokens"); });
    return;
  }
  const bool expected = !unanswered_.empty() && unanswered_.front() == id;
  require(Invariant::a_frame_is_given_up_only_without_hope, expected, [&] {
    return "an answer to frame " + std::to_string(id) + ", where " +
           (unanswered_.empty() ? "none" : "that to frame " + std::to_string(unanswered_.front())) + " is next";
  });
  unanswered_.pop_front();
}

void RingInvariants::segment_submitted(const Segment& segment, std::uint32_t newest) {
  require(Invariant::void_segments_are_not_sent, segment.epoch == newest, [&] {
    return "a segment of epoch " + std::to_string(segment.epoch) + ", where the newest epoch is " +
           std::to_string(newest);
  });
}

}  // namespace jupiter

// Each invariant of the speculation protocol (parallel/pipeline/SPECULATION.md) by its name: random runs in which it
// was checked and gave the bits of plain decoding, and events that break it, which the checks must notice.
#include "parallel/pipeline/invariants.hpp"

#include <gtest/gtest.h>

#include "parallel/comm/mpi.hpp"
#include "parallel/pipeline/control.hpp"
#include "parallel/pipeline/pipeline.hpp"
#include "random_ring.hpp"

namespace jupiter {
namespace {

// The event must be refused because of this invariant.
template <typename Event>
void expect_broken(Invariant invariant, const Event& event) {
  try {
    event();
  } catch (const BrokenInvariant& e) {
    EXPECT_EQ(e.invariant(), invariant) << e.what();
    EXPECT_NE(std::string(e.what()).find(name(invariant)), std::string::npos) << e.what();
    return;
  }
  ADD_FAILURE() << name(invariant) << ": nobody noticed";
}

// A random run checks the invariant at least so often, and gives the bits of plain decoding.
void expect_checked(Invariant invariant, std::int64_t least, const Comparison& comparison) {
  const std::int64_t before = times_checked(invariant);
  try {
    compare_with_plain(comparison);
  } catch (const std::exception& e) {
    ADD_FAILURE() << e.what();
  }
  EXPECT_GE(times_checked(invariant) - before, least) << name(invariant);
}

constexpr Comparison kMixed{.hit_rate = 0.7, .stages = 4, .seeds = 6};

DecodeOptions continuous(std::int64_t end_position = 100) {
  return {.mode = DecodeMode::continuous, .draft_max = kDraftMax, .end_position = end_position};
}

SequenceOptions with(const DecodeOptions& decode) {
  SequenceOptions o;
  o.decode = decode;
  return o;
}

// One stage whose sequence 1 holds the prompt; its rows are positions 0 .. prompt - 1.
struct OneStage {
  explicit OneStage(const DecodeOptions& decode = continuous()) : ring(1, {}) {
    stage().open(1, with(decode));
    Frame f = prompt_frame(kPrompt, FrameRun::sample | FrameRun::draft);
    first = stage().forward(f).sequences.at(0);
  }
  Stage& stage() { return *ring.stages[0]; }
  // Rows of the tree; the first one's parent is the end of the prompt.
  FrameResult forward(const std::vector<TreeLink>& links, const std::function<void()>& on_layer_done = {}) {
    Frame f;
    f.runs = {{.sequence = 1, .rows = static_cast<std::int32_t>(links.size()), .flags = FrameRun::tree, .epoch = 1}};
    f.links = links;
    f.tokens.assign(links.size(), first.tokens.at(0));
    FrameResult result = stage().forward(f, on_layer_done);
    rows_left = f.rows();
    return result;
  }
  const Sequence& sequence() { return std::as_const(stage()).sequence(1); }
  Ring ring;
  SequenceResult first;
  std::int64_t rows_left = 0;
};

// A stage between others: it has no output head, so nothing but verdicts from outside decides.
struct MiddleStage {
  explicit MiddleStage(const DecodeOptions& decode = continuous()) : ring(2, {}) {
    stage().open(1, with(decode));
    Frame f = prompt_frame(kPrompt, 0);
    stage().forward(f);
  }
  Stage& stage() { return *ring.stages[0]; }
  std::int64_t forward(const std::vector<TreeLink>& links, const std::function<void()>& on_layer_done = {}) {
    Frame f;
    f.runs = {{.sequence = 1, .rows = static_cast<std::int32_t>(links.size()), .flags = FrameRun::tree, .epoch = 1}};
    f.links = links;
    f.tokens.assign(links.size(), 1);
    stage().forward(f, on_layer_done);
    return f.rows();
  }
  const Sequence& sequence() { return std::as_const(stage()).sequence(1); }
  Ring ring;
};

TEST(Invariants, ADraftNeverDecidesAToken) {
  expect_checked(Invariant::a_draft_never_decides_a_token, 100, {.hit_rate = 0, .stages = 2});
  expect_checked(Invariant::a_draft_never_decides_a_token, 100, kMixed);
  DrawInvariants draws;
  draws.token_drawn(5, 5, false, false);
  draws.token_drawn(5, 5, true, true);
  expect_broken(Invariant::a_draft_never_decides_a_token, [&] { draws.token_drawn(4, 5, false, false); });
  expect_broken(Invariant::a_draft_never_decides_a_token, [&] { draws.token_drawn(5, 5, true, false); });
}

TEST(Invariants, NumbersOfNodesAscendAndAreUsedOnce) {
  expect_checked(Invariant::numbers_of_nodes_ascend_and_are_used_once, 100, kMixed);
  for (const std::vector<TreeLink>& again : {std::vector<TreeLink>{{1, 0}}, {{2, 1}}, {{4, 3}, {3, 2}}}) {
    MiddleStage s;
    s.forward({{1, 0}, {2, 1}});
    expect_broken(Invariant::numbers_of_nodes_ascend_and_are_used_once, [&] { s.forward(again); });
  }
  SpeculationInvariants sent(continuous());
  sent.token_decided(false, 7, 1, 10, false);
  expect_broken(Invariant::numbers_of_nodes_ascend_and_are_used_once, [&] {
    sent.segment_sent({1, {{7, 0}, {9, 7}, {8, 7}}, {1, 1, 1}}, false, 2);
  });
  expect_broken(Invariant::numbers_of_nodes_ascend_and_are_used_once,
                [&] { sent.token_decided(false, 6, 2, 11, false); });
}

TEST(Invariants, FramesOfASequencePassEveryStageInTheOrderInWhichRank0SentThem) {
  MpiSession mpi;
  Ring ring(1, {});
  Trace trace(false);
  const std::int64_t before = times_checked(Invariant::frames_pass_every_stage_in_order);
  {
    Pipeline pipeline(mpi, *ring.stages[0], ring.pool, trace, {});
    const SequenceId s = pipeline.open({});
    Frame f = prompt_frame(kPrompt, FrameRun::sample);
    f.runs[0].sequence = s;
    pipeline.submit(std::move(f));
    EXPECT_EQ(pipeline.next_result().sequences.at(0).tokens, plain(kPrompt, 1, {}).tokens);
    pipeline.close(s, {});
    pipeline.closed(s);
  }
  EXPECT_EQ(times_checked(Invariant::frames_pass_every_stage_in_order) - before, 3);
  StageRunner runner(mpi, *ring.stages[0], trace);
  runner.process(encode_open(5, {9, {}}));
  expect_broken(Invariant::frames_pass_every_stage_in_order, [&] { runner.process(encode_open(4, {10, {}})); });
  expect_broken(Invariant::frames_pass_every_stage_in_order, [&] { runner.process(encode_open(5, {10, {}})); });
}

TEST(Invariants, VerdictsTakeEffectBetweenFramesNeverInsideOne) {
  expect_checked(Invariant::verdicts_take_effect_between_frames, 100, kMixed);
  MiddleStage s;
  s.forward({{1, 0}, {2, 1}, {3, 1}});
  std::size_t inside = 0;
  s.forward({{4, 2}, {5, 3}}, [&] {
    s.stage().queue_verdict(1, {2, 1});
    inside = s.sequence().nodes.size();
  });
  EXPECT_EQ(inside, 5u);  // as before
  s.forward({{6, 4}});
  EXPECT_EQ(s.sequence().tip, 2u);
  StageInvariants checks(2);
  checks.opened(1, continuous());
  const auto layers = checks.layers_begin();
  expect_broken(Invariant::verdicts_take_effect_between_frames, [&] {
    checks.verdict_applied(1, {}, {}, Verdict{2, 1});
  });
}

TEST(Invariants, AVerdictMayComeInAnyOrderTwiceOrNotAtAll) {
  expect_checked(Invariant::a_verdict_may_come_in_any_order, 100, kMixed);
  const std::vector<Verdict> verdicts = {{1, 0}, {2, 1}, {4, 2}};
  for (const std::vector<std::size_t>& order : {std::vector<std::size_t>{0, 1, 2}, {2, 1, 0}, {2}, {1, 1, 2, 2, 0}}) {
    MiddleStage s;
    s.forward({{1, 0}, {2, 1}, {3, 1}, {4, 2}, {5, 4}});
    for (const std::size_t i : order) s.stage().queue_verdict(1, verdicts[i]);
    s.stage().queue_verdict(1, {900, 800});  // of nodes that nobody knows
    s.forward({{6, 5}});
    EXPECT_EQ(s.sequence().tip, 4u);
    EXPECT_EQ(s.sequence().length, std::ssize(kPrompt) + 3);
    EXPECT_EQ(s.sequence().nodes.size(), 2u);  // 5 and 6
  }
  StageInvariants checks(2);
  checks.opened(1, continuous());
  Sequence before, after;
  before.tip = after.tip = 5;
  after.decided = 4;
  expect_broken(Invariant::a_verdict_may_come_in_any_order,  // the past changed something
                [&] {
                  checks.verdict_applied(1, before, after, Verdict{4, 3});
                });
}

TEST(Invariants, TheTipOnlyRises) {
  expect_checked(Invariant::the_tip_only_rises, 100, kMixed);
  MiddleStage s;
  s.forward({{1, 0}, {2, 1}});
  for (const Verdict& v : {Verdict{2, 1}, Verdict{1, 0}, Verdict{2, 1}}) s.stage().queue_verdict(1, v);
  s.forward({{3, 2}});
  EXPECT_EQ(s.sequence().tip, 2u);
  EXPECT_EQ(s.sequence().length, std::ssize(kPrompt) + 2);
  StageInvariants checks(2);
  Sequence before, after;
  before.tip = 5;
  after.tip = 3;
  expect_broken(Invariant::the_tip_only_rises, [&] { checks.verdict_applied(1, before, after, Verdict{3, 2}); });
  after.tip = 5;
  before.length = 1;
  expect_broken(Invariant::the_tip_only_rises, [&] { checks.verdict_applied(1, before, after, Verdict{3, 2}); });
}

TEST(Invariants, ARowIsLiveWhereItsPathCanStillBeRight) {
  expect_checked(Invariant::a_row_is_live_where_its_path_can_be_right, 100, kMixed);
  MiddleStage s;
  s.forward({{1, 0}, {2, 1}, {3, 1}});
  s.stage().queue_verdict(1, {2, 1});
  EXPECT_EQ(s.forward({{4, 2}, {5, 3}, {6, 5}, {7, 4}}), 2);  // 4 and 7: node 3 is rejected, and what follows it
  s.stage().queue_verdict(1, {9, 2});
  EXPECT_EQ(s.forward({{8, 4}, {9, 2}, {10, 2}}), 1);  // 9: it is decided that 9 follows 2
  StageInvariants checks(2);
  Sequence sequence;
  sequence.tip = 2;
  const std::vector<NodeId> kept = {5};
  checks.row_pruned(1, sequence, {4, 2}, {}, true);
  checks.row_pruned(1, sequence, {6, 5}, kept, true);
  checks.row_pruned(1, sequence, {6, 3}, kept, false);
  const auto broken = [&](const TreeLink& row, bool is_kept) {
    expect_broken(Invariant::a_row_is_live_where_its_path_can_be_right,
                  [&] { checks.row_pruned(1, sequence, row, kept, is_kept); });
  };
  broken({4, 2}, false);
  broken({6, 5}, false);
  broken({6, 3}, true);
  sequence.decided = 7;
  broken({6, 2}, true);
  broken({7, 2}, false);
}

TEST(Invariants, ADecidedNodeIsCommittedOnlyAfterItsRowWasComputedInAllLayers) {
  expect_checked(Invariant::a_decided_node_is_committed_after_its_row, 100, kMixed);
  MiddleStage s;
  s.forward({{1, 0}});
  s.stage().queue_verdict(1, {2, 1});
  std::int64_t during = 0;
  s.forward({{2, 1}}, [&] { during = s.sequence().length; });
  EXPECT_EQ(during, std::ssize(kPrompt) + 1);
  EXPECT_EQ(s.sequence().length, std::ssize(kPrompt) + 2);
  EXPECT_EQ(s.sequence().tip, 2u);
  StageInvariants checks(2);
  Sequence before, after;
  before.nodes = {{.id = 1, .parent = 0, .position = 0, .slot = {}}};
  after.tip = 1;
  after.length = 1;
  expect_broken(Invariant::a_decided_node_is_committed_after_its_row,
                [&] { checks.verdict_applied(1, before, after, std::nullopt); });
}

TEST(Invariants, AFrameIsGivenUpOnlyWhereNoneOfItsRowsDescendsFromTheNewestVerdict) {
  expect_checked(Invariant::a_frame_is_given_up_only_without_hope, 100, kMixed);
  for (const bool hope : {false, true}) {
    MiddleStage s;
    s.forward({{1, 0}, {2, 1}, {3, 1}});
    const Verdict verdict = hope ? Verdict{3, 1} : Verdict{9, 1};
    EXPECT_EQ(s.forward({{4, 2}, {5, 3}}, [&] { s.stage().queue_verdict(1, verdict); }), hope ? 2 : 0);
  }
  OneStage last;  // a frame that is given up has its answer nevertheless
  last.forward({{1, 0}, {2, 1}});
  const FrameResult answer = last.forward({{3, 2}}, [&] { last.stage().queue_verdict(1, {9, 1}); });
  EXPECT_EQ(last.rows_left, 0);
  EXPECT_EQ(answer.sequences.size(), 1u);

  StageInvariants checks(2);
  checks.opened(1, continuous());
  Frame f;
  f.runs = {{.sequence = 1, .rows = 1, .flags = FrameRun::tree}};
  f.links = {{1, 0}};
  f.tokens = {1};
  checks.frame_given_up(f);
  Sequence before, after;
  before.nodes = {{.id = 1, .parent = 0, .position = 0, .slot = {}}};
  after.tip = 1;
  after.length = 1;
  expect_broken(Invariant::a_frame_is_given_up_only_without_hope, [&] {
    checks.verdict_applied(1, before, after, Verdict{1, 0});
  });
  expect_broken(Invariant::a_frame_is_given_up_only_without_hope, [&] { checks.frame_done(f, 2, std::nullopt); });
  expect_broken(Invariant::a_frame_is_given_up_only_without_hope, [&] { checks.frame_done(f, 1, 0); });
  RingInvariants ring;
  ring.frame_submitted(1);
  ring.frame_submitted(2);
  expect_broken(Invariant::a_frame_is_given_up_only_without_hope, [&] { ring.result_came(2, {}); });
}

TEST(Invariants, InAnEpochTheRootsRowGoesOutExactlyOnceFirst) {
  expect_checked(Invariant::the_root_goes_out_once_and_first, 100, kMixed);
  const Segment without{1, {{8, 7}}, {1}}, behind{1, {{8, 7}, {7, 0}}, {1, 1}}, first{1, {{7, 0}, {8, 7}}, {1, 1}};
  for (const Segment& wrong : {without, behind, Segment{1, {}, {}}, Segment{2, first.links, first.tokens}}) {
    SpeculationInvariants checks(continuous());
    checks.token_decided(false, 7, 1, 10, false);
    expect_broken(Invariant::the_root_goes_out_once_and_first, [&] { checks.segment_sent(wrong, false, 4); });
  }
  SpeculationInvariants checks(continuous());
  checks.token_decided(false, 7, 1, 10, false);
  checks.segment_sent(first, false, 4);
  expect_broken(Invariant::the_root_goes_out_once_and_first, [&] { checks.segment_sent(first, false, 4); });
  checks.token_decided(true, 8, 1, 11, false);
  expect_broken(Invariant::the_root_goes_out_once_and_first, [&] {
    checks.segment_sent({1, {{8, 7}}, {1}}, false, 4);
  });
}

TEST(Invariants, OutstandingCountsThisEpochsSegmentsOnlyAndIsBounded) {
  expect_checked(Invariant::outstanding_segments_are_bounded, 100, kMixed);
  expect_checked(Invariant::outstanding_segments_are_bounded, 50, {.mode = DecodeMode::lap});
  const auto send = [](SpeculationInvariants& checks, NodeId first, int count, bool late) {
    checks.token_decided(false, first, 1, 10, false);
    for (int i = 0; i < count; ++i) {
      const NodeId node = first + static_cast<NodeId>(i);
      checks.segment_sent({1, {{node, i == 0 ? 0 : node - 1}}, {1}}, late && i > 0, 2);
    }
  };
  const DecodeOptions lap{.mode = DecodeMode::lap, .end_position = 100};
  const auto broken = [&](const DecodeOptions& o, int count, bool late) {
    SpeculationInvariants allowed(o), checks(o);
    send(allowed, 1, count - 1, late);
    expect_broken(Invariant::outstanding_segments_are_bounded, [&] { send(checks, 1, count, late); });
  };
  broken(lap, 2, false);
  broken(lap, 3, true);
  broken(continuous(), 4, false);  // two stages: three slots at most
  SpeculationInvariants checks(continuous());
  send(checks, 1, 2, false);
  checks.segment_came_back(0);  // of an older epoch
  checks.outstanding_is(2);
  checks.segment_came_back(1);
  checks.outstanding_is(1);
  expect_broken(Invariant::outstanding_segments_are_bounded, [&] { checks.outstanding_is(2); });
}

TEST(Invariants, VoidSegmentsAreNotSent) {
  expect_checked(Invariant::void_segments_are_not_sent, 100, kMixed);
  SegmentQueue queue;
  RingInvariants checks;
  const auto result = [](std::uint32_t epoch, NodeId node) {
    return SequenceResult{1, {}, {node, 0}, epoch, {{epoch, {{node, 0}}, {1}}, {epoch, {{node + 1, node}}, {1}}}};
  };
  queue.take(result(1, 1));
  queue.take(result(2, 3));
  EXPECT_EQ(queue.pop(checks).links.front().node, 3u);
  EXPECT_EQ(queue.pop(checks).links.front().node, 4u);
  EXPECT_TRUE(queue.empty());
  EXPECT_EQ(queue.verdict().node, 3u);
  expect_broken(Invariant::void_segments_are_not_sent, [&] { checks.segment_submitted({1, {}, {}}, 2); });
}

TEST(Invariants, ALateResultIsNoCreditAndHasNoTokens) {
  for (const DecodeMode mode : {DecodeMode::lap, DecodeMode::continuous}) {
    expect_checked(Invariant::a_late_result_is_no_credit, 1,
                   {.hit_rate = 0.3, .stages = 3, .mode = mode, .late = true});
  }
  RingInvariants checks;
  checks.frame_submitted(1);
  FrameResult late;
  late.late = true;
  late.sequences = {{1, {}, {1, 0}, 1, {}}};
  checks.result_came(0, late);
  checks.result_came(1, {});  // the frame still waits for its own answer
  late.sequences[0].tokens = {4};
  expect_broken(Invariant::a_late_result_is_no_credit, [&] { checks.result_came(0, late); });
}

TEST(Invariants, ATreeNeedsAtMostItsSpareBlocksBesideThoseOfItsPositions) {
  expect_checked(Invariant::a_tree_fits_into_its_spare_blocks, 100, kMixed);
  StageInvariants checks(4);
  checks.opened(1, continuous());
  Sequence sequence;
  sequence.spare.resize(static_cast<std::size_t>(spare_tree_blocks(4, kDraftMax)));
  checks.row_placed(1, sequence, 0);
  sequence.spare.push_back(0);
  expect_broken(Invariant::a_tree_fits_into_its_spare_blocks, [&] { checks.row_placed(1, sequence, 0); });
}

TEST(Invariants, NothingIsComputedBehindTheEnd) {
  expect_checked(Invariant::nothing_is_computed_behind_the_end, 100, kMixed);
  const std::int64_t prompt = std::ssize(kPrompt);
  MiddleStage s(continuous(prompt + 2));
  s.forward({{1, 0}, {2, 1}});
  expect_broken(Invariant::nothing_is_computed_behind_the_end, [&] { s.forward({{3, 2}}); });
  SpeculationInvariants end(continuous(11)), ended(continuous());
  end.token_decided(false, 1, 1, 10, false);
  end.segment_sent({1, {{1, 0}, {2, 1}}, {1, 1}}, false, 2);  // positions 9 and 10
  expect_broken(Invariant::nothing_is_computed_behind_the_end, [&] { end.segment_sent({1, {{3, 2}}, {1}}, false, 2); });
  ended.token_decided(false, 1, 1, 10, true);
  expect_broken(Invariant::nothing_is_computed_behind_the_end, [&] {
    ended.segment_sent({1, {{1, 0}}, {1}}, false, 2);
  });
  expect_broken(Invariant::nothing_is_computed_behind_the_end, [&] { ended.token_decided(false, 2, 2, 11, false); });
}

TEST(Invariants, TheDigestCountsRowsInTheOrderOfTheTokens) {
  expect_checked(Invariant::the_digest_counts_rows_in_order, 100, kMixed);
  DrawInvariants draws;
  draws.row_digested(13);
  draws.row_digested(14);
  expect_broken(Invariant::the_digest_counts_rows_in_order, [&] { draws.row_digested(14); });
  expect_broken(Invariant::the_digest_counts_rows_in_order, [&] { draws.row_digested(16); });
}

}  // namespace
}  // namespace jupiter

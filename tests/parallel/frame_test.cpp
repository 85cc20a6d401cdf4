// Frames and payloads against truncation, wrong sizes and wrong numbers.
#include "parallel/pipeline/frame.hpp"

#include <gtest/gtest.h>

#include <functional>

namespace jupiter {
namespace {

const FrameLimits kLimits{.max_rows = 8, .max_position = 100, .vocab_size = 50, .residual_row_bytes = 6};

Frame sample_frame() {
  Frame f;
  f.runs = {FrameRun::consecutive(1, 10, 2, FrameRun::sample),
            FrameRun::consecutive(2, 0, 1),
            {.sequence = 3, .rows = 2, .flags = FrameRun::tree, .epoch = 4, .verdict = {9, 7}}};
  f.tokens = {4, 5, 49, 6, 7};
  f.links = {{10, 9}, {11, 10}};
  f.residual.resize(30, std::byte{7});
  return f;
}

TEST(Frame, ComesBackAsItWas) {
  const Frame f = sample_frame();
  const Frame g = decode_frame(encode(f, 3), kLimits);
  ASSERT_EQ(g.runs.size(), 3u);
  EXPECT_EQ(g.runs[0].first_position, 10);
  EXPECT_EQ(g.runs[0].flags, FrameRun::sample);
  EXPECT_EQ(g.runs[1].sequence, 2u);
  EXPECT_EQ(g.runs[2].epoch, 4u);
  EXPECT_EQ(g.runs[2].verdict.parent, 7u);
  ASSERT_EQ(g.links.size(), 2u);
  EXPECT_EQ(g.links[1].parent, 10u);
  EXPECT_EQ(g.tokens, f.tokens);
  EXPECT_EQ(g.residual, f.residual);
}

TEST(Frame, EveryTruncationAndAnExtraByteAreRefused) {
  const Message whole = encode(sample_frame(), 1);
  for (std::size_t n = 0; n < whole.payload.size(); ++n) {
    Message cut = whole;
    cut.payload.resize(n);
    EXPECT_THROW(decode_frame(cut, kLimits), PeerError) << n;
  }
  Message longer = whole;
  longer.payload.push_back(std::byte{0});
  EXPECT_THROW(decode_frame(longer, kLimits), PeerError);
}

TEST(Frame, NumbersOutsideTheLimitsAreRefused) {
  const auto refused = [](const std::function<void(Frame&)>& damage) {
    Frame f = sample_frame();
    damage(f);
    EXPECT_THROW(decode_frame(encode(f, 1), kLimits), PeerError);
  };
  refused([](Frame& f) { f.tokens[0] = 50; });
  refused([](Frame& f) { f.tokens[0] = -1; });
  refused([](Frame& f) { f.runs[0].first_position = 99; });
  refused([](Frame& f) { f.runs[0].first_position = -1; });
  refused([](Frame& f) { f.runs[0].rows = 0; });
  refused([](Frame& f) { f.runs[0].rows = 3; });
  refused([](Frame& f) { f.runs[0].rows = 1 << 30; });
  refused([](Frame& f) { f.residual.pop_back(); });
  refused([](Frame& f) { f.tokens.resize(9, 1); });
  refused([](Frame& f) { f.links.pop_back(); });
  refused([](Frame& f) { f.links[1].parent = 11; });
}

FrameResult sample_result() {
  const Segment segment{5, {{20, 18}, {21, 20}}, {1, 2}};
  return {{{0.5, 0.25}}, {{3, {7, 8}, {20, 18}, 5, {segment, segment}}, {4, {}, {}, 0, {}}}};
}

TEST(Frame, ResultsComeBackAsTheyWere) {
  const FrameResult r = decode_result(encode_result(1, sample_result()), kLimits);
  EXPECT_EQ(r.cost.stage_s, (std::vector<double>{0.5, 0.25}));
  EXPECT_EQ(r.cost.most_s(), 0.5);
  EXPECT_EQ(r.cost.sum_s(), 0.75);
  ASSERT_EQ(r.sequences.size(), 2u);
  EXPECT_EQ(r.sequences[0].tokens, (std::vector<TokenId>{7, 8}));
  EXPECT_EQ(r.sequences[0].verdict.node, 20u);
  ASSERT_EQ(r.sequences[0].segments.size(), 2u);
  EXPECT_EQ(r.sequences[0].segments[1].epoch, 5u);
  EXPECT_EQ(r.sequences[0].segments[1].links[0].parent, 18u);
  EXPECT_EQ(r.sequences[0].segments[1].links[1].node, 21u);
}

TEST(Frame, ResultsAreChecked) {
  const Message whole = encode_result(1, sample_result());
  for (std::size_t n = 0; n < whole.payload.size(); ++n) {
    Message cut = whole;
    cut.payload.resize(n);
    EXPECT_THROW(decode_result(cut, kLimits), PeerError) << n;
  }
  const auto refused = [](const std::function<void(SequenceResult&)>& damage) {
    FrameResult r = sample_result();
    damage(r.sequences[0]);
    EXPECT_THROW(decode_result(encode_result(1, r), kLimits), PeerError);
  };
  refused([](SequenceResult& r) { r.tokens[0] = 50; });
  refused([](SequenceResult& r) { r.tokens.resize(10, 1); });
  refused([](SequenceResult& r) { r.segments[0].tokens[1] = -1; });
  refused([](SequenceResult& r) { r.segments[0].tokens.pop_back(); });
  refused([](SequenceResult& r) { r.segments[0].links[0].parent = r.segments[0].links[0].node; });
  refused([](SequenceResult& r) { r.segments[0].links[0].parent = 20 + 9; });
  refused([](SequenceResult& r) { r.segments.resize(65); });
}

TEST(Frame, ALateResultSaysSoAndHasNoTokens) {
  FrameResult r = sample_result();
  EXPECT_FALSE(decode_result(encode_result(0, r), kLimits).late);  // whatever its number
  r.late = true;
  EXPECT_THROW(decode_result(encode_result(1, r), kLimits), PeerError);
  for (SequenceResult& s : r.sequences) s.tokens.clear();
  EXPECT_TRUE(decode_result(encode_result(1, r), kLimits).late);
}

TEST(Verdict, ComesBackAndNonsenseIsRefused) {
  const Message whole = encode_verdict(7, {3, {20, 18}});
  const SequenceVerdict v = decode_verdict(whole);
  EXPECT_EQ(v.sequence, 3u);
  EXPECT_EQ(v.verdict.node, 20u);
  EXPECT_EQ(v.verdict.parent, 18u);
  for (std::size_t n = 0; n < whole.payload.size(); ++n) {
    Message cut = whole;
    cut.payload.resize(n);
    EXPECT_THROW(decode_verdict(cut), PeerError) << n;
  }
  Message other = whole;
  other.payload.push_back(std::byte{0});
  EXPECT_THROW(decode_verdict(other), PeerError);
  other = whole;
  other.kind = MessageKind::frame;
  EXPECT_THROW(decode_verdict(other), PeerError);
  EXPECT_THROW(decode_verdict(encode_verdict(7, {3, {18, 20}})), PeerError);
  EXPECT_THROW(decode_verdict(encode_verdict(7, {3, {0, 0}})), PeerError);
}

TEST(Frame, ASegmentOfSixteenTokensIsBelow200Bytes) {
  Segment s{1, {}, {}};
  for (NodeId i = 0; i < 16; ++i) {
    s.links.push_back({100 + i, 99 + i});
    s.tokens.push_back(3);
  }
  const std::size_t empty = encode_result(1, {{}, {{1, {}, {}, 0, {}}}}).payload.size();
  EXPECT_LE(encode_result(1, {{}, {{1, {}, {}, 0, {s}}}}).payload.size() - empty, 200u);
}

TEST(Payload, AListThatClaimsTooMuchIsRefusedBeforeAnyMemoryIsTaken) {
  std::vector<std::byte> bytes;
  PayloadWriter(bytes).value(std::uint32_t{0xffffffff});
  EXPECT_THROW(PayloadReader(bytes).array<float>(1000), PeerError);
  EXPECT_THROW(PayloadReader(bytes).array<float>(SIZE_MAX / 8), PeerError);
}

}  // namespace
}  // namespace jupiter

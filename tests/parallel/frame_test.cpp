// Frames and payloads against truncation, wrong sizes and wrong numbers.
#include "parallel/frame.hpp"

#include <gtest/gtest.h>

#include <functional>

namespace jupiter {
namespace {

const FrameLimits kLimits{.max_rows = 8, .max_position = 100, .vocab_size = 50, .residual_row_bytes = 6};

Frame sample_frame() {
  Frame f;
  f.runs = {{1, 10, 2, FrameRun::sample}, {2, 0, 1, 0}};
  f.tokens = {4, 5, 49};
  f.residual.resize(18, std::byte{7});
  return f;
}

TEST(Frame, ComesBackAsItWas) {
  const Frame f = sample_frame();
  const Frame g = decode_frame(encode(f, 3), kLimits);
  ASSERT_EQ(g.runs.size(), 2u);
  EXPECT_EQ(g.runs[0].first_position, 10);
  EXPECT_EQ(g.runs[0].flags, FrameRun::sample);
  EXPECT_EQ(g.runs[1].sequence, 2u);
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
}

TEST(Frame, ResultsAreChecked) {
  EXPECT_EQ(decode_result(encode_result(1, {{3, 7}}), kLimits).at(0).token, 7);
  EXPECT_THROW(decode_result(encode_result(1, {{3, 50}}), kLimits), PeerError);
}

TEST(Payload, AListThatClaimsTooMuchIsRefusedBeforeAnyMemoryIsTaken) {
  std::vector<std::byte> bytes;
  PayloadWriter(bytes).value(std::uint32_t{0xffffffff});
  EXPECT_THROW(PayloadReader(bytes).array<float>(1000), PeerError);
  EXPECT_THROW(PayloadReader(bytes).array<float>(SIZE_MAX / 8), PeerError);
}

}  // namespace
}  // namespace jupiter

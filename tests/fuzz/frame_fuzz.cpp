// Messages between ranks that carry rows and what was found out about them: frames, results, verdicts, and what a draft
// model on another rank is told and answers.
#include "fuzz_target.hpp"
#include "parallel/draft_model/remote_draft.hpp"
#include "parallel/pipeline/frame.hpp"
#include "parallel/pipeline/output_head.hpp"

namespace jupiter::fuzz {
namespace {

constexpr FrameLimits kLimits{.max_rows = 64, .max_position = 4096, .vocab_size = 1000, .residual_row_bytes = 16};

void check_frame(const Message& m) {
  const Frame f = decode_frame(m, kLimits);
  std::int64_t rows = 0;
  for (const FrameRun& run : f.runs) rows += run.rows;
  expect(rows == f.rows() && rows <= kLimits.max_rows, "a frame has other rows than tokens");
  expect(encode(f, m.id).payload == m.payload, "a frame is written otherwise than it was read");
}

void check_result(const Message& m) {
  const FrameResult r = decode_result(m, kLimits);
  for (const SequenceResult& s : r.sequences) {
    expect(s.segments.size() <= kMaxSegments, "too many segments");
    expect(s.tokens.empty() || s.logprobs.size() % s.tokens.size() == 0, "log probabilities without tokens");
    for (const Segment& segment : s.segments) {
      expect(segment.links.size() == segment.tokens.size(), "a segment has other links than tokens");
    }
  }
  const Message again = encode_result(m.id, r);
  expect(encode_result(m.id, decode_result(again, kLimits)).payload == again.payload, "a result does not come back");
}

void check_head_logits(const Message& m, std::int64_t first, std::int64_t candidates) {
  constexpr std::int64_t kRows = 3, kVocabulary = 64;
  std::vector<float> logits(kRows * kVocabulary);
  std::vector<std::uint64_t> digests(kRows);
  take_head_logits(m, first, first + 16, candidates, {logits.data(), kRows, kVocabulary}, digests);
}

const Target target("frame", [](Input input) {
  Pieces pieces(input);
  const std::size_t kind = pieces.below(7);
  const std::size_t first = 16 * pieces.below(3), candidates = pieces.below(40);
  const Input payload = pieces.rest();
  Message m{MessageKind::frame, 7, {payload.begin(), payload.end()}};
  accepted([&] {
    switch (kind) {
      case 0:
        return check_frame(m);
      case 1:
        return check_result(m);
      case 2:
        m.kind = MessageKind::verdict;
        return (void)decode_verdict(m);
      case 3:
        m.kind = MessageKind::context;
        return (void)decode_context(m, kLimits);
      case 4:
        m.kind = MessageKind::guesses;
        return (void)decode_guesses(m, kLimits);
      case 5:
        return (void)decode_head_rows(m, kLimits.max_rows);
      default:
        return check_head_logits(m, static_cast<std::int64_t>(first), static_cast<std::int64_t>(candidates));
    }
  });
});

}  // namespace
}  // namespace jupiter::fuzz

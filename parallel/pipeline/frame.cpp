// Frames and answers as messages.
#include "parallel/pipeline/frame.hpp"

#include <algorithm>

namespace jupiter {

namespace {

PeerError outside(const std::string& what, std::int64_t limit, std::int64_t found) {
  return PeerError(what + ": expected less than " + std::to_string(limit) + ", found " + std::to_string(found));
}

void check_tokens(const std::vector<TokenId>& tokens, const FrameLimits& limits, const std::string& what) {
  for (const TokenId t : tokens) {
    if (t < 0 || t >= limits.vocab_size) throw outside(what + " token", limits.vocab_size, t);
  }
}

void check_runs(const Frame& f, const FrameLimits& limits) {
  std::int64_t rows = 0, tree_rows = 0;
  for (const FrameRun& run : f.runs) {
    const bool tree = (run.flags & FrameRun::tree) != 0;
    if (run.rows < (tree ? 0 : 1) || run.rows > limits.max_rows) {
      throw outside("rows of a run", limits.max_rows + 1, run.rows);
    }
    if (run.first_position < 0 || (!tree && run.first_position > limits.max_position - run.rows)) {
      throw outside("position", limits.max_position, std::int64_t{run.first_position} + run.rows);
    }
    rows += run.rows;
    if (tree) tree_rows += run.rows;
  }
  if (rows != f.rows() || tree_rows != std::ssize(f.links)) {
    throw PeerError("frame: expected " + std::to_string(rows) + " rows, " + std::to_string(tree_rows) +
                    " of trees, found " + std::to_string(f.rows()) + " tokens and " + std::to_string(f.links.size()) +
                    " links");
  }
  for (const TreeLink& l : f.links) {
    if (l.parent >= l.node) throw outside("parent of a tree row", l.node, l.parent);
  }
}

// A node travels as the distance to its parent, which fits into 2 bytes because trees are far smaller than that.

void write_segment(PayloadWriter& w, const Segment& s) {
  std::vector<std::uint16_t> up;
  for (const TreeLink& l : s.links) up.push_back(static_cast<std::uint16_t>(l.node - l.parent));
  w.value(s.epoch);
  w.value(s.links.empty() ? NodeId{0} : s.links.front().node);
  w.array(std::span<const TokenId>(s.tokens));
  w.array(std::span<const std::uint16_t>(up));
}

Segment read_segment(PayloadReader& r, const FrameLimits& limits) {
  Segment s;
  s.epoch = r.value<std::uint32_t>();
  const auto first = r.value<NodeId>();
  s.tokens = r.array<TokenId>(kMaxDraftNodes);
  const auto up = r.array<std::uint16_t>(kMaxDraftNodes);
  if (up.size() != s.tokens.size()) {
    throw PeerError("segment: expected " + std::to_string(s.tokens.size()) + " parents, found " +
                    std::to_string(up.size()));
  }
  check_tokens(s.tokens, limits, "segment");
  for (std::size_t i = 0; i < up.size(); ++i) {
    const NodeId node = first + static_cast<NodeId>(i);
    if (up[i] == 0 || up[i] > node) throw outside("parent of a drafted node", node, std::int64_t{node} - up[i]);
    s.links.push_back({node, node - up[i]});
  }
  return s;
}

SequenceResult read_sequence_result(PayloadReader& r, const FrameLimits& limits) {
  SequenceResult s;
  s.sequence = r.value<SequenceId>();
  s.verdict = r.value<Verdict>();
  s.epoch = r.value<std::uint32_t>();
  s.tokens = r.array<TokenId>(static_cast<std::size_t>(limits.max_rows) + 1);
  check_tokens(s.tokens, limits, "result");
  s.logprobs = r.array<TokenLogprob>(s.tokens.size() * (kMostTopLogprobs + 1));
  if (!s.tokens.empty() && s.logprobs.size() % s.tokens.size() != 0) {
    throw PeerError("result: expected as many log probabilities for each of " + std::to_string(s.tokens.size()) +
                    " tokens, found " + std::to_string(s.logprobs.size()));
  }
  const auto count = r.value<std::uint32_t>();
  if (count > kMaxSegments) throw outside("segments", kMaxSegments + 1, count);
  for (std::uint32_t i = 0; i < count; ++i) s.segments.push_back(read_segment(r, limits));
  return s;
}

}  // namespace

std::uint64_t FrameLimits::max_message_bytes() const {
  const auto rows = static_cast<std::uint64_t>(max_rows);
  const std::uint64_t row = sizeof(FrameRun) + sizeof(TokenId) + sizeof(TreeLink);
  const std::uint64_t segments = kMaxSegments * (64 + kMaxDraftNodes * (sizeof(TokenId) + 2));
  return 4096 + rows * (row + static_cast<std::uint64_t>(residual_row_bytes)) +
         segments * std::min<std::uint64_t>(rows, 64);
}

Message encode(const Frame& frame, std::uint64_t id) {
  Message m{MessageKind::frame, id, {}};
  m.payload.reserve(96 + frame.runs.size() * sizeof(FrameRun) + frame.tokens.size() * 4 +
                    frame.links.size() * sizeof(TreeLink) + frame.residual.size());
  PayloadWriter w(m.payload);
  w.array(std::span<const double>(frame.cost.stage_s));
  w.array(std::span<const FrameRun>(frame.runs));
  w.array(std::span<const TokenId>(frame.tokens));
  w.array(std::span<const TreeLink>(frame.links));
  w.array(std::span<const std::byte>(frame.residual));
  return m;
}

Frame decode_frame(const Message& message, const FrameLimits& limits) {
  PayloadReader r(message.payload);
  const auto max_rows = static_cast<std::size_t>(limits.max_rows);
  Frame f;
  f.cost.stage_s = r.array<double>(kMostStages);
  f.runs = r.array<FrameRun>(max_rows);
  f.tokens = r.array<TokenId>(max_rows);
  f.links = r.array<TreeLink>(max_rows);
  const auto bytes = static_cast<std::size_t>(f.rows() * limits.residual_row_bytes);
  f.residual = r.array<std::byte>(bytes);
  r.end();
  check_runs(f, limits);
  check_tokens(f.tokens, limits, "frame");
  if (f.residual.size() != bytes) {
    throw PeerError("frame: expected " + std::to_string(bytes) + " bytes, found " + std::to_string(f.residual.size()));
  }
  return f;
}

Message encode_result(std::uint64_t frame_id, const FrameResult& result) {
  Message m{MessageKind::result, frame_id, {}};
  PayloadWriter w(m.payload);
  w.value(std::uint8_t{result.late});
  w.array(std::span<const double>(result.cost.stage_s));
  w.value(static_cast<std::uint32_t>(result.sequences.size()));
  for (const SequenceResult& s : result.sequences) {
    w.value(s.sequence);
    w.value(s.verdict);
    w.value(s.epoch);
    w.array(std::span<const TokenId>(s.tokens));
    w.array(std::span<const TokenLogprob>(s.logprobs));
    w.value(static_cast<std::uint32_t>(s.segments.size()));
    for (const Segment& segment : s.segments) write_segment(w, segment);
  }
  return m;
}

FrameResult decode_result(const Message& message, const FrameLimits& limits) {
  PayloadReader r(message.payload);
  FrameResult result;
  result.late = r.value<std::uint8_t>() != 0;
  result.cost.stage_s = r.array<double>(kMostStages);
  const auto count = r.value<std::uint32_t>();
  if (count > limits.max_rows) throw outside("sequences of a result", limits.max_rows + 1, count);
  for (std::uint32_t i = 0; i < count; ++i) {
    result.sequences.push_back(read_sequence_result(r, limits));
    if (result.late && !result.sequences.back().tokens.empty()) {
      throw PeerError("late result: expected no tokens, found " +
                      std::to_string(result.sequences.back().tokens.size()));
    }
  }
  r.end();
  return result;
}

Message encode_verdict(std::uint64_t id, const SequenceVerdict& verdict) {
  Message m{MessageKind::verdict, id, {}};
  PayloadWriter(m.payload).value(verdict);
  return m;
}

SequenceVerdict decode_verdict(const Message& message) {
  if (message.kind != MessageKind::verdict) {
    throw PeerError("expected a verdict, found kind " + std::to_string(static_cast<int>(message.kind)));
  }
  PayloadReader r(message.payload);
  const auto body = r.value<SequenceVerdict>();
  r.end();
  if (body.verdict.parent >= body.verdict.node) {
    throw PeerError("verdict: expected a parent below node " + std::to_string(body.verdict.node) + ", found " +
                    std::to_string(body.verdict.parent));
  }
  return body;
}

}  // namespace jupiter

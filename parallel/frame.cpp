// Frames as messages.
#include "parallel/frame.hpp"

namespace jupiter {

std::uint64_t FrameLimits::max_message_bytes() const {
  const auto rows = static_cast<std::uint64_t>(max_rows);
  return 4096 + rows * (sizeof(FrameRun) + sizeof(TokenId) + static_cast<std::uint64_t>(residual_row_bytes));
}

Message encode(const Frame& frame, std::uint64_t id) {
  Message m{MessageKind::frame, id, {}};
  m.payload.reserve(64 + frame.runs.size() * sizeof(FrameRun) + frame.tokens.size() * 4 + frame.residual.size());
  PayloadWriter w(m.payload);
  w.array(std::span<const FrameRun>(frame.runs));
  w.array(std::span<const TokenId>(frame.tokens));
  w.array(std::span<const std::byte>(frame.residual));
  return m;
}

Frame decode_frame(const Message& message, const FrameLimits& limits) {
  PayloadReader r(message.payload);
  Frame f;
  f.runs = r.array<FrameRun>(static_cast<std::size_t>(limits.max_rows));
  f.tokens = r.array<TokenId>(static_cast<std::size_t>(limits.max_rows));
  const std::size_t bytes = static_cast<std::size_t>(f.rows() * limits.residual_row_bytes);
  f.residual = r.array<std::byte>(bytes);
  r.end();
  std::int64_t rows = 0;
  for (const FrameRun& run : f.runs) {
    if (run.rows < 1 || run.rows > limits.max_rows || run.first_position < 0 ||
        run.first_position > limits.max_position - run.rows) {
      throw PeerError("frame: expected positions below " + std::to_string(limits.max_position) + ", found " +
                      std::to_string(run.first_position) + " and " + std::to_string(run.rows) + " rows");
    }
    rows += run.rows;
  }
  if (rows != f.rows() || f.residual.size() != bytes) {
    throw PeerError("frame: expected " + std::to_string(rows) + " rows, found " + std::to_string(f.rows()) +
                    " tokens and " + std::to_string(f.residual.size()) + " bytes");
  }
  for (const TokenId t : f.tokens) {
    if (t < 0 || t >= limits.vocab_size) {
      throw PeerError("frame: expected tokens below " + std::to_string(limits.vocab_size) + ", found " +
                      std::to_string(t));
    }
  }
  return f;
}

Message encode_result(std::uint64_t frame_id, const std::vector<SampledToken>& tokens) {
  Message m{MessageKind::result, frame_id, {}};
  PayloadWriter(m.payload).array(std::span<const SampledToken>(tokens));
  return m;
}

std::vector<SampledToken> decode_result(const Message& message, const FrameLimits& limits) {
  PayloadReader r(message.payload);
  auto tokens = r.array<SampledToken>(static_cast<std::size_t>(limits.max_rows));
  r.end();
  for (const SampledToken& t : tokens) {
    if (t.token < 0 || t.token >= limits.vocab_size) {
      throw PeerError("result: expected tokens below " + std::to_string(limits.vocab_size) + ", found " +
                      std::to_string(t.token));
    }
  }
  return tokens;
}

}  // namespace jupiter

// A frame: rows that travel through the stages together, of one or several sequences.
#pragma once

#include <vector>

#include "io/model_config.hpp"
#include "io/tokenizer_data.hpp"
#include "kernels/sampler.hpp"
#include "parallel/message.hpp"

namespace jupiter {

using SequenceId = std::uint32_t;

// Consecutive positions of one sequence. What a stage holds of the sequence from first_position on is forgotten first:
// that is how a conversation goes back to where two prompts part.
struct FrameRun {
  enum Flags : std::uint32_t {
    sample = 1,     // the last row passes the head, and a token is drawn from it
    every_row = 2,  // all rows pass the head; their logits go to the last stage's sink
  };
  SequenceId sequence = 0;
  std::int32_t first_position = 0;
  std::int32_t rows = 0;
  std::uint32_t flags = 0;
};

struct Frame {
  std::vector<FrameRun> runs;
  std::vector<TokenId> tokens;  // [rows]; the last rank's sampler and drafters read them
  // Residual as it travels, [rows][dim] in the model's precision; empty before the first stage.
  std::vector<std::byte> residual;

  std::int64_t rows() const { return static_cast<std::int64_t>(tokens.size()); }
};

// What receivers check a frame against.
struct FrameLimits {
  std::int64_t max_rows = 0;
  std::int64_t max_position = 0;  // positions are below
  std::int64_t vocab_size = 0;
  std::int64_t residual_row_bytes = 0;
  std::uint64_t max_message_bytes() const;
};

Message encode(const Frame& frame, std::uint64_t id);
// PeerError where a size or a number is outside the limits.
Frame decode_frame(const Message& message, const FrameLimits& limits);

// The last rank's answer to a frame: also the credit for one more.
struct SampledToken {
  SequenceId sequence = 0;
  TokenId token = 0;
};
Message encode_result(std::uint64_t frame_id, const std::vector<SampledToken>& tokens);
std::vector<SampledToken> decode_result(const Message& message, const FrameLimits& limits);

}  // namespace jupiter

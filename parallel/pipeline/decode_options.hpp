// How a sequence is decoded.
#pragma once

#include <cstdint>

namespace jupiter {

enum class DecodeMode : std::uint8_t { plain = 0, lap = 1, continuous = 2 };

// How a sequence is decoded. It travels to all stages when the sequence opens.
struct DecodeOptions {
  DecodeMode mode = DecodeMode::plain;
  bool typical = false;           // accept drafts that are plausible, not only drawn ones (Cai et al., Medusa, 2024)
  std::int32_t draft_max = 16;    // most nodes of a segment besides its root
  std::int32_t fixed_width = 0;   // rows of a segment; 0: chosen by measured cost
  std::int64_t end_position = 0;  // tokens at this position and later are not computed
};

}  // namespace jupiter

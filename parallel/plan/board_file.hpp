// Boards that nobody has measured: a file says what they can do, in rates that data sheets and benchmarks publish, and
// a profile is estimated from it. So clusters can be planned that are not bought yet.
#pragma once

#include <string>
#include <vector>

#include "io/model/manifest.hpp"
#include "parallel/plan/profile.hpp"

namespace jupiter {

struct BoardDescription {
  std::string name;
  int count = 1;
  int threads = 1;
  std::uint64_t memory_bytes = 0;  // that the program may use
  double read_bytes_per_s = 0;     // weights from memory, by all cores together
  double int8_macs_per_s = 0;      // products of quantised weights
  double float_macs_per_s = 0;     // attention
};

struct ClusterDescription {
  std::vector<BoardDescription> boards;
  double link_bytes_per_s = 0;  // of every link, in both directions
  double latency_s = 0;         // of a small message, from the sender's call until the receiver has it
  double message_s = 0;         // for which sending or receiving a message keeps a board from computing
};

// FormatError names the field; `file` is for messages.
ClusterDescription parse_boards(const std::string& text, const std::string& file);

// What `jupiter profile` might measure there. A product takes what its weights take to be read, or its multiplications,
// whichever is longer; a gather takes a message's latency, its sends and receives, and its bytes on the link.
Profile described_profile(const ClusterDescription& cluster, const Manifest& manifest, const std::string& version);

}  // namespace jupiter

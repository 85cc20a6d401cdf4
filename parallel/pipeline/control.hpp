// Messages about the life of a sequence and of the run: what opens, closes and stops. Like frames they pass every stage
// in the order in which rank 0 submitted them.
#pragma once

#include <utility>

#include "parallel/comm/message.hpp"
#include "parallel/pipeline/decoder.hpp"

namespace jupiter {

struct Opened {
  SequenceId sequence = 0;
  SequenceOptions options;
};
Message encode_open(std::uint64_t id, const Opened& opened);
// PeerError where a size or a number is outside its limits, as for all below.
Opened decode_open(const Message& message);

struct CloseRequest {
  SequenceId sequence = 0;
  std::uint32_t reserved = 0;
  SequenceClose how;
};
Message encode_close(std::uint64_t id, const CloseRequest& request);
CloseRequest decode_close(const Message& message);

// The last rank's answer to a close.
struct Closed {
  SequenceId sequence = 0;
  std::uint32_t reserved = 0;
  SequenceEnd end;
};
Message encode_closed(std::uint64_t id, const Closed& closed);
Closed decode_closed(const Message& message);

Message encode_stop(std::uint64_t id, ExitCode code);
ExitCode decode_stop(const Message& message);

}  // namespace jupiter

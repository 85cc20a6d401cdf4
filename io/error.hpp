// Errors that reach the user: each carries the exit code of the command line and a message that names
// the file, the thing, what was expected and what was found.
#pragma once

#include <stdexcept>
#include <string>
#include <string_view>

namespace jupiter {

enum class ExitCode : int {
  ok = 0,
  failed = 1,        // a regression, unwritable output, full disk, ranks that disagree
  usage = 2,         // wrong command line, an empty or too long prompt, more ranks than layers
  invalid_file = 3,  // unreadable or invalid file of any kind
  memory = 4,        // does not fit in memory
  peer = 5,          // a peer or the network failed
  interrupted = 130,
  terminated = 143,
};

// The beginning of a text for messages, where it is longer than `most` bytes.
std::string shortened(std::string_view text, std::size_t most = 80);

class Error : public std::runtime_error {
 public:
  Error(ExitCode code, const std::string& message) : std::runtime_error(message), code_(code) {}
  ExitCode code() const { return code_; }

 private:
  ExitCode code_;
};

// A file that cannot be read or does not hold what it should.
class FormatError : public Error {
 public:
  explicit FormatError(const std::string& message) : Error(ExitCode::invalid_file, message) {}
  // "FILE: THING: expected EXPECTED, found FOUND", each shortened: what a file holds may be of any length.
  FormatError(std::string_view file, std::string_view thing, std::string_view expected, std::string_view found);
};

class UsageError : public Error {
 public:
  explicit UsageError(const std::string& message) : Error(ExitCode::usage, message) {}
};

// The run itself failed: output that cannot be written, ranks that disagree, a value that overflowed.
class RunError : public Error {
 public:
  explicit RunError(const std::string& message) : Error(ExitCode::failed, message) {}
};

class MemoryError : public Error {
 public:
  explicit MemoryError(const std::string& message) : Error(ExitCode::memory, message) {}
};

class PeerError : public Error {
 public:
  explicit PeerError(const std::string& message) : Error(ExitCode::peer, message) {}
};

}  // namespace jupiter

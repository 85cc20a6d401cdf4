// What travels between ranks: messages that have a kind, a number, and a payload. The payload is written and read field
// by field, and every size is checked against what is there.
#pragma once

#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <vector>

#include "io/error.hpp"

namespace jupiter {

// Raised whenever the layout of any message changes, so that ranks of different builds refuse each other at the start.
// tests/parallel/protocol_test.cpp notices a change of layout.
constexpr std::int32_t kProtocol = 7;

enum class MessageKind : std::uint16_t {
  open = 1,          // a sequence begins: its options
  frame = 2,         // rows to compute: tokens and residual
  close = 3,         // a sequence ends: every stage frees it, the last rank answers with its digest
  stop = 4,          // the run ends with an exit code
  result = 5,        // last rank to rank 0: the tokens drawn from a frame, which is also a credit; or a late result
  closed = 6,        // last rank to rank 0: what a sequence leaves behind
  report = 7,        // measurements of links and clocks
  verdict = 8,       // last rank to the stages between: which drafted token is right
  context = 9,       // last rank to the one with a draft model: what the decided tokens are
  guesses = 10,      // its answer, which says what is likely to follow one context
  exchange = 11,     // a piece of a value that all ranks exchange; its number says how many bytes follow
  piece = 12,        // between the boards of a tensor group: the columns that one of them computed
  head_rows = 13,    // leader of a group to its other boards: which rows pass the output head
  head_logits = 14,  // their answer: logits of their part of the vocabulary
  head_states = 15,  // last stage to those that share the output head: rows that pass it
};

struct Message {
  MessageKind kind = MessageKind::frame;
  std::uint64_t id = 0;  // ascending per sender
  std::vector<std::byte> payload;
};

// Appends plain values to a payload.
class PayloadWriter {
 public:
  explicit PayloadWriter(std::vector<std::byte>& out) : out_(out) {}
  template <typename T>
  void value(const T& v) {
    static_assert(std::is_trivially_copyable_v<T>);
    append(&v, sizeof v);
  }
  template <typename T>
  void array(std::span<const T> values) {
    static_assert(std::is_trivially_copyable_v<T>);
    value(static_cast<std::uint32_t>(values.size()));
    append(values.data(), values.size_bytes());
  }
  void text(const std::string& s) { array(std::span(s.data(), s.size())); }
  // Room for n bytes that the caller fills; valid until the next append.
  std::byte* room(std::size_t n) {
    out_.resize(out_.size() + n);
    return out_.data() + out_.size() - n;
  }

 private:
  void append(const void* data, std::size_t n) {
    if (n == 0) return;
    const std::size_t at = out_.size();
    out_.resize(at + n);
    std::memcpy(out_.data() + at, data, n);
  }
  std::vector<std::byte>& out_;
};

// Reads them back; PeerError where the payload is shorter or longer than its fields say.
class PayloadReader {
 public:
  explicit PayloadReader(std::span<const std::byte> in) : in_(in) {}
  template <typename T>
  T value() {
    T v;
    std::memcpy(&v, take(sizeof v), sizeof v);
    return v;
  }
  template <typename T>
  std::vector<T> array(std::size_t max_count) {
    const auto count = value<std::uint32_t>();
    if (count > max_count) throw malformed("a list of " + std::to_string(count) + " elements");
    const std::byte* from = take(count * sizeof(T));  // before any memory is taken for them
    std::vector<T> values(count);
    if (count > 0) std::memcpy(values.data(), from, count * sizeof(T));
    return values;
  }
  std::string text(std::size_t max_bytes = 1 << 20) {
    const std::vector<char> chars = array<char>(max_bytes);
    return {chars.begin(), chars.end()};
  }
  std::span<const std::byte> bytes(std::size_t n) { return {take(n), n}; }
  std::size_t left() const { return in_.size(); }
  void end() const {
    if (!in_.empty()) throw malformed(std::to_string(in_.size()) + " bytes too many");
  }

 private:
  static PeerError malformed(const std::string& found) {
    return PeerError("malformed message: expected fields that fill it, found " + found);
  }
  const std::byte* take(std::size_t n) {
    if (n > in_.size()) throw malformed("only " + std::to_string(in_.size()) + " of " + std::to_string(n) + " bytes");
    const std::byte* p = in_.data();
    in_ = in_.subspan(n);
    return p;
  }
  std::span<const std::byte> in_;
};

}  // namespace jupiter

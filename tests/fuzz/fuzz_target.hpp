// What every fuzz target shares. A target takes bytes that nobody checked, hands them to a reader, and asserts what
// must hold of the result. It is written once and runs in two ways: under libFuzzer, one program each
// (libfuzzer_main.cpp), and in a test that replays the kept inputs of all targets (replay_test.cpp).
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "io/error.hpp"

namespace jupiter::fuzz {

using Input = std::span<const std::byte>;

// The largest single allocation that a reader may ask for while it reads an input: so many times the input's size, or
// the floor where that is more.
struct AllocationLimit {
  std::size_t times_input = 2;
  std::size_t floor_bytes = 1 << 20;
};

struct Target {
  // Adds itself to all_targets().
  Target(const char* target_name, std::function<void(Input)> target_run, const AllocationLimit& most = {});

  std::string name;
  std::function<void(Input)> run;
  AllocationLimit limit;
};
std::vector<const Target*>& all_targets();

// Runs a target on a copy of exactly the input's size, so that the address sanitizer sees a read past its end. Ends the
// program where an allocation exceeds the target's limit (with the address sanitizer only, which reports allocations).
void run_target(const Target& target, Input input);

// Ends the program, as a crash that libFuzzer keeps the input of.
[[noreturn]] void fail(const std::string& what);
inline void expect(bool holds, std::string_view what) {
  if (!holds) fail(std::string(what));
}

// Whether f() returns; an Error, which is how a reader refuses what it does not understand, is the other good end. Any
// other exception is a defect. The message must name something, and the exit code be one of the documented.
template <typename F>
bool accepted(const F& f) {
  try {
    f();
    return true;
  } catch (const Error& e) {
    expect(e.what()[0] != '\0', "an error without a message");
    expect(e.code() != ExitCode::ok, "an error with the exit code of success");
    return false;
  }
}

inline std::string_view as_text(Input input) {
  return {reinterpret_cast<const char*>(input.data()), input.size()};
}

// Takes an input apart: numbers from its end, so that what stands before them stays a file that a dictionary fits.
class Pieces {
 public:
  explicit Pieces(Input input) : left_(input) {}
  bool empty() const { return left_.empty(); }
  // 0 where nothing is left.
  std::uint8_t byte() {
    if (left_.empty()) return 0;
    const auto last = std::to_integer<std::uint8_t>(left_.back());
    left_ = left_.first(left_.size() - 1);
    return last;
  }
  // 0 to below - 1.
  std::size_t below(std::size_t n) { return n == 0 ? 0 : (byte() | std::size_t{byte()} << 8) % n; }
  Input rest() { return std::exchange(left_, {}); }
  // The bytes up to the separator, which is taken away; all of them where there is none.
  std::string_view part(char separator);

 private:
  Input left_;
};

// A file in memory with a name that readers can open: holds the input while it lives.
class MemoryFile {
 public:
  explicit MemoryFile(Input content);
  ~MemoryFile();
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;
  const std::string& path() const { return path_; }

 private:
  int descriptor_;
  std::string path_;
};

}  // namespace jupiter::fuzz

#include "fuzz_target.hpp"

#include <dlfcn.h>
#include <execinfo.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <memory>

// The address sanitizer's, of GCC and clang; absent in other builds.
extern "C" int __sanitizer_install_malloc_and_free_hooks(void (*on_malloc)(const volatile void*, std::size_t),
                                                         void (*on_free)(const volatile void*)) __attribute__((weak));

namespace jupiter::fuzz {

namespace {

std::atomic<std::size_t> most_bytes{SIZE_MAX};  // of one allocation now

// The library reads what a damaged file says of its own structures, and asks for room before it looks whether the file
// has so many bytes. Nobody can tell it not to.
bool is_from_hdf5() {
  std::array<void*, 64> frames{};
  const int count = ::backtrace(frames.data(), static_cast<int>(frames.size()));
  return std::any_of(frames.begin(), frames.begin() + count, [](void* frame) {
    Dl_info info{};
    return ::dladdr(frame, &info) != 0 && info.dli_fname != nullptr &&
           std::string_view(info.dli_fname).find("libhdf5") != std::string_view::npos;
  });
}

void check_allocation(const volatile void*, std::size_t bytes) {
  const std::size_t most = most_bytes;
  if (bytes <= most) return;
  most_bytes = SIZE_MAX;  // what looks at it and reports it allocates, too
  if (is_from_hdf5()) {
    most_bytes = most;
    return;
  }
  fail("an allocation of " + std::to_string(bytes) + " bytes, where " + std::to_string(most) + " are the limit");
}

void watch_allocations() {
  static const bool once = [] {
    if (__sanitizer_install_malloc_and_free_hooks == nullptr) return false;
    return __sanitizer_install_malloc_and_free_hooks(check_allocation, [](const volatile void*) {}) > 0;
  }();
  (void)once;
}

}  // namespace

Target::Target(const char* target_name, std::function<void(Input)> target_run, const AllocationLimit& most)
    : name(target_name), run(std::move(target_run)), limit(most) {
  all_targets().push_back(this);
}

std::vector<const Target*>& all_targets() {
  static std::vector<const Target*> targets;
  return targets;
}

void run_target(const Target& target, Input input) {
  watch_allocations();
  const std::unique_ptr<std::byte[]> copy(new std::byte[input.size()]);
  std::copy(input.begin(), input.end(), copy.get());
  most_bytes = std::max(target.limit.times_input * input.size(), target.limit.floor_bytes);
  target.run({copy.get(), input.size()});
  most_bytes = SIZE_MAX;
}

void fail(const std::string& what) {
  std::fprintf(stderr, "fuzz target: %s\n", what.c_str());
  std::abort();
}

std::string_view Pieces::part(char separator) {
  const std::string_view text = as_text(left_);
  const std::size_t end = std::min(text.find(separator), text.size());
  left_ = left_.subspan(std::min(end + 1, text.size()));
  return text.substr(0, end);
}

MemoryFile::MemoryFile(Input content) : descriptor_(::memfd_create("input", MFD_CLOEXEC)) {
  expect(descriptor_ >= 0, "a file in memory cannot be made");
  for (std::size_t at = 0; at < content.size();) {
    const ssize_t n = ::write(descriptor_, content.data() + at, content.size() - at);
    expect(n > 0, "a file in memory cannot be written");
    at += static_cast<std::size_t>(n);
  }
  path_ = "/proc/self/fd/" + std::to_string(descriptor_);
}

MemoryFile::~MemoryFile() {
  ::close(descriptor_);
}

}  // namespace jupiter::fuzz

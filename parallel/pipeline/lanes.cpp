// The first computation runs on the caller's stack, the second one on a stack of its own (ucontext).
#include "parallel/pipeline/lanes.hpp"

#include <ucontext.h>

#include <cassert>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>

namespace jupiter {

namespace {
constexpr std::size_t kStackBytes = 1 << 20;

// Unwinds a lane whose other one has failed.
struct OtherFailed {};
}  // namespace

struct Lanes::Impl {
  ucontext_t caller = {}, second = {};
  std::unique_ptr<std::byte[]> stack{new std::byte[kStackBytes]};
  const std::function<void()>* work = nullptr;  // of the second lane
  bool in_second = false, second_ended = true, failed = false;
  std::exception_ptr error;

  // What a lane does, to its end.
  void guarded(const std::function<void()>& work_of_lane) {
    try {
      work_of_lane();
    } catch (const OtherFailed&) {
    } catch (...) {
      error = error ? error : std::current_exception();
      failed = true;
    }
  }
  void go_on_with_second() {
    in_second = true;
    swapcontext(&caller, &second);
    in_second = false;
  }
  // makecontext() passes nothing but ints.
  static void begin(unsigned high, unsigned low) {
    const auto bits = (static_cast<std::uintptr_t>(high) << 32) | static_cast<std::uintptr_t>(low);
    Impl& self = *reinterpret_cast<Impl*>(bits);
    self.guarded(*self.work);
    self.second_ended = true;  // uc_link then goes back to the caller
  }
};

Lanes::Lanes() : impl_(std::make_unique<Impl>()) {}

Lanes::~Lanes() = default;

void Lanes::run(const std::function<void()>& first, const std::function<void()>& second) {
  Impl& s = *impl_;
  assert(s.second_ended && "lanes run once at a time");
  s.work = &second;
  s.second_ended = s.failed = false;
  s.error = nullptr;
  getcontext(&s.second);
  s.second.uc_stack.ss_sp = s.stack.get();
  s.second.uc_stack.ss_size = kStackBytes;
  s.second.uc_link = &s.caller;
  const auto bits = reinterpret_cast<std::uintptr_t>(&s);
  makecontext(&s.second, reinterpret_cast<void (*)()>(&Impl::begin), 2, static_cast<unsigned>(bits >> 32),
              static_cast<unsigned>(bits & 0xffffffffu));
  s.guarded(first);
  while (!s.second_ended) s.go_on_with_second();
  if (s.error) std::rethrow_exception(s.error);
}

void Lanes::turn() {
  Impl& s = *impl_;
  if (s.in_second) {
    swapcontext(&s.second, &s.caller);
  } else if (!s.second_ended) {
    s.go_on_with_second();
  }
  if (s.failed) throw OtherFailed{};
}

}  // namespace jupiter

// A pool that sleeps in the kernel when there is no work and spins only for moments between pieces of it.
#include "kernels/thread_pool.hpp"
#include "io/timer.hpp"

#include <linux/futex.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <climits>
#include <ctime>
#include <exception>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

namespace jupiter {

namespace {

constexpr std::chrono::microseconds kSpin{30};   // about what a wake-up through the kernel costs
constexpr std::chrono::microseconds kPoll{500};  // least time between two polls

using Word = std::atomic<std::uint32_t>;
static_assert(sizeof(Word) == 4 && Word::is_always_lock_free);

// Sleeps while *word is `seen`, for at most `timeout` (zero: without end). May return early.
void futex_wait(Word& word, std::uint32_t seen, std::chrono::microseconds timeout) {
  const timespec limit{0, static_cast<long>(timeout.count()) * 1000};
  syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, seen, timeout.count() > 0 ? &limit : nullptr, nullptr, 0);
}
void futex_wake(Word& word) {
  syscall(SYS_futex, &word, FUTEX_WAKE_PRIVATE, INT_MAX, nullptr, nullptr, 0);
}

void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Waits a moment for `changed`; false: time is up.
template <typename Changed>
bool spin(bool allowed, Changed changed) {
  if (changed()) return true;
  if (!allowed) return false;
  const Clock::time_point end = Clock::now() + kSpin;
  do {
    for (int i = 0; i < 32; ++i) {
      if (changed()) return true;
      relax();
    }
  } while (Clock::now() < end);
  return false;
}

// The t-th of the cores in `mask`, alone.
cpu_set_t one_core(const cpu_set_t& mask, int t) {
  cpu_set_t one;
  CPU_ZERO(&one);
  for (int core = 0; core < CPU_SETSIZE; ++core) {
    if (CPU_ISSET(core, &mask) && t-- == 0) CPU_SET(core, &one);
  }
  return one;
}

}  // namespace

struct ThreadPool::Impl {
  explicit Impl(Options options);
  ~Impl();
  void run(const std::function<void(int)>& work);
  void poll_if_due();

  int size;

 private:
  void worker(int thread);
  void execute(int thread);
  void wait_for_workers();

  bool may_spin;
  bool pinned = false;
  cpu_set_t old_mask{};
  std::vector<std::thread> workers;

  // Written by the caller before `generation` changes, read by workers after.
  const std::function<void(int)>* task = nullptr;
  bool stop = false;

  alignas(64) Word generation{0};  // one more for every piece of work
  alignas(64) Word running{0};     // workers that have not finished it
  std::atomic<int> asleep{0};      // workers inside futex_wait
  std::atomic<bool> caller_asleep{false};

  std::mutex error_mutex;
  std::exception_ptr error;

 public:
  std::function<void()> poll;
  Clock::time_point last_poll{};
};

ThreadPool::Impl::Impl(Options options)
    : size(options.threads < 1 ? 1 : options.threads), may_spin(!options.share_cores) {
  CPU_ZERO(&old_mask);
  if (options.pin && sched_getaffinity(0, sizeof old_mask, &old_mask) == 0) pinned = CPU_COUNT(&old_mask) >= size;
  // More threads than cores: whoever spins keeps the others from running.
  may_spin = may_spin && static_cast<unsigned>(size) <= std::thread::hardware_concurrency();
  for (int t = 1; t < size; ++t) workers.emplace_back([this, t] { worker(t); });
  if (pinned) {
    const cpu_set_t core = one_core(old_mask, 0);
    sched_setaffinity(0, sizeof core, &core);
  }
}

ThreadPool::Impl::~Impl() {
  stop = true;
  generation.fetch_add(1);
  futex_wake(generation);
  for (std::thread& w : workers) w.join();
  if (pinned) sched_setaffinity(0, sizeof old_mask, &old_mask);
}

void ThreadPool::Impl::execute(int thread) {
  try {
    (*task)(thread);
  } catch (...) {
    const std::lock_guard lock(error_mutex);
    if (!error) error = std::current_exception();
  }
}

void ThreadPool::Impl::worker(int thread) {
  if (pinned) {
    const cpu_set_t core = one_core(old_mask, thread);
    sched_setaffinity(0, sizeof core, &core);
  }
  std::uint32_t seen = 0;
  while (true) {
    const auto changed = [&] { return generation.load(std::memory_order_acquire) != seen; };
    if (!spin(may_spin && seen != 0, changed)) {
      // `asleep` is raised before the last look at `generation`, which the caller changes before it looks at `asleep`.
      asleep.fetch_add(1);
      while (generation.load() == seen) futex_wait(generation, seen, {});
      asleep.fetch_sub(1);
    }
    ++seen;
    if (stop) return;
    execute(thread);
    if (running.fetch_sub(1) == 1 && caller_asleep.load()) futex_wake(running);
  }
}

void ThreadPool::Impl::run(const std::function<void(int)>& work) {
  task = &work;
  running.store(static_cast<std::uint32_t>(size - 1));
  generation.fetch_add(1);
  if (asleep.load() > 0) futex_wake(generation);
  execute(0);
  wait_for_workers();
  if (error) std::rethrow_exception(std::exchange(error, nullptr));
}

// The calling thread keeps polling while it waits. Workers use what the caller's frame holds: where polling fails, that
// is told only when they are done.
void ThreadPool::Impl::wait_for_workers() {
  bool polls = poll != nullptr;
  const auto done = [&] { return running.load(std::memory_order_acquire) == 0; };
  while (!spin(may_spin, done)) {
    caller_asleep.store(true);
    const std::uint32_t left = running.load();
    if (left != 0) futex_wait(running, left, polls ? kPoll : std::chrono::microseconds{0});
    caller_asleep.store(false);
    if (!polls) continue;
    try {
      poll_if_due();
    } catch (...) {
      polls = false;
      const std::lock_guard lock(error_mutex);
      if (!error) error = std::current_exception();
    }
  }
}

void ThreadPool::Impl::poll_if_due() {
  if (!poll) return;
  const Clock::time_point now = Clock::now();
  if (now - last_poll < kPoll) return;
  poll();
  last_poll = Clock::now();
}

ThreadPool::ThreadPool(Options options) : impl_(std::make_unique<Impl>(options)) {}
ThreadPool::~ThreadPool() = default;
int ThreadPool::size() const {
  return impl_->size;
}
void ThreadPool::run(const std::function<void(int thread)>& task) {
  impl_->run(task);
}
void ThreadPool::set_poll(std::function<void()> poll) {
  impl_->poll = std::move(poll);
}
void ThreadPool::poll(int thread) {
  if (thread == 0) impl_->poll_if_due();
}

}  // namespace jupiter

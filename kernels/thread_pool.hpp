// One pool per rank, made once. Work is divided statically by thread number, so results do not depend on timing.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

namespace jupiter {

class ThreadPool {
 public:
  struct Options {
    int threads = 1;           // the calling thread included
    bool pin = false;          // each thread gets a core of its own, of those that this process may use
    bool share_cores = false;  // other ranks use the same cores, so threads never spin
  };
  explicit ThreadPool(Options options);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const;
  // Calls task(t) once for every thread t in [0, size()); the caller is thread 0. Returns when all are done; the
  // first exception of any thread is thrown again here.
  void run(const std::function<void(int thread)>& task);

  // Called by thread 0 between slices of its work (poll()), at most every half millisecond: the main thread moves MPI
  // messages there. Threads other than the caller of run() never call it. What it throws run() throws, once all threads
  // are done.
  void set_poll(std::function<void()> poll);
  void poll(int thread);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// [first, last) of `count` items for part `part` of `parts`: sizes differ by at most one.
struct Slice {
  std::int64_t first;
  std::int64_t last;
};
constexpr Slice slice_of(std::int64_t count, std::int64_t part, std::int64_t parts) {
  return {count * part / parts, count * (part + 1) / parts};
}

}  // namespace jupiter

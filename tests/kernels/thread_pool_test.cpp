// The pool runs every thread's share once, carries exceptions, and sleeps when idle.
#include "kernels/thread_pool.hpp"

#include <gtest/gtest.h>
#include <sched.h>
#include <sys/resource.h>

#include <atomic>
#include <chrono>
#include <stdexcept>
#include <thread>
#include <vector>

namespace jupiter {
namespace {

using namespace std::chrono_literals;

TEST(ThreadPool, RunsEveryThreadOncePerTask) {
  for (const int threads : {1, 2, 3, 7}) {
    for (const bool share : {false, true}) {
      ThreadPool pool({.threads = threads, .share_cores = share});
      std::vector<int> calls(static_cast<std::size_t>(threads), 0);
      for (int i = 0; i < 500; ++i) pool.run([&](int t) { ++calls[static_cast<std::size_t>(t)]; });
      for (const int c : calls) EXPECT_EQ(c, 500);
    }
  }
}

TEST(ThreadPool, WakesWorkersThatSleep) {
  ThreadPool pool({.threads = 3});
  std::atomic<int> calls{0};
  for (int i = 0; i < 20; ++i) {
    std::this_thread::sleep_for(1ms);
    pool.run([&](int) { ++calls; });
  }
  EXPECT_EQ(calls, 60);
}

TEST(ThreadPool, RethrowsAndGoesOn) {
  ThreadPool pool({.threads = 2});
  for (const int thrower : {0, 1}) {
    EXPECT_THROW(pool.run([&](int t) {
      if (t == thrower) throw std::runtime_error("here");
    }),
                 std::runtime_error);
    pool.run([](int) {});
  }
}

// What throws in the caller's polling ends run() only when no thread uses the task any more.
TEST(ThreadPool, FailedPollingWaitsForTheWorkers) {
  ThreadPool pool({.threads = 3});
  for (const bool inside : {false, true}) {
    pool.set_poll([] { throw std::runtime_error("poll"); });
    std::atomic<int> working{0}, finished{0};
    EXPECT_THROW(pool.run([&](int t) {
      ++working;
      while (working < 3) std::this_thread::yield();
      if (t == 0) {
        std::this_thread::sleep_for(1ms);
        if (inside) pool.poll(0);
        return;
      }
      std::this_thread::sleep_for(30ms);
      ++finished;
    }),
                 std::runtime_error);
    EXPECT_EQ(finished, 2);
    pool.set_poll(nullptr);
    pool.run([](int) {});
  }
}

TEST(ThreadPool, IdlePoolUsesNoProcessorTime) {
  ThreadPool pool({.threads = 4});
  pool.run([](int) {});
  const auto cpu_ms = [] {
    rusage u{};
    getrusage(RUSAGE_SELF, &u);
    return (u.ru_utime.tv_sec + u.ru_stime.tv_sec) * 1000 + (u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1000;
  };
  std::this_thread::sleep_for(5ms);  // the spin after the last task ends
  const auto before = cpu_ms();
  std::this_thread::sleep_for(300ms);
  EXPECT_LE(cpu_ms() - before, 20);
}

TEST(ThreadPool, PollsAtMostEveryHalfMillisecondAndAlsoWhileWaiting) {
  ThreadPool pool({.threads = 2});
  int polls = 0;
  pool.set_poll([&] { ++polls; });
  const auto start = std::chrono::steady_clock::now();
  pool.run([&](int t) {
    if (t == 1) std::this_thread::sleep_for(20ms);
    for (int i = 0; i < 1000; ++i) pool.poll(t);
  });
  const auto elapsed = std::chrono::steady_clock::now() - start;
  EXPECT_GE(polls, 5);
  EXPECT_LE(polls, elapsed / 500us + 1);
}

TEST(ThreadPool, PinGivesTheCallerItsOldCoresBack) {
  cpu_set_t before, during, after;
  sched_getaffinity(0, sizeof before, &before);
  {
    ThreadPool pool({.threads = 1, .pin = true});
    sched_getaffinity(0, sizeof during, &during);
  }
  sched_getaffinity(0, sizeof after, &after);
  EXPECT_EQ(CPU_COUNT(&during), 1);
  EXPECT_TRUE(CPU_EQUAL(&before, &after));
}

TEST(ThreadPool, SlicesCoverEverythingOnce) {
  for (const std::int64_t count : {0, 1, 5, 64, 1000}) {
    for (const std::int64_t parts : {1, 2, 3, 16}) {
      std::int64_t next = 0;
      for (std::int64_t p = 0; p < parts; ++p) {
        const Slice s = slice_of(count, p, parts);
        EXPECT_EQ(s.first, next);
        EXPECT_LE(s.last - s.first, count / parts + 1);
        next = s.last;
      }
      EXPECT_EQ(next, count);
    }
  }
}

}  // namespace
}  // namespace jupiter

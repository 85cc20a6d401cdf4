// The answers that are under way, and the ranks that compute them. The ranks may die and come back: an answer stays
// here with all tokens that it got, and the next ranks go on behind them.
#pragma once

#include <chrono>
#include <condition_variable>
#include <deque>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "app/gateway/generation.hpp"
#include "app/gateway/line_socket.hpp"

namespace jupiter {

// An answer under way, as its reader sees it. Shared by the reader (a thread of the HTTP server) and the backend.
class Generation {
 public:
  explicit Generation(GenerationSpec spec) : spec_(std::move(spec)) {}

  // What came since the last call. Waits for something at most so long; nothing came: an empty list.
  std::vector<GivenToken> wait(std::chrono::milliseconds limit);
  // Once it has ended and all tokens were taken.
  std::optional<GenerationEnd> end() const;
  std::uint64_t id() const { return spec_.id; }

 private:
  friend class Backend;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  GenerationSpec spec_;  // `given` grows
  std::deque<GivenToken> unread_;
  std::optional<GenerationEnd> end_;
};

// What the page and /metrics show.
struct BackendStatus {
  bool connected = false;
  bool loaded = false;    // connected, and the ranks have the model
  nlohmann::json ready;   // the ranks' own description; null before they came the first time
  nlohmann::json status;  // what they did last; null before they told
  nlohmann::json boards;  // a list of {"host", "state": used, idle, lost or returning}; null: nobody told
  std::size_t open = 0;   // answers
  bool ending = false;    // no new answers
  std::int64_t starts = 0;
  std::uint64_t requests = 0, finished = 0, cancelled = 0, failed = 0;
  std::uint64_t prompt_tokens = 0, shared_tokens = 0, given_tokens = 0;
  std::uint64_t drafted_tokens = 0, accepted_tokens = 0;  // of answers that have ended
};

class Backend {
 public:
  // Where it listens: the path of a Unix socket, and, if `address` is not empty, a free TCP port of that address, where
  // the first line of a connection must be the token.
  struct Places {
    std::string socket_path, address = {}, token = {};
  };
  // most_open: answers under way, waiting ones included.
  Backend(const Places& places, std::size_t most_open);
  ~Backend();
  Backend(const Backend&) = delete;
  Backend& operator=(const Backend&) = delete;

  // None where too many answers are under way, or the gateway is about to end.
  std::shared_ptr<Generation> submit(GenerationSpec spec);
  // The reader does not want the rest: its place is free within one step.
  void cancel(const std::shared_ptr<Generation>& generation);
  BackendStatus status() const;
  // Whether the ranks have been there for the first time within this time.
  bool wait_until_ready(std::chrono::milliseconds limit);
  // No new answers; waits for those under way at most so long, ends them with an error, and tells the ranks to end.
  void drain(std::chrono::milliseconds limit);

 private:
  using GenerationPtr = std::shared_ptr<Generation>;
  using Clock = std::chrono::steady_clock;
  // Whoever starts the ranks, and connections that have not told yet what they are.
  struct Visitor {
    LineSocket socket;
    std::string token = {};  // still to be said
    Clock::time_point came = Clock::now();
    bool known = false;
  };
  void run();
  void take_visitors();
  static bool may_stay(Visitor& visitor);
  void hear_visitors();
  void tell_visitors();
  void take_connection(LineSocket&& socket);
  void take_line(const std::string& line);
  void send_outbox();
  void end(const GenerationPtr& generation, GenerationEnd&& end);
  void wake() const;

  LineListener listener_;
  std::optional<LineListener> tcp_listener_;
  std::string token_;
  std::size_t most_open_;
  int wake_[2] = {-1, -1};  // a pipe: something is to be sent
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::map<std::uint64_t, GenerationPtr> open_;
  std::deque<std::string> outbox_;
  std::uint64_t next_id_ = 1;
  bool draining_ = false, drained_ = false, stopping_ = false;
  BackendStatus status_;
  Clock::time_point quiet_since_ = Clock::now();  // no answer has been open since then; counts where none is
  Clock::time_point heard_ = Clock::now();        // of the ranks, or when the first answer was opened
  // The thread's own: the ranks, and connections that are not the ranks' or have not told yet what they are.
  std::optional<LineSocket> ranks_;
  std::list<Visitor> visitors_;
  Clock::time_point told_ = Clock::now();
  std::thread thread_;
};

}  // namespace jupiter

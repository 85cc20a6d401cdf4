// Two computations in turn on one thread, so that one goes on while the other waits for the network. Which of them runs
// when is fixed: what both do to others (messages) has the same order on every board.
#pragma once

#include <functional>
#include <memory>

namespace jupiter {

class Lanes {
 public:
  Lanes();
  ~Lanes();
  Lanes(const Lanes&) = delete;
  Lanes& operator=(const Lanes&) = delete;

  // Runs first() until it calls turn(), then second() until that does, then first() again, and so on until both have
  // ended. What one of them throws ends the other at its next turn(), and is thrown here.
  void run(const std::function<void()>& first, const std::function<void()>& second);
  // Within run(): lets the other one go on until its next turn(), or its end.
  void turn();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace jupiter

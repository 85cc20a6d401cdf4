// Computing that is the same every time, for measurements of what something else adds to it.
#pragma once

#include <cstdint>

namespace jupiter {

class FixedWork {
 public:
  // About so many seconds on this machine as it is now.
  explicit FixedWork(double seconds);
  void operator()() const;

 private:
  std::int64_t steps_ = 0;
};

}  // namespace jupiter

// Requests under random schedules, with losses of all ranks: each must end with the bits of plain decoding.
// JUPITER_SCHEDULES says how many are tried (default 30), JUPITER_FIRST_SCHEDULE which is the first.
#include <gtest/gtest.h>

#include <cstdlib>

#include "random_schedule.hpp"

namespace jupiter {
namespace {

std::uint64_t from_environment(const char* name, std::uint64_t otherwise) {
  const char* text = std::getenv(name);
  return text == nullptr ? otherwise : std::strtoull(text, nullptr, 10);
}

TEST(Schedule, EveryRequestEndsWithTheBitsOfPlainDecoding) {
  const std::uint64_t first = from_environment("JUPITER_FIRST_SCHEDULE", 0);
  const std::uint64_t count = from_environment("JUPITER_SCHEDULES", 30);
  std::int64_t accepted = 0;
  for (std::uint64_t seed = first; seed < first + count && !HasFailure(); ++seed) {
    const Schedule schedule = make_schedule(seed);
    try {
      accepted += ScheduleRun(schedule).run();
    } catch (const std::exception& e) {
      ADD_FAILURE() << text_of(schedule) << "\n" << e.what();
    }
  }
  EXPECT_GT(accepted, static_cast<std::int64_t>(count));  // they did speculate
}

}  // namespace
}  // namespace jupiter

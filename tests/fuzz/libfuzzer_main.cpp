// libFuzzer's side of a target: one program for each, which has main() from the library.
#include "fuzz_target.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace jupiter::fuzz;
  run_target(*all_targets().front(), {reinterpret_cast<const std::byte*>(data), size});
  return 0;
}

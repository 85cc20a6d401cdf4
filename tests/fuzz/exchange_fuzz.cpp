// Values that all ranks exchange, field by field: lists, texts, optional ones, and structs of them.
#include "fuzz_target.hpp"
#include "parallel/comm/collectives.hpp"
#include "parallel/pipeline/pipeline.hpp"

namespace jupiter::fuzz {
namespace {

struct Inner {
  std::string name;
  std::vector<std::int32_t> numbers;
  std::optional<double> share;
  template <typename Self, typename Visit>
  static void fields(Self& s, Visit&& visit) {
    visit(s.name, s.numbers, s.share);
  }
};

template <typename T>
void check_type(Input input) {
  accepted([&] {
    const Bytes bytes(input.begin(), input.end());
    const T value = jupiter::fields::from_bytes<T>(bytes);
    const Bytes written = jupiter::fields::to_bytes(value);
    expect(jupiter::fields::to_bytes(jupiter::fields::from_bytes<T>(written)) == written, "a value does not come back");
  });
}

const Target target("exchange",
                    [](Input input) {
                      Pieces pieces(input);
                      const std::size_t kind = pieces.byte() % 5;
                      const Input bytes = pieces.rest();
                      switch (kind) {
                        case 0:
                          return check_type<std::vector<Inner>>(bytes);
                        case 1:
                          return check_type<std::vector<std::string>>(bytes);
                        case 2:
                          return check_type<std::optional<std::vector<double>>>(bytes);
                        case 3:
                          return check_type<RankReport>(bytes);
                        default:
                          return check_type<std::vector<std::vector<std::int64_t>>>(bytes);
                      }
                    },
                    {.times_input = 16, .floor_bytes = 1 << 20});

}  // namespace
}  // namespace jupiter::fuzz

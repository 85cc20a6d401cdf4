// Profiles, and what planning asks of them.
#include "fuzz_target.hpp"
#include "parallel/plan/profile.hpp"

namespace jupiter::fuzz {
namespace {

void check_board(const BoardProfile& b) {
  double before = 0;
  for (const std::int64_t rows : {1, 16, 500}) {
    const double seconds = b.layer.at(rows, 100);
    expect(seconds >= 0, "a negative time");
    expect(b.slice_s(0.25, rows, 100) >= 0, "a negative time of a slice");
    before = seconds;
  }
  expect(before < 1e300, "an endless time");
}

const Target target("profile", [](Input input) {
  accepted([&] {
    Profile profile = parse_profile(std::string(as_text(input)), "profile.json");
    const std::string written = to_json(profile);
    expect(to_json(parse_profile(written, "profile.json")) == written, "a profile does not come back");
    for (int board = 0; board < static_cast<int>(profile.boards.size()); ++board) {
      check_board(profile.boards[board]);
      expect(profile.hop_into(board).bytes_per_s > 0, "a link that carries nothing");
    }
    profile.gather_of(2);
    const std::size_t boards = profile.boards.size();
    const std::size_t removed = leave_out(profile, profile.boards.front().host);
    expect(removed >= 1 && profile.boards.size() == boards - removed, "a host that stays");
  });
});

}  // namespace
}  // namespace jupiter::fuzz

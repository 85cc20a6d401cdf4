// Files of boards that nobody has measured, and the profile that is estimated from one.
#include "fuzz_target.hpp"
#include "io/convert/synth.hpp"
#include "parallel/plan/board_file.hpp"

namespace jupiter::fuzz {
namespace {

const Target target("boards",
                    [](Input input) {
                      static const Manifest manifest = synth_manifest(*synth_shape("tiny"), GgufType::q4_0);
                      accepted([&] {
                        const ClusterDescription cluster = parse_boards(std::string(as_text(input)), "boards.json");
                        std::size_t boards = 0;
                        for (const BoardDescription& b : cluster.boards) boards += static_cast<std::size_t>(b.count);
                        if (boards > 8) return;  // the estimate of all links takes long
                        const Profile profile = described_profile(cluster, manifest, "0");
                        expect(profile.boards.size() == boards, "boards are missing");
                        expect(accepted([&] { parse_profile(to_json(profile), "profile.json"); }),
                               "an estimated profile is refused");
                      });
                    },
                    {.times_input = 2, .floor_bytes = 4 << 20});

}  // namespace
}  // namespace jupiter::fuzz

// Plans: what is read is written again as it was; a plan that fits its model gives layers and chunks to every stage.
#include "fuzz_target.hpp"
#include "io/convert/synth.hpp"
#include "parallel/plan/plan.hpp"

namespace jupiter::fuzz {
namespace {

const ModelConfig& config() {
  static const ModelConfig c = *synth_shape("tiny");
  return c;
}

void check_chunks(const Plan& plan) {
  for (const std::int64_t tokens : {1, 7, 300, 5000}) {
    std::int64_t sum = 0;
    for (const std::int64_t n : chunks_for(plan, tokens)) {
      expect(n > 0, "an empty chunk");
      sum += n;
    }
    expect(sum == tokens, "chunks that do not sum to their prompt");
  }
}

const Target target("plan", [](Input input) {
  accepted([&] {
    const Plan plan = parse_plan(std::string(as_text(input)), "plan.json");
    const std::string written = to_json(plan);
    expect(to_json(parse_plan(written, "plan.json")) == written, "a plan does not come back");
    check(plan, config(), "plan.json");
    check_chunks(plan);
    for (std::size_t s = 0; s < plan.stages.size(); ++s) plan.parts(s, config());
  });
});

}  // namespace
}  // namespace jupiter::fuzz

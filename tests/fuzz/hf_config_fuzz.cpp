// config.json of Hugging Face: a configuration that is accepted passes its own check.
#include "fuzz_target.hpp"
#include "io/convert/hf_model.hpp"
#include "io/convert/model_source.hpp"

namespace jupiter::fuzz {
namespace {

const Target target("hf_config", [](Input input) {
  Pieces pieces(input);
  const bool has_output = pieces.byte() % 2 != 0;
  const auto context = static_cast<std::int64_t>(pieces.below(8192));
  accepted([&] {
    const ModelConfig c =
        parse_hf_config(parse_json_object(as_text(pieces.rest()), "config.json"), has_output, context);
    expect(accepted([&] { check(c, "config.json"); }), "a configuration that was read is refused");
    if (c.n_layers <= 8) tensor_specs(c);
  });
});

}  // namespace
}  // namespace jupiter::fuzz

// The manifest of a model folder: what is read is written again as it was, and its sizes can be summed up.
#include "fuzz_target.hpp"
#include "io/model/manifest.hpp"

namespace jupiter::fuzz {
namespace {

const Target target("manifest", [](Input input) {
  accepted([&] {
    const Manifest m = parse_manifest(std::string(as_text(input)), "manifest.json");
    const std::string written = to_json(m);
    expect(to_json(parse_manifest(written, "manifest.json")) == written, "a manifest does not come back");
    accepted([&] {
      const ModelPart all{0, m.config.n_layers, true, true};
      expect(read_bytes(m, all) <= weight_bytes(m, all), "a token reads more than there is");
      mapped_bytes(m, all);
    });
    for (const FileInfo& file : m.files) file.mapped_bytes();
  });
});

}  // namespace
}  // namespace jupiter::fuzz

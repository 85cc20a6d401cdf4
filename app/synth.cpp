// jupiter synth --shape NAME -o DIR
#include "io/convert/synth.hpp"

#include <fmt/format.h>

#include <iostream>

#include "app/command.hpp"
#include "io/convert/convert.hpp"
#include "io/hash.hpp"
#include "io/model/draft_file.hpp"
#include "io/progress.hpp"

namespace jupiter {

ExitCode synth_command(const MpiSession& mpi, const Arguments& arguments) {
  std::string shape, folder;
  GgufType type = GgufType::q4_0;
  std::int64_t layers = 0;
  std::uint64_t seed = 1;
  bool manifest_only = false;
  OptionSet set("synth", "Writes a model of random weights in a known shape, for speed tests.");
  set.text("shape", shape, "NAME", synth_shape_names());
  set.text("o,output", folder, "DIR", "Folder to write");
  set.choice("quant", type,
             {{"q4", GgufType::q4_0},
              {"q8", GgufType::q8_0},
              {"mxfp4", GgufType::mxfp4},
              {"f16", GgufType::f16},
              {"f32", GgufType::f32}},
             "q4, q8, mxfp4, f16 or f32");
  set.number("layers", layers, {1, 4096}, "N", "Another number of layers");
  set.number("seed", seed, {0, UINT64_MAX}, "N", "Of the weights");
  set.flag("manifest-only", manifest_only, "No weights: enough for `plan`");
  if (!set.parse(mpi, arguments)) return ExitCode::ok;
  expect_one_rank(mpi, "synth");
  if (shape.empty() || folder.empty()) throw UsageError("synth: expected --shape NAME and -o DIR (see --help)");
  auto config = synth_shape(shape);
  if (!config) throw UsageError(fmt::format("--shape: expected {}, found '{}'", synth_shape_names(), shape));
  if (layers > 0) {
    config->n_layers = layers;
    std::erase_if(config->full_attention_layers, [&](std::int64_t layer) { return layer >= layers; });
  }

  if (manifest_only) {
    write_synth_manifest(synth_manifest(*config, type), folder);
    return ExitCode::ok;
  }
  const auto source = synth_source(*config, type, seed);
  ProgressBar bar("synth", "MB", 1e6);
  ConvertOptions convert;
  if (type == GgufType::f32) convert.residual = Precision::f32;
  convert.progress = [&](std::uint64_t done, std::uint64_t total) {
    if (interrupted_by() != ExitCode::ok) throw Error(interrupted_by(), "interrupted");
    bar.update(done, total);
  };
  const Manifest manifest = convert_model(*source, folder, convert);
  std::cerr << fmt::format("{}: {}, model hash {}\n", folder, manifest.config.model_name, hex(manifest.hash));
  std::cerr << remove_foreign_draft(folder, manifest);
  return ExitCode::ok;
}

}  // namespace jupiter

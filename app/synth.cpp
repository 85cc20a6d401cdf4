// jupiter synth --shape NAME -o DIR
#include "io/convert/synth.hpp"

#include <fmt/format.h>

#include <iostream>
#include <map>

#include "app/command.hpp"
#include "io/convert/convert.hpp"
#include "io/hash.hpp"
#include "io/model/draft_file.hpp"
#include "io/progress.hpp"

namespace jupiter {

ExitCode synth_command(MpiSession& mpi, const Arguments& arguments) {
  cxxopts::Options options("jupiter synth", "Writes a model of random weights in a known shape, for speed tests.");
  // clang-format off
  options.add_options()
    ("shape", synth_shape_names(), cxxopts::value<std::string>(), "NAME")
    ("o,output", "Folder to write", cxxopts::value<std::string>(), "DIR")
    ("quant", "q4, q8, f16 or f32", cxxopts::value<std::string>()->default_value("q4"), "NAME")
    ("layers", "Another number of layers", cxxopts::value<std::int64_t>(), "N")
    ("seed", "Of the weights", cxxopts::value<std::uint64_t>()->default_value("1"), "N");
  // clang-format on
  const auto args = parse(mpi, options, arguments);
  if (!args) return ExitCode::ok;
  expect_one_rank(mpi, "synth");
  if (args->count("shape") == 0 || args->count("output") == 0) {
    throw UsageError("synth: expected --shape NAME and -o DIR (see --help)");
  }
  const auto shape = (*args)["shape"].as<std::string>();
  auto config = synth_shape(shape);
  if (!config) throw UsageError(fmt::format("--shape: expected {}, found '{}'", synth_shape_names(), shape));
  if (args->count("layers") > 0) config->n_layers = (*args)["layers"].as<std::int64_t>();
  if (config->n_layers < 1 || config->n_layers > 4096) {
    throw UsageError(fmt::format("--layers: expected 1 to 4096, found {}", config->n_layers));
  }
  const std::map<std::string, GgufType> types = {
      {"q4", GgufType::q4_0}, {"q8", GgufType::q8_0}, {"f16", GgufType::f16}, {"f32", GgufType::f32}};
  const auto quant = (*args)["quant"].as<std::string>();
  const auto type = types.find(quant);
  if (type == types.end()) throw UsageError(fmt::format("--quant: expected q4, q8, f16 or f32, found '{}'", quant));

  const auto source = synth_source(*config, type->second, (*args)["seed"].as<std::uint64_t>());
  ProgressBar bar("synth", "MB", 1e6);
  ConvertOptions convert;
  if (quant == "f32") convert.residual = Precision::f32;
  convert.progress = [&](std::uint64_t done, std::uint64_t total) {
    if (interrupted_by() != ExitCode::ok) throw Error(interrupted_by(), "interrupted");
    bar.update(done, total);
  };
  const std::string folder = (*args)["output"].as<std::string>();
  const Manifest manifest = convert_model(*source, folder, convert);
  std::cerr << fmt::format("{}: {}, model hash {}\n", folder, manifest.config.model_name, hex(manifest.hash));
  std::cerr << remove_foreign_draft(folder, manifest);
  return ExitCode::ok;
}

}  // namespace jupiter

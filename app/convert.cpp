// jupiter convert SRC -o DIR
#include "io/convert/convert.hpp"

#include <fmt/format.h>

#include <iostream>

#include "app/command.hpp"
#include "io/files.hpp"
#include "io/hash.hpp"
#include "io/model/draft_file.hpp"
#include "io/progress.hpp"

namespace jupiter {

namespace {
template <typename T>
T named_option(std::optional<T> value, const char* option, const std::string& text, const char* known) {
  if (!value) throw UsageError(fmt::format("{}: expected {}, found '{}'", option, known, text));
  return *value;
}

// Runs find it there by themselves. A draft file replaces what is there; Medusa heads join it.
void add_draft(const std::string& file, const std::filesystem::path& folder) {
  const Manifest manifest = read_manifest(folder);
  if (!file.ends_with(".safetensors")) {
    read_draft(file, manifest);
    write_file_atomically(folder / kDraftName, read_file(file));
    return;
  }
  DraftData data = empty_draft(manifest);
  if (std::filesystem::exists(folder / kDraftName)) data = read_draft(folder / kDraftName, manifest);
  data.medusa = read_medusa_safetensors(file, manifest);
  write_draft(folder / kDraftName, data);
}
}  // namespace

ExitCode convert_command(MpiSession& mpi, const Arguments& arguments) {
  cxxopts::Options options("jupiter convert", "Converts a GGUF file or a Hugging Face folder to a folder of shards.");
  options.positional_help("SRC");
  // clang-format off
  options.add_options()
    ("source", "GGUF file or Hugging Face folder", cxxopts::value<std::string>(), "SRC")
    ("o,output", "Folder to write", cxxopts::value<std::string>(), "DIR")
    ("quant", "keep (what the source has), q4, q8, f16 or f32", cxxopts::value<std::string>()->default_value("keep"), "NAME")
    ("draft", "Draft file of this model (train-draft), or Medusa heads (FILE.safetensors), to lay into the folder; without SRC: into a folder that is there", cxxopts::value<std::string>(), "FILE")
    ("residual", "Precision between layers: f16, bf16 or f32 (default f16; f32 with --quant f32)", cxxopts::value<std::string>(), "NAME");
  // clang-format on
  options.parse_positional({"source"});
  const auto args = parse(mpi, options, arguments);
  if (!args) return ExitCode::ok;
  expect_one_rank(mpi, "convert");
  const std::string draft = args->count("draft") > 0 ? (*args)["draft"].as<std::string>() : "";
  if (args->count("source") == 0 && draft.empty()) throw UsageError("convert: expected a source (see --help)");
  if (args->count("output") == 0) throw UsageError("convert: expected -o DIR (see --help)");
  const std::string folder = (*args)["output"].as<std::string>();
  if (args->count("source") == 0) {
    add_draft(draft, folder);
    return ExitCode::ok;
  }

  ConvertOptions convert;
  const auto quant = (*args)["quant"].as<std::string>();
  convert.quantization = named_option(quantization_from_name(quant), "--quant", quant, "keep, q4, q8, f16 or f32");
  if (args->count("residual") > 0) {
    const auto residual = (*args)["residual"].as<std::string>();
    convert.residual = named_option(precision_from_name(residual), "--residual", residual, "f16, bf16 or f32");
  }
  ProgressBar bar("convert", "MB", 1e6);
  convert.progress = [&](std::uint64_t done, std::uint64_t total) {
    if (interrupted_by() != ExitCode::ok) throw Error(interrupted_by(), "interrupted");
    bar.update(done, total);
  };
  const auto source = open_model_source((*args)["source"].as<std::string>());
  const Manifest manifest = convert_model(*source, folder, convert);
  std::uint64_t bytes = 0;
  for (const FileInfo& f : manifest.files) bytes += f.bytes();
  std::cerr << fmt::format("{}: {} layers, {:.1f} MB of weights, model hash {}\n", folder, manifest.config.n_layers,
                           static_cast<double>(bytes) / 1e6, hex(manifest.hash));
  for (const std::string& note : manifest.notes) std::cerr << note << "\n";
  std::cerr << remove_foreign_draft(folder, manifest);
  if (!draft.empty()) add_draft(draft, folder);
  return ExitCode::ok;
}

}  // namespace jupiter

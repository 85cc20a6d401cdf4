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

ExitCode convert_command(const MpiSession& mpi, const Arguments& arguments) {
  ConvertOptions convert;
  std::string source_path, folder, draft;
  std::int64_t context = 0;
  OptionSet set("convert", "Converts a GGUF file or a Hugging Face folder to a folder of shards.");
  // clang-format off
  set.positional("source", source_path, "SRC", "GGUF file or Hugging Face folder");
  set.text("o,output", folder, "DIR", "Folder to write");
  set.choice("quant", convert.quantization, named({Quantization::keep, Quantization::q4, Quantization::q8, Quantization::f16, Quantization::f32}), "keep (what the source has), q4, q8, f16 or f32");
  set.text("draft", draft, "FILE", "Draft file of this model (train-draft), or Medusa heads (FILE.safetensors), to lay into the folder; without SRC: into a folder that is there");
  set.choice("residual", convert.residual, named({Precision::f16, Precision::bf16, Precision::f32}), "Precision between layers: f16, bf16 or f32 (default f16, bf16 for Gemma; f32 with --quant f32)");
  set.number("context", context, {1, 1 << 28}, "N", "Longest sequence that the model is for, in tokens: models with two sets of rotary factors (Phi 3 with 128k) get the one for it (default: the one for their original context)");
  // clang-format on
  if (!set.parse(mpi, arguments)) return ExitCode::ok;
  expect_one_rank(mpi, "convert");
  if (source_path.empty() && draft.empty()) throw UsageError("convert: expected a source (see --help)");
  if (folder.empty()) throw UsageError("convert: expected -o DIR (see --help)");
  if (source_path.empty()) {
    add_draft(draft, folder);
    return ExitCode::ok;
  }

  ProgressBar bar("convert", "MB", 1e6);
  convert.progress = [&](std::uint64_t done, std::uint64_t total) {
    if (interrupted_by() != ExitCode::ok) throw Error(interrupted_by(), "interrupted");
    bar.update(done, total);
  };
  const auto source = open_model_source(source_path, context);
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

// jupiter inspect DIR [--verify] [--ranks N]
#include <fmt/format.h>

#include <iostream>
#include <map>

#include "app/command.hpp"
#include "app/engine.hpp"
#include "io/hash.hpp"
#include "io/model/shards.hpp"
#include "io/progress.hpp"

namespace jupiter {

namespace {

// "q4m 7, f32 2" and so on: how many datasets of each format.
std::string formats_of(const FileInfo& file) {
  std::map<std::string, int> counts;
  for (const DatasetInfo& d : file.datasets) {
    if (d.kind == DatasetInfo::Kind::matrix) ++counts[std::string(name(d.format))];
    if (d.kind == DatasetInfo::Kind::vector) ++counts["vector"];
  }
  std::string text;
  for (const auto& [format, count] : counts) text += fmt::format("{}{} {}", text.empty() ? "" : ", ", format, count);
  return text;
}

void print_model(const std::string& folder, const Manifest& m) {
  const ModelConfig& c = m.config;
  std::uint64_t total = 0;
  for (const FileInfo& f : m.files) total += f.bytes();
  std::cout << fmt::format(
      "{}\n  model         {} ({})\n  source        {}, --quant {}\n  hash          {}\n"
      "  layers        {}\n  width         {} (hidden {})\n  heads         {} of {} (key/value {})\n"
      "  vocabulary    {}{}\n  context       {} tokens\n  residual      {}\n  size          {:.1f} MB in {} files\n",
      folder, c.model_name.empty() ? "unnamed" : c.model_name, name(c.architecture), m.source, m.quantization,
      hex(m.hash), c.n_layers, c.dim, c.hidden_dim, c.n_heads, c.head_dim, c.n_kv_heads, c.vocab_size,
      c.tied_embeddings ? " (tied)" : "", c.max_seq_len, name(c.residual), static_cast<double>(total) / 1e6,
      m.files.size());
  if (c.n_experts > 0) {
    std::cout << fmt::format("  experts       {} of {} (hidden {})\n", c.n_experts_used, c.n_experts,
                             c.expert_hidden_dim);
  }
  for (const std::string& note : m.notes) std::cout << "  note          " << note << "\n";
  for (const FileInfo& f : m.files) {
    std::cout << fmt::format("  {:<16} {:>12} bytes  {}\n", f.name, f.bytes(), formats_of(f));
  }
}

void print_split(const Manifest& m, int ranks) {
  if (ranks < 1 || ranks > m.config.n_layers) {
    throw UsageError(fmt::format("--ranks: expected 1 to {} (the model's layers), found {}", m.config.n_layers, ranks));
  }
  std::string cuts;
  for (int r = 0; r < ranks; ++r) cuts += fmt::format("{} ", default_part(m, r, ranks).first_layer);
  std::cout << fmt::format("  split         {}{}\n", cuts, m.config.n_layers);
}

}  // namespace

ExitCode inspect_command(const MpiSession& mpi, const Arguments& arguments) {
  std::string folder;
  int ranks = 0;
  bool verify = false;
  OptionSet set("inspect", "Shows what a model folder holds.");
  set.positional("model", folder, "DIR", "Model folder");
  set.number("ranks", ranks, {1, INT32_MAX}, "N",
             "Also: the first layer of each of N ranks without a plan, and the end");
  set.flag("verify", verify, "Check every checksum; names what is bad, exit 3");
  if (!set.parse(mpi, arguments)) return ExitCode::ok;
  expect_one_rank(mpi, "inspect");
  if (folder.empty()) throw UsageError("inspect: expected a model folder (see --help)");
  const Manifest manifest = read_manifest(folder);
  print_model(folder, manifest);
  if (set.given("ranks")) print_split(manifest, ranks);
  if (!verify) return ExitCode::ok;

  ProgressBar bar("verify", "files");
  std::size_t done = 0, bad = 0;
  for (const FileInfo& f : manifest.files) {
    for (const std::string& problem : verify_shard(folder, f)) {
      std::cout << "BAD " << problem << "\n";
      ++bad;
    }
    bar.update(++done, manifest.files.size());
  }
  if (bad > 0) throw FormatError(fmt::format("{}: {} bad datasets or files", folder, bad));
  std::cout << fmt::format("all {} files are whole\n", manifest.files.size());
  return ExitCode::ok;
}

}  // namespace jupiter

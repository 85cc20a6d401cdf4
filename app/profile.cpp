// jupiter profile: what every board and every link can do; --check is the cluster's doctor.
#include "parallel/plan/profile.hpp"
#include "parallel/comm/collectives.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <iostream>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>
#include <thread>

#include "app/engine.hpp"
#include "app/result_info.hpp"
#include "io/files.hpp"
#include "io/hash.hpp"
#include "io/json_fields.hpp"
#include "io/memory.hpp"
#include "io/progress.hpp"
#include "parallel/measure/measure.hpp"
#include "parallel/pipeline/memory_check.hpp"

namespace jupiter {

namespace {

namespace fs = std::filesystem;

struct ProfileOptions {
  void declare(OptionSet& options);
  void check(const MpiSession& mpi);

  std::string model;
  std::string output = "cluster.json";
  std::vector<std::int64_t> memory_mib;  // one for all, or one a rank
  int threads = 0;
  std::int64_t context_tokens = 1024;
  bool shared_host = false;
  bool check_only = false;
};

void ProfileOptions::declare(OptionSet& options) {
  // clang-format off
  options.text("m,model", model, "DIR", "Model folder; each board measures the shards that it has");
  options.text("o,output", output, "FILE", "File to write");
  options.numbers("memory", memory_mib, {1, kMostMib}, "MIB", "Budget of each board, MiB: one number, or one a rank (default: what is free)");
  options.number("t,threads", threads, {1, kMostThreads}, "N", "Threads of each rank");
  options.number("context", context_tokens, {0, kMostTokens}, "N", "Longest context to measure, tokens");
  options.flag("shared-host", shared_host, "Several ranks may be on one host");
  options.flag("check", check_only, "Only look for what is wrong with the cluster");
  // clang-format on
}

void ProfileOptions::check(const MpiSession& mpi) {
  refuse(model.empty(), "profile: expected -m DIR (see --help)");
  refuse(memory_mib.size() > 1 && std::ssize(memory_mib) != mpi.size(),
         fmt::format("--memory: expected one number, or {} (one a rank), found {}", mpi.size(), memory_mib.size()));
}

// The longest run of layers whose shards are on this board, and which ends of the model.
ModelPart shards_here(const fs::path& folder, const Manifest& m) {
  ModelPart best;
  for (std::int64_t first = 0; first < m.config.n_layers; ++first) {
    std::int64_t last = first;
    while (last < m.config.n_layers && fs::exists(folder / layer_file_name(last))) ++last;
    if (last - first > best.last_layer - best.first_layer) best = {first, last, false, false};
    first = std::max(first, last);
  }
  if (best.first_layer == best.last_layer) {
    throw FormatError(folder.string(), "shards", "at least one layer on every board", "none");
  }
  best.embedding = fs::exists(folder / embed_file_name());
  best.output_head = fs::exists(folder / output_file_name()) && (best.embedding || !m.config.tied_embeddings);
  return best;
}

// share: of the memory that is free here.
std::uint64_t memory_budget(const ProfileOptions& o, const MpiSession& mpi, std::uint64_t share) {
  if (o.memory_mib.empty()) return share / 10 * 9;
  const std::size_t i = o.memory_mib.size() == 1 ? 0 : static_cast<std::size_t>(mpi.rank());
  return static_cast<std::uint64_t>(o.memory_mib[i]) << 20;
}

std::int64_t unix_time_us() {
  return std::chrono::duration_cast<std::chrono::microseconds>(std::chrono::system_clock::now().time_since_epoch())
      .count();
}

// What the doctor asks every rank.
nlohmann::json examine(const MpiSession& mpi, int threads) {
  return {{"host", mpi.host()},
          {"ranks_on_host", mpi.ranks_on_host()},
          {"cores", std::thread::hardware_concurrency()},
          {"allowed_cores", allowed_cores()},
          {"threads", threads},
          {"kernels", kernels().name},
          {"memory_mib", available_memory() >> 20},
          {"time_us", unix_time_us()}};
}

// Findings about one rank, worst first.
std::vector<std::string> findings(const nlohmann::json& r, std::int64_t reference_us) {
  std::vector<std::string> all;
  if (r["ranks_on_host"].get<int>() > 1)
    all.push_back(fmt::format("{} ranks share this host", r["ranks_on_host"].get<int>()));
  if (r["threads"].get<int>() > r["allowed_cores"].get<int>()) {
    all.push_back(fmt::format("{} threads may use only {} core(s): start mpirun with --bind-to none",
                              r["threads"].get<int>(), r["allowed_cores"].get<int>()));
  } else if (r["allowed_cores"].get<int>() < r["cores"].get<int>() && r["ranks_on_host"].get<int>() == 1) {
    all.push_back(fmt::format("bound to {} of {} cores: start mpirun with --bind-to none",
                              r["allowed_cores"].get<int>(), r["cores"].get<int>()));
  }
  const double off_s = static_cast<double>(r["time_us"].get<std::int64_t>() - reference_us) * 1e-6;
  if (std::abs(off_s) > 2) all.push_back(fmt::format("clock is {:.1f} s off rank 0's", off_s));
  return all;
}

// Prints the cluster as a table; the number of findings.
int print_check(const std::vector<std::string>& examined, const std::vector<LinkProfile>& links) {
  int count = 0;
  std::int64_t reference = 0;
  std::cout << fmt::format("{:<5}{:<20}{:>6}{:>9}{:>11}{:>12}  {}\n", "rank", "host", "cores", "threads", "free MiB",
                           "kernels", "findings");
  for (std::size_t r = 0; r < examined.size(); ++r) {
    const auto j = parse_json(examined[r], "rank");
    if (r == 0) reference = j["time_us"].get<std::int64_t>();
    std::string text;
    for (const std::string& f : findings(j, reference)) {
      text += (text.empty() ? "" : "; ") + f;
      ++count;
    }
    std::cout << fmt::format("{:<5}{:<20}{:>6}{:>9}{:>11}{:>12}  {}\n", r, j["host"].get<std::string>(),
                             j["cores"].get<int>(), j["threads"].get<int>(), j["memory_mib"].get<std::uint64_t>(),
                             j["kernels"].get<std::string>(), text.empty() ? "none" : text);
  }
  double best = 0;
  for (const LinkProfile& l : links) best = std::max(best, l.bytes_per_s);
  for (const LinkProfile& l : links) {
    if (l.from > l.to) continue;
    const bool slow = l.bytes_per_s < best / 4;
    count += slow;
    std::cout << fmt::format("link {} - {}: {:.0f} us, {:.0f} Mbit/s{}\n", l.from, l.to, l.latency_s * 1e6,
                             l.bytes_per_s * 8e-6, slow ? "  SLOW: less than a quarter of the best" : "");
  }
  std::cout << (count == 0 ? "nothing wrong\n" : fmt::format("{} finding(s)\n", count)) << std::flush;
  return count;
}

void check_hosts(const MpiSession& mpi, const ProfileOptions& o, RankStatus& status) {
  if (o.shared_host || mpi.ranks_on_host() == 1) return;
  status.problem =
      UsageError(fmt::format("{} ranks on host {}: expected one a board (they would slow each other); --shared-host "
                             "measures them all the same",
                             mpi.ranks_on_host(), mpi.host()));
}

std::string pack_board(const BoardProfile& b, const std::string& hash) {
  return to_json(Profile{JUPITER_VERSION, hash, {b}, {}, {}});
}

}  // namespace

ExitCode profile_command(const MpiSession& mpi, const Arguments& arguments) {
  ProfileOptions o;
  OptionSet set("profile", "Measures boards and links under mpirun; the planner reads the result.");
  o.declare(set);
  if (!set.parse(mpi, arguments)) return ExitCode::ok;
  o.check(mpi);

  RankStatus status{.version = JUPITER_VERSION, .model_hash = "", .format_version = kFormatVersion};
  Manifest manifest;
  std::unique_ptr<ModelFiles> files;
  together(mpi, status, [&] {
    manifest = read_manifest(o.model);
    status.model_hash = hex(manifest.hash);
    if (mpi.rank() == 0 && !o.check_only) check_outputs({o.output}, {(fs::path(o.model) / kManifestName).string()});
    if (!o.check_only) {
      files = std::make_unique<ModelFiles>(o.model, manifest, shards_here(o.model, manifest), true);
      check_hosts(mpi, o, status);
    }
  });

  const int threads = o.threads > 0 ? o.threads : default_threads(mpi);
  ProgressBar bar("profile", "%", 10);
  const auto show = [&](double from, double to, double fraction) {
    if (interrupted_by() != ExitCode::ok) throw Error(interrupted_by(), "interrupted");
    if (mpi.rank() == 0) bar.update(static_cast<std::uint64_t>((from + (to - from) * fraction) * 1000), 1000);
  };
  const auto links = measure_links(mpi, [&](double f) { show(0, 0.15, f); });
  if (o.check_only) {
    const auto examined = gather(mpi, examine(mpi, threads).dump());
    const int count = mpi.rank() == 0 ? print_check(examined, links) : 0;
    return broadcast(mpi, count) == 0 ? ExitCode::ok : ExitCode::failed;
  }

  const auto gathers = measure_gathers(mpi, [&](double f) { show(0.15, 0.2, f); });
  ThreadPool pool({.threads = threads, .share_cores = mpi.ranks_on_host() > 1});
  MeasureOptions measure;
  measure.context_tokens = std::min(o.context_tokens, std::max<std::int64_t>(manifest.config.max_seq_len - 512, 0));
  measure.max_rows = std::min<std::int64_t>(512, manifest.config.max_seq_len);
  BoardMeasurement measurement(manifest.config, *files, pool, measure);
  RingTraffic traffic(mpi, manifest.config, pool);
  BoardProfile board = measurement.run([&](double f) { show(0.2, 1, f); });
  const TransferCosts transfers = traffic.measure([&] { measurement.work(board, 10e-3); });
  board.send = transfers.send;
  board.receive = transfers.receive;
  board.host = mpi.host();
  board.slot = mpi.rank_on_host();
  board.threads = threads;
  board.kernels = kernels().name;
  board.memory_bytes = memory_budget(o, mpi, share_of_memory(mpi));

  const auto packed = gather(mpi, pack_board(board, hex(manifest.hash)));
  if (mpi.rank() == 0) {
    Profile p{JUPITER_VERSION, hex(manifest.hash), {}, links, gathers};
    for (const std::string& text : packed) p.boards.push_back(parse_profile(text, "profile").boards[0]);
    write_file_atomically(o.output, with_result_info(to_json(p), manifest, nullptr));
    for (const BoardProfile& b : p.boards) {
      std::cerr << fmt::format(
          "{}:{}  layer of 1 row {:.3f} ms, of 128 rows {:.2f} ms, head {:.2f} ms, {} MiB, spread {:.0f} %, "
          "fit error {:.0f} %{}\n",
          b.host, b.slot, b.layer.at(1, 0) * 1e3, b.layer.at(128, 0) * 1e3, b.output_head.at(1) * 1e3,
          b.memory_bytes >> 20, b.spread * 100, b.layer.fit_error * 100,
          b.spread > 0.3 ? "  UNSTEADY: load or heat?" : "");
    }
  }
  barrier(mpi);
  return ExitCode::ok;
}

}  // namespace jupiter

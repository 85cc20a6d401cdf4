// Shared options and loading.
#include "app/engine.hpp"

#include <fmt/format.h>
#include <sched.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <numeric>

#include "app/workload.hpp"
#include "io/hash.hpp"
#include "io/memory.hpp"
#include "io/timer.hpp"
#include "parallel/pipeline/memory_check.hpp"
#include "parallel/pipeline/placement.hpp"

namespace jupiter {

namespace {

constexpr std::int64_t kChunksAStage = 4;  // of a prompt without a plan, so that stages wait little for their first
// What a layer does besides reading its weights (norms, attention, waiting for threads), as bytes that it might read
// meanwhile: for one to four rows a head of SmolLM2 takes the time of 8 to 10 of its layers, and has the bytes of 14.
constexpr double kLayerBytes = 1 << 20;
constexpr std::int64_t kLeastChunk = 16;  // tokens; narrower frames read the weights too often

void check_config(const ModelConfig& c, const MpiSession& mpi) {
  if (mpi.stages() > c.n_layers) {
    throw UsageError(fmt::format("expected at most {} ranks (the model's layers), found {}", c.n_layers, mpi.stages()));
  }
}

}  // namespace

int allowed_cores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  return ::sched_getaffinity(0, sizeof set, &set) == 0 ? std::max(1, CPU_COUNT(&set)) : 1;
}

int default_threads(const MpiSession& mpi) {
  if (const char* slurm = std::getenv("SLURM_CPUS_PER_TASK")) {
    const int n = std::atoi(slurm);
    if (n > 0 && n <= kMostThreads) return n;
  }
  return std::max(1, allowed_cores() / mpi.ranks_on_host());
}

ModelPart default_part(const Manifest& manifest, int rank, int ranks) {
  const std::int64_t layers = manifest.config.n_layers;
  const bool last = rank + 1 == ranks;
  if (ranks == 1) return {0, layers, true, true};
  const auto bytes = [&](const ModelPart& part) { return static_cast<double>(weight_bytes(manifest, part)); };
  const auto n = static_cast<double>(layers);
  const double layer = bytes({0, layers, false, false}) / n + kLayerBytes;
  const double head = bytes({0, 0, false, true}) / layer;  // in layers
  const double share = (n + head) / ranks - head;
  const std::int64_t of_last = std::clamp<std::int64_t>(std::llround(share), 1, layers / ranks);
  if (last) return {layers - of_last, layers, false, true};
  const Slice s = slice_of(layers - of_last, rank, ranks - 1);
  return {s.first, s.last, rank == 0, false};
}

void add_engine_options(cxxopts::Options& options) {
  // clang-format off
  options.add_options("Model and machine")
    ("m,model", "Model folder that `convert` made", cxxopts::value<std::string>(), "DIR")
    ("t,threads", "Threads of each rank (default: SLURM_CPUS_PER_TASK, else cores over ranks on the host)", cxxopts::value<std::vector<int>>(), "N")
    ("c,ctx-size", "Context, tokens (default: the plan's, else the model's)", cxxopts::value<std::int64_t>(), "N")
    ("chunk", "Prompt tokens of a pipeline frame (default: 512 on one rank, else 16 to 128 by the prompt's length)", cxxopts::value<std::int64_t>(), "N")
    ("cache-type-k", "-ctk: type of cached keys: f16, f32 or q8_0 (default: the plan's, else f16, or f32 with f32 weights)", cxxopts::value<std::string>(), "TYPE")
    ("cache-type-v", "-ctv: type of cached values", cxxopts::value<std::string>(), "TYPE")
    ("plan", "Plan that `plan` wrote: layers and chunks (default: equal parts, the head counted in layers by its bytes; chunks of --chunk)", cxxopts::value<std::string>(), "FILE")
    ("wire", "Residual between ranks: exact, or q8 (8 bits: fewer bytes, other answers)", cxxopts::value<std::string>()->default_value("exact"), "NAME")
    ("no-verify", "Do not check the shards' checksums at start")
    ("timeout", "Seconds to wait for another rank before giving up (exit 5), also for the frame in progress after Ctrl-C or SIGTERM", cxxopts::value<int>()->default_value("600"), "S");
  // clang-format on
}

KvType kv_type_option(const cxxopts::ParseResult& args, const std::string& option) {
  const auto text = args[option].as<std::string>();
  const auto type = kv_type_from_name(text);
  if (!type)
    throw CollectiveError(ExitCode::usage, fmt::format("--{}: expected f16, f32 or q8_0, found '{}'", option, text));
  return *type;
}

Wire wire_option(const cxxopts::ParseResult& args) {
  const auto text = args["wire"].as<std::string>();
  const auto wire = wire_from_name(text);
  if (!wire) throw CollectiveError(ExitCode::usage, fmt::format("--wire: expected exact or q8, found '{}'", text));
  return *wire;
}

EngineOptions read_engine_options(const cxxopts::ParseResult& args, std::vector<int>* thread_counts) {
  EngineOptions o;
  if (args.count("model") == 0) throw CollectiveError(ExitCode::usage, "expected -m DIR (see --help)");
  o.model = args["model"].as<std::string>();
  const auto check = [&](const char* option, std::int64_t value, std::int64_t most) {
    if (value >= 1 && value <= most) return;
    throw CollectiveError(ExitCode::usage, fmt::format("--{}: expected 1 to {}, found {}", option, most, value));
  };
  if (args.count("threads") > 0) {
    const auto counts = args["threads"].as<std::vector<int>>();
    for (const int n : counts) check("threads", n, kMostThreads);
    if (thread_counts != nullptr) *thread_counts = counts;
    if (thread_counts == nullptr && counts.size() > 1) {
      throw CollectiveError(ExitCode::usage, "--threads: expected one number, found a list");
    }
    o.threads = counts.front();
  }
  if (args.count("ctx-size") > 0) o.context_tokens = whole_option(args, "ctx-size", 1, kMostTokens);
  if (args.count("chunk") > 0) o.chunk_tokens = whole_option(args, "chunk", 1, kMostTokens);
  o.kv_given = args.count("cache-type-k") + args.count("cache-type-v") > 0;
  if (args.count("cache-type-k") > 0) o.keys = kv_type_option(args, "cache-type-k");
  if (args.count("cache-type-v") > 0) o.values = kv_type_option(args, "cache-type-v");
  if (args.count("plan") > 0) o.plan = args["plan"].as<std::string>();
  o.wire = wire_option(args);
  o.verify = args.count("no-verify") == 0;
  const int timeout = args["timeout"].as<int>();
  check("timeout", timeout, INT32_MAX);
  o.timeout = std::chrono::seconds(timeout);
  return o;
}

Engine::Engine(MpiSession& mpi, EngineOptions& options, const std::function<void(const Manifest&)>& prepare)
    : trace_(options.trace) {
  set_grace_after_signal(options.timeout);
  RankStatus status{.version = JUPITER_VERSION, .model_hash = "", .format_version = kFormatVersion};
  try {
    manifest_ = read_manifest(options.model);
    status.model_hash = hex(manifest_.hash);
  } catch (const Error& e) {
    status.problem = e;
  }
  if (!options.plan.empty()) {
    agree(mpi, status);
    obey_plan(mpi, options);
  }
  together(mpi, status, [&] {
    check_config(config(), mpi);
    choose(mpi, options);
    if (mpi.rank() == 0) prepare(manifest_);
  });
  claim(mpi, options);
  together(mpi, status, [&] { load(mpi, options); });
}

// What this rank will do, and how large: nothing is taken yet.
void Engine::choose(const MpiSession& mpi, EngineOptions& options) {
  if (plan_) take_from_plan(*plan_, config(), options);
  workload_ = workload_of(options, config(), mpi.stages());
  if (options.cache_tokens > 0) options.context_tokens = workload_.context_tokens;
  if (plan_ && options.chunk_tokens == 0) {
    fixed_chunks_ = false;
    workload_.chunk_tokens = std::max(plan_->max_chunk(), options.least_rows);
  }
  chunk_tokens_ = std::min(workload_.chunk_tokens, workload_.context_tokens);
  if (options.chunk_tokens == 0) stages_ = mpi.stages();
  workload_.draft_file_bytes = draft_file_bytes(options.decoding, options.model);
  stage_options_ = jupiter::stage_options(workload_, mpi.stages());
  wire_row_bytes(workload_.wire, config());  // the model's width must suit it
  if (!mpi.holds_layers()) return;
  part_ = plan_ ? plan_->part(static_cast<std::size_t>(mpi.rank())) : default_part(manifest_, mpi.rank(), mpi.stages());
  threads_ = options.threads > 0 ? options.threads : default_threads(mpi);
  const auto folder = model_folder(options.decoding);
  if (folder && draft_rank(mpi) == mpi.rank()) draft_ = read_manifest(*folder);
}

// All ranks of a host together must fit into its memory; a cache that nobody asked for by size is what fits.
void Engine::claim(const MpiSession& mpi, const EngineOptions& options) {
  MemoryClaim mine;
  if (mpi.holds_layers()) {
    const std::uint64_t draft = draft_ ? draft_model_bytes(*draft_, workload_.context_tokens, threads_) : 0;
    StageMemory m = stage_memory(manifest_, part_, workload_, {mpi.stages(), threads_}, draft);
    m.process -= std::min(m.process, resident_memory());
    mine = {m.weights, m.own() - m.cache, m.cache / static_cast<std::uint64_t>(pool_blocks(workload_, mpi.stages())),
            "", 0};
    if (part_.embedding || (part_.output_head && config().tied_embeddings)) {
      mine.file = file_identity((std::filesystem::path(options.model) / embed_file_name()).string());
      mine.file_bytes = manifest_.file(embed_file_name()).mapped_bytes();
    }
  }
  const std::int64_t most = pool_blocks(workload_, mpi.stages());
  const CacheWish wish{options.cache_tokens > 0 ? most : least_blocks(workload_, mpi.stages()), most};
  stage_options_.cache_tokens =
      kKvBlock * claim_memory(mpi, mine, wish, [&](std::int64_t blocks) {
        return memory_advice(workload_, config(), mpi.stages(), blocks, !options.plan.empty());
      });
}

void Engine::obey_plan(MpiSession& mpi, const EngineOptions& options) {
  // An engine before this one (bench has one for each number of threads) may have placed the ranks already; the file
  // of the plan lies where mpirun started.
  std::vector<int> as_started(static_cast<std::size_t>(mpi.size()));
  std::iota(as_started.begin(), as_started.end(), 0);
  mpi.arrange(as_started, mpi.size());
  plan_ = share_plan(mpi, options.plan, manifest_);
  take_places(mpi, *plan_, options.plan);
}

Scheduler::Options Engine::scheduling() const {
  return {context_tokens(), [this](std::int64_t n) { return chunks(n); }, workload_.most_at_once};
}

std::vector<std::int64_t> Engine::chunks(std::int64_t prompt_tokens) const {
  if (!fixed_chunks_) return chunks_for(*plan_, prompt_tokens);
  if (stages_ == 1) return jupiter::fixed_chunks(prompt_tokens, chunk_tokens());
  const std::int64_t rows = prompt_tokens / (kChunksAStage * stages_);
  return jupiter::fixed_chunks(prompt_tokens, std::clamp<std::int64_t>(rows, kLeastChunk, chunk_tokens()));
}

ExitCode Engine::serve(const MpiSession& mpi, RankReport& report) {
  if (mpi.holds_layers()) return jupiter::serve(mpi, stage(), pool(), trace_, report, idle_work());
  report.rank = mpi.rank();
  report.host = mpi.host();
  return ExitCode::ok;
}

void Engine::load(const MpiSession& mpi, const EngineOptions& options) {
  if (!mpi.holds_layers()) return;
  const auto start = std::chrono::steady_clock::now();
  const bool alone = mpi.ranks_on_host() == 1;
  pool_ = std::make_unique<ThreadPool>(ThreadPool::Options{.threads = threads_,
                                                           .pin = alone && threads_ > 1 && threads_ == allowed_cores(),
                                                           .share_cores = !alone || threads_ > allowed_cores()});
  stage_ = std::make_unique<Stage>(config(), ModelFiles(options.model, manifest_, part_, options.verify),
                                   stage_options_, *pool_, mpi.stages());
  load_drafters(mpi, options);
  load_s_ = seconds_since(start);
}

// The plan's, else the last one.
int Engine::draft_rank(const MpiSession& mpi) const {
  return plan_ && plan_->draft ? static_cast<int>(plan_->draft_stage()) : mpi.stages() - 1;
}

void Engine::load_drafters(const MpiSession& mpi, const EngineOptions& options) {
  if (options.decoding.decode.mode == DecodeMode::plain) return;
  const auto folder = model_folder(options.decoding);
  const int last = mpi.stages() - 1;
  std::unique_ptr<DraftModel> model;
  if (draft_) {
    const std::string hash_found = hex(draft_->hash);
    if (plan_ && plan_->draft && plan_->draft->model_hash != hash_found) {
      throw FormatError(options.plan, "draft_model", fmt::format("{} ({})", hash_found, *folder),
                        plan_->draft->model_hash);
    }
    model = std::make_unique<DraftModel>(*folder, *draft_, manifest_, *pool_, stage_options_.context_tokens);
  }
  if (mpi.rank() != last) {
    if (model)
      draft_server_ =
          std::make_unique<DraftServer>(mpi, last, std::move(model), stage_->limits(), DraftServer::Enough{});
    return;
  }
  std::unique_ptr<NeuralDrafterFactory> drafter;
  if (model) drafter = local_model_drafters(std::move(model));
  if (folder && !drafter) drafter = remote_model_drafters(mpi, draft_rank(mpi), stage_->limits());
  stage_->learn_widths();
  stage_->set_drafters(make_drafters(options.decoding, manifest_, options.model, *stage_, std::move(drafter)));
}

}  // namespace jupiter

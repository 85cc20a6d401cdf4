// Shared options and loading.
#include "app/engine.hpp"

#include <fmt/format.h>
#include <sched.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "app/workload.hpp"
#include "io/hash.hpp"
#include "io/memory.hpp"
#include "io/timer.hpp"
#include "parallel/comm/collectives.hpp"
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

void EngineOptions::declare(OptionSet& options, std::vector<int>* thread_counts) {
  const char* threads_help = "Threads of each rank (default: SLURM_CPUS_PER_TASK, else cores over ranks on the host)";
  // clang-format off
  options.group("Model and machine");
  options.text("m,model", model, "DIR", "Model folder that `convert` made");
  if (thread_counts == nullptr) options.number("t,threads", threads, {1, kMostThreads}, "N", threads_help);
  else options.numbers("t,threads", *thread_counts, {1, kMostThreads}, "N", threads_help);
  options.number("c,ctx-size", context_tokens, {1, kMostTokens}, "N", "Context, tokens (default: the plan's, else the model's)");
  options.number("chunk", chunk_tokens, {1, kMostTokens}, "N", "Prompt tokens of a pipeline frame (default: 512 on one rank, else 16 to 128 by the prompt's length)");
  options.choice("cache-type-k", keys, kKvTypes, "-ctk: type of cached keys: f16, f32 or q8_0 (default: the plan's, else f16, or f32 with f32 weights)");
  options.choice("cache-type-v", values, kKvTypes, "-ctv: type of cached values");
  options.text("plan", plan, "FILE", "Plan that `plan` wrote: layers and chunks (default: equal parts, the head counted in layers by its bytes; chunks of --chunk)");
  options.choice("wire", wire, kWires, "Residual between ranks: exact, or q8 (8 bits: fewer bytes, other answers)");
  options.flag("no-verify", verify, "Do not check the shards' checksums at start");
  options.number("timeout", timeout_s, {1, INT32_MAX}, "S", "Seconds to wait for another rank before giving up (exit 5), also for the frame in progress after Ctrl-C or SIGTERM");
  // clang-format on
}

void EngineOptions::check(const OptionSet&) {
  refuse(model.empty(), "expected -m DIR (see --help)");
}

Engine::Engine(const MpiSession& started, EngineOptions& options,
               const std::function<void(const Manifest&, const MpiSession&)>& prepare)
    : mpi_(started), trace_(options.trace), timeout_(options.timeout()) {
  set_grace_after_signal(timeout_);
  RankStatus status{.version = JUPITER_VERSION, .model_hash = "", .format_version = kFormatVersion};
  try {
    manifest_ = read_manifest(options.model);
    status.model_hash = hex(manifest_.hash);
  } catch (const Error& e) {
    status.problem = e;
  }
  if (!options.plan.empty()) {
    agree(started, status);
    plan_ = share_plan(started, options.plan, manifest_);
    mpi_ = take_places(started, *plan_, options.plan);
  }
  together(mpi_, status, [&] {
    check_config(config(), mpi_);
    choose(options);
    if (mpi_.rank() == 0) prepare(manifest_, mpi_);
  });
  claim(options);
  together(mpi_, status, [&] { load(options); });
}

// What this rank will do, and how large: nothing is taken yet.
void Engine::choose(EngineOptions& options) {
  if (plan_) take_from_plan(*plan_, config(), options);
  workload_ = workload_of(options, config(), mpi_.stages());
  if (options.cache_tokens > 0) options.context_tokens = workload_.context_tokens;
  if (plan_ && options.chunk_tokens == 0) {
    fixed_chunks_ = false;
    workload_.chunk_tokens = std::max(plan_->max_chunk(), options.least_rows);
  }
  chunk_tokens_ = std::min(workload_.chunk_tokens, workload_.context_tokens);
  if (options.chunk_tokens == 0) prompt_stages_ = mpi_.stages();
  workload_.draft_file_bytes = draft_file_bytes(options.decoding, options.model);
  stage_options_ = jupiter::stage_options(workload_, mpi_.stages());
  wire_row_bytes(workload_.wire, config());  // the model's width must suit it
  if (!mpi_.holds_layers()) return;
  part_ = plan_ ? planned_part() : default_part(manifest_, mpi_.rank(), mpi_.stages());
  threads_ = options.threads > 0 ? options.threads : default_threads(mpi_);
  const auto folder = model_folder(options.decoding);
  if (folder && draft_rank() == mpi_.rank()) draft_ = read_manifest(*folder);
}

// Of this rank's board.
ModelPart Engine::planned_part() {
  const std::vector<ModelPart> parts = plan_->parts(static_cast<std::size_t>(mpi_.stage()), config());
  if (parts.size() > 1) {
    for (const ModelPart& p : parts) slices_.push_back(*p.slice);
  }
  return parts[static_cast<std::size_t>(mpi_.board())];
}

// All ranks of a host together must fit into its memory; a cache that nobody asked for by size is what fits.
void Engine::claim(const EngineOptions& options) {
  MemoryClaim mine;
  if (mpi_.holds_layers()) {
    const std::uint64_t draft = draft_ ? draft_model_bytes(*draft_, workload_.context_tokens, threads_) : 0;
    const StageSetting at{mpi_.stages(), threads_, std::max(1, static_cast<int>(slices_.size())), mpi_.board()};
    StageMemory m = stage_memory(manifest_, part_, workload_, at, draft);
    m.process -= std::min(m.process, resident_memory());
    mine = {m.weights, m.own() - m.cache, m.cache / static_cast<std::uint64_t>(pool_blocks(workload_, mpi_.stages())),
            "", 0};
    if (part_.embedding || (part_.reads_output_head() && config().tied_embeddings)) {
      mine.file = file_identity((std::filesystem::path(options.model) / embed_file_name()).string());
      mine.file_bytes = manifest_.file(embed_file_name()).mapped_bytes();
    }
  }
  const std::int64_t most = pool_blocks(workload_, mpi_.stages());
  const CacheWish wish{options.cache_tokens > 0 ? most : least_blocks(workload_, mpi_.stages()), most};
  stage_options_.cache_tokens =
      kKvBlock * claim_memory(mpi_, mine, wish, [&](std::int64_t blocks) {
        return memory_advice(workload_, config(), mpi_.stages(), blocks, !options.plan.empty());
      });
}

Scheduler::Options Engine::scheduling() const {
  return {context_tokens(), [this](std::int64_t n) { return chunks(n); }, workload_.most_at_once};
}

std::vector<std::int64_t> Engine::chunks(std::int64_t prompt_tokens) const {
  if (!fixed_chunks_) return chunks_for(*plan_, prompt_tokens);
  if (prompt_stages_ == 1) return jupiter::fixed_chunks(prompt_tokens, chunk_tokens());
  const std::int64_t rows = prompt_tokens / (kChunksAStage * prompt_stages_);
  return jupiter::fixed_chunks(prompt_tokens, std::clamp<std::int64_t>(rows, kLeastChunk, chunk_tokens()));
}

DriveEnd Engine::drive(const std::function<ExitCode(Pipeline&, Scheduler&)>& work) {
  DriveEnd end;
  RankReport report{.rank = mpi_.rank(), .host = mpi_.host()};
  const double computed_before_s = mpi_.holds_layers() ? stage().compute_s() : 0;
  if (mpi_.rank() == 0) {
    Pipeline pipeline(
        mpi_, stage(), pool(), trace_,
        {.deadline = timeout_, .idle = draft_server_.get(), .shared_head = plan_ && !plan_->head_helpers.empty()});
    Scheduler scheduler(pipeline, mpi_.stages(), scheduling());
    end.code = work(pipeline, scheduler);
    pipeline.stop(end.code);
    report = local_report(mpi_, stage(), pipeline.wait_s(), pipeline.sent_bytes());
  } else if (mpi_.leads_stage()) {
    serve(mpi_, stage(), pool(), trace_, report, draft_server_.get());
  } else if (mpi_.holds_layers()) {
    follow(mpi_, stage(), pool(), trace_, report);
  }
  report.compute_s -= computed_before_s;
  end.reports = gather(mpi_, report);
  end.code = broadcast(mpi_, end.code);
  return end;
}

void Engine::load(const EngineOptions& options) {
  if (!mpi_.holds_layers()) return;
  const auto start = std::chrono::steady_clock::now();
  const bool alone = mpi_.ranks_on_host() == 1;
  pool_ = std::make_unique<ThreadPool>(ThreadPool::Options{.threads = threads_,
                                                           .pin = alone && threads_ > 1 && threads_ == allowed_cores(),
                                                           .share_cores = !alone || threads_ > allowed_cores()});
  std::optional<Stage::Group> group;
  if (!slices_.empty()) {
    group_ = std::make_unique<GroupChannels>(mpi_, most_piece_bytes(config(), stage_options_), timeout_);
    group = {slices_, group_.get()};
  }
  stage_ = std::make_unique<Stage>(config(), ModelFiles(options.model, manifest_, part_, options.verify),
                                   stage_options_, *pool_, mpi_.stages(), group);
  share_output_head();
  load_drafters(options);
  if (mpi_.rank() == mpi_.stages() - 1) {
    const auto file = std::filesystem::path(options.model) / tokenizer_file_name();
    if (!std::filesystem::exists(file)) {
      throw FormatError(file.string(), "file", "the texts of tokens on the last stage's board, too", "no such file");
    }
    stage_->set_vocabulary([this, folder = options.model, verify = options.verify] {
      return std::make_shared<TokenTrie>(Tokenizer(load_tokenizer(folder, manifest_, verify)));
    });
  }
  load_s_ = seconds_since(start);
}

// On the last stage of a plan that says so.
void Engine::share_output_head() {
  if (!part_.output_head || !part_.vocabulary) return;
  std::vector<SharedHead::Helper> helpers;
  for (int s = 0; s + 1 < mpi_.stages(); ++s) {
    const ModelPart part = plan_->parts(static_cast<std::size_t>(s), config()).front();
    if (part.vocabulary) helpers.push_back({s, *part.vocabulary});
  }
  shared_head_ = std::make_unique<SharedHead>(mpi_, helpers, most_piece_bytes(config(), stage_options_));
  stage_->share_output_head(shared_head_.get());
}

// The plan's, else the last one.
int Engine::draft_rank() const {
  return plan_ && plan_->draft ? static_cast<int>(plan_->draft_stage()) : mpi_.stages() - 1;
}

void Engine::load_drafters(const EngineOptions& options) {
  if (options.decoding.decode.mode == DecodeMode::plain) return;
  const auto folder = model_folder(options.decoding);
  const int last = mpi_.stages() - 1;
  std::unique_ptr<DraftModel> model;
  if (draft_) {
    const std::string hash_found = hex(draft_->hash);
    if (plan_ && plan_->draft && plan_->draft->model_hash != hash_found) {
      throw FormatError(options.plan, "draft_model", fmt::format("{} ({})", hash_found, *folder),
                        plan_->draft->model_hash);
    }
    model = std::make_unique<DraftModel>(*folder, *draft_, manifest_, *pool_, stage_options_.context_tokens);
  }
  if (mpi_.stage() == last && !mpi_.leads_stage()) stage_->learn_widths();  // with the leader
  if (mpi_.rank() != last) {
    if (model)
      draft_server_ =
          std::make_unique<DraftServer>(mpi_, last, std::move(model), stage_->limits(), DraftServer::Enough{});
    return;
  }
  std::unique_ptr<NeuralDrafterFactory> drafter;
  if (model) drafter = local_model_drafters(std::move(model));
  if (folder && !drafter) drafter = remote_model_drafters(mpi_, draft_rank(), stage_->limits());
  stage_->learn_widths();
  stage_->set_drafters(make_drafters(options.decoding, manifest_, options.model, *stage_, std::move(drafter)));
}

}  // namespace jupiter

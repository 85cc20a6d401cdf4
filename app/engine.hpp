// The start of every command that computes: options that they share, the plan of layers, loading, agreement of ranks.
#pragma once

#include <functional>
#include <memory>

#include "app/command.hpp"
#include "app/decoding.hpp"
#include "app/options.hpp"
#include "parallel/draft_model/remote_draft.hpp"
#include "parallel/pipeline/pipeline.hpp"
#include "parallel/pipeline/scheduler.hpp"
#include "parallel/plan/plan.hpp"

namespace jupiter {

inline const Choices<KvType> kKvTypes = named({KvType::f16, KvType::f32, KvType::q8_0});
inline const Choices<Wire> kWires = named({Wire::exact, Wire::q8});

struct EngineOptions {
  // thread_counts: for a command whose `-t` may be a list; empty where it is not given.
  void declare(OptionSet& options, std::vector<int>* thread_counts = nullptr);
  // After parsing. CollectiveError (usage) where something that must be given is not.
  void check(const OptionSet& options);

  std::string model;
  int threads = 0;                     // 0: SLURM_CPUS_PER_TASK, else the allowed cores over the ranks on this host
  std::int64_t context_tokens = 0;     // 0: the plan's, else the model's maximum
  std::int64_t needed_tokens = 0;      // positions that the command will use, if it knows; UsageError past the context
  std::int64_t wished_tokens = 0;      // positions that it may use: fewer where the context is shorter
  std::int64_t chunk_tokens = 0;       // rows of a prefill frame; 0: 512 on one rank, at most 128 on several
  std::int64_t least_rows = 0;         // that a frame may have whatever the plan's chunks are
  std::optional<KvType> keys, values;  // none: the plan's, else f16, or f32 with f32 weights
  std::string plan;                    // file; empty: default_part()
  bool trace = false;                  // keep a timeline
  DecodingOptions decoding;
  std::int64_t cache_tokens = 0;       // of all sequences in the KV cache; 0: the plan's, else ...
  std::int64_t cache_wish = 0;         // ... so many, as far as memory reaches; 0: one context
  std::int64_t point_tokens = 0;       // beside those: of an outline's points
  std::int64_t sequences = 0;          // that may have trees at a time; 0: the plan's, else ...
  std::int64_t default_sequences = 1;  // ... so many
  std::int64_t most_at_once = 0;       // requests; 0: the plan's, else as many as the cache holds
  Wire wire = Wire::exact;
  bool verify = true;
  std::int64_t timeout_s = 600;
  std::chrono::seconds timeout() const { return std::chrono::seconds(timeout_s); }
};

// How a driven pipeline ended: the same code on all ranks; every rank's report on rank 0.
struct DriveEnd {
  ExitCode code = ExitCode::ok;
  std::vector<RankReport> reports;
};

class Engine {
 public:
  // Loads this rank's part. `prepare` runs before loading on rank 0, with the manifest and the ranks in their order:
  // what it throws ends all ranks in good order. Throws CollectiveError on all ranks where one of them cannot run. What
  // the options leave open is filled in from the plan before `prepare` runs. started: mpirun's order.
  Engine(const MpiSession& started, EngineOptions& options,
         const std::function<void(const Manifest&, const MpiSession&)>& prepare);

  // The ranks in the plan's order; without a plan in mpirun's.
  const MpiSession& mpi() const { return mpi_; }
  const Manifest& manifest() const { return manifest_; }
  const ModelConfig& config() const { return manifest_.config; }
  std::int64_t context_tokens() const { return stage_options_.context_tokens; }
  std::int64_t chunk_tokens() const { return chunk_tokens_; }  // of the longest chunk
  // For a Scheduler.
  Scheduler::Options scheduling() const;
  // Lengths of the frames of a prompt: the plan's, or fixed ones.
  std::vector<std::int64_t> chunks(std::int64_t prompt_tokens) const;
  const Plan* plan() const { return plan_ ? &*plan_ : nullptr; }  // none: default_part()
  double load_s() const { return load_s_; }
  ThreadPool& pool() { return *pool_; }
  Trace& trace() { return trace_; }
  const Trace& trace() const { return trace_; }
  Stage& stage() { return *stage_; }  // of a rank that holds layers

  // What every command does that computes; collective. Rank 0 calls `work`, the other ranks compute for it until it has
  // returned; its code ends all of them. Reports are of this call alone. What `work` throws ends all ranks.
  DriveEnd drive(const std::function<ExitCode(Pipeline&, Scheduler&)>& work);

 private:
  void choose(EngineOptions& options);
  void claim(const EngineOptions& options);
  void load(const EngineOptions& options);
  void share_output_head();
  void load_drafters(const EngineOptions& options);
  ModelPart planned_part();
  int draft_rank() const;
  MpiSession mpi_;
  Manifest manifest_;
  std::optional<Plan> plan_;
  bool fixed_chunks_ = true;
  std::int64_t prompt_stages_ = 1;  // that prompts are cut for; 1: into chunks as long as may be
  std::int64_t chunk_tokens_ = 0;
  Workload workload_;
  StageOptions stage_options_;
  ModelPart part_;                   // of a rank that holds layers
  int threads_ = 1;                  // of this rank
  std::optional<Manifest> draft_;    // of the draft model, where it works on this rank
  std::vector<TensorSlice> slices_;  // of this stage's boards, where there are several
  std::unique_ptr<ThreadPool> pool_;
  std::unique_ptr<GroupChannels> group_;     // of a board that computes with others
  std::unique_ptr<SharedHead> shared_head_;  // of a last stage with which others compute the output head
  std::unique_ptr<Stage> stage_;
  std::unique_ptr<DraftServer> draft_server_;
  Trace trace_;
  std::chrono::seconds timeout_;
  double load_s_ = 0;
};

// What a rank holds without a plan: every rank about as much time of a decoded token, the last one's head counted in
// layers by its bytes. Never more layers on the last rank than in equal parts, and one at least.
ModelPart default_part(const Manifest& manifest, int rank, int ranks);
int default_threads(const MpiSession& mpi);
int allowed_cores();  // that this process may run on

}  // namespace jupiter

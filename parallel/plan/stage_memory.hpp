// What a stage allocates, item by item, for its part of a model and for the work that it is to do. The plan, the check
// before loading and the tables that are shown all ask here.
#pragma once

#include "io/model/manifest.hpp"
#include "kernels/kv_cache.hpp"
#include "kernels/wire.hpp"

namespace jupiter {

// Limits that the pipeline keeps to, because memory is counted with them.
constexpr std::int64_t kMaxDrawnRows = 16;   // rows of logits at a time; 16 rows of a vocabulary of 150,000 are 10 MB
constexpr std::int64_t kMaxDraftNodes = 64;  // nodes of one segment of a tree, its root included

// Rows of the second half of a frame, where two halves pass the layers in turn (parallel/pipeline/lane_pass.hpp).
constexpr std::int64_t second_lane_rows(std::int64_t rows) {
  return rows / 2;
}

// Most blocks of the KV cache that the tree of one sequence may need on any stage besides those of its positions
// (parallel/pipeline/SPECULATION.md, invariant 14): the nodes of 2 (stages + 1) segments, and two begun blocks.
constexpr std::int64_t spare_tree_blocks(std::int64_t stages, std::int64_t draft_max) {
  return 2 + 2 * (stages + 1) * (draft_max + 1) / kKvBlock;
}

// What a run is made for, as a plan names it and as commands read it from their options.
struct Workload {
  std::int64_t requests = 1;        // so many have room in the cache for a tree of drafted tokens each
  std::int64_t most_at_once = 0;    // most requests at a time; 0: as many as the cache holds
  std::int64_t context_tokens = 0;  // positions that one request may have
  std::int64_t cache_tokens = 0;    // positions of all requests together; at least one context is taken
  std::int64_t point_tokens = 0;    // positions beside those, for an outline's points
  std::int64_t chunk_tokens = 512;  // most tokens of a prompt in one frame
  KvType keys = KvType::f16;
  KvType values = KvType::f16;
  bool drafts = true;           // speculative decoding
  std::int64_t draft_max = 16;  // most drafted tokens of a segment
  Wire wire = Wire::exact;
  bool every_row = false;              // evaluation: all rows of a prompt pass the output head
  std::uint64_t draft_file_bytes = 0;  // size of the files with draft tables and heads
};

constexpr std::int64_t kBatchCacheTokens = 32768;  // cache_tokens of a batch that does not say how many
constexpr std::int64_t kBatchRequests = 16;

// The type of cached keys and values where nobody chose one: f32 for models whose residual is f32, else f16.
KvType default_kv_type(const ModelConfig& config);

struct StageOptions {
  std::int64_t context_tokens = 0;  // positions that a sequence may have
  std::int64_t cache_tokens = 0;    // of all sequences together; multiple of 32
  std::int64_t max_rows = 0;        // of a frame
  KvType keys = KvType::f16;
  KvType values = KvType::f16;
  Wire wire = Wire::exact;
};

// Blocks of the KV cache. One pool serves all requests. Where it runs out, they wait for each other, so any pool will
// do that holds a single request.
std::int64_t tree_blocks(const Workload& workload, int stages);   // of one request's tree, slack included
std::int64_t pool_blocks(const Workload& workload, int stages);   // that the workload asks for
std::int64_t least_blocks(const Workload& workload, int stages);  // that one request needs
// The options with which every stage of such a pipeline is made for the workload.
StageOptions stage_options(const Workload& workload, int stages);
// The options of a draft model's stage, which holds one sequence. context_tokens: those of the model that it drafts
// for.
StageOptions draft_model_options(const ModelConfig& draft, std::int64_t context_tokens);

// Where a stage stands.
struct StageSetting {
  int stages = 1;   // number of stages of the pipeline
  int threads = 1;  // of this board
  int boards = 1;   // that compute the stage together
  int board = 0;    // which of them this is; 0 leads

  bool leads() const { return board == 0; }
};

// What a stage takes, in bytes.
struct StageMemory {
  std::uint64_t weights = 0;      // mapped files; tied embeddings once
  std::uint64_t cache = 0;        // keys and values
  std::uint64_t work = 0;         // of the forward pass: activations, logits, rotary tables, what each thread needs
  std::uint64_t messages = 0;     // frames on their way in and out
  std::uint64_t drafters = 0;     // draft tables and heads, on the last stage
  std::uint64_t draft_model = 0;  // everything of a draft model that works beside this stage
  std::uint64_t tokenizer = 0;    // on the first stage
  std::uint64_t process = 0;      // program, libraries, MPI, threads

  std::uint64_t own() const { return cache + work + messages + drafters + draft_model + tokenizer + process; }
  std::uint64_t total() const { return weights + own(); }
};

// Cache and work space of a stage in bytes, exactly what Stage allocates.
struct StageBuffers {
  std::uint64_t cache = 0;
  std::uint64_t work = 0;
};
StageBuffers stage_buffers(const ModelConfig& config, const ModelPart& part, const StageOptions& options, int threads,
                           bool leads = true);
// Columns of logits that a board keeps: of all tokens where it decides, else of those that it computes for others.
std::int64_t logit_columns(const ModelConfig& config, const ModelPart& part, bool leads);
// The largest message between the boards of a tensor group.
std::uint64_t most_piece_bytes(const ModelConfig& config, const StageOptions& options);

// What a stage takes; draft_model: bytes of one that works beside it. own_memory() leaves out the weights, whose size
// depends on which layers they are.
StageMemory own_memory(const Manifest& manifest, const ModelPart& part, const Workload& workload,
                       const StageSetting& setting, std::uint64_t draft_model = 0);
StageMemory stage_memory(const Manifest& manifest, const ModelPart& part, const Workload& workload,
                         const StageSetting& setting, std::uint64_t draft_model = 0);

// Bytes of a draft model's weights, cache and work space where it drafts for a model with contexts of so many tokens.
std::uint64_t draft_model_bytes(const Manifest& draft, std::int64_t context_tokens, int threads = 1);

}  // namespace jupiter

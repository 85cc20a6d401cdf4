// The sums follow the constructors of Stage and of what it holds; a test compares them with what those allocate.
#include "parallel/plan/stage_memory.hpp"

#include <algorithm>

#include "io/buffer.hpp"
#include "io/tokenizer/tokenizer_data.hpp"
#include "kernels/attention.hpp"
#include "kernels/token_tree.hpp"

namespace jupiter {

namespace {

constexpr std::uint64_t kProcessBytes = 32 << 20;  // program, libraries, MPI's buffers (measured, parallel/README.md)
constexpr std::uint64_t kThreadBytes = 256 << 10;  // of a thread: its stack and the allocator's share
constexpr std::uint64_t kTokenizerFactor = 5;      // of its file: strings and look-up tables in memory, measured
constexpr std::uint64_t kDraftFileFactor =
    4;  // of its file: tables, heads as f32 and packed, what reading them takes; measured
constexpr std::uint64_t kChannelBytes = 1 << 20;  // receives that wait for parts of messages, a few channels
constexpr std::int64_t kFramesBesideStages = 2;   // in flight are two a stage and so many more (Pipeline)
constexpr std::int64_t kDraftModelRows = 128;     // of a draft model's frame

std::int64_t blocks_for(std::int64_t tokens) {
  return (tokens + kKvBlock - 1) / kKvBlock;
}

template <typename T>
std::uint64_t buffer(std::int64_t count) {
  return Buffer<T>::bytes_of(static_cast<std::size_t>(count));
}

std::uint64_t quantised_rows(std::int64_t rows, std::int64_t cols) {
  const std::int64_t groups = rows * (cols / kGroupCols);
  return buffer<std::int8_t>(rows * cols) + 2 * buffer<float>(groups) + buffer<std::int32_t>(groups) +
         buffer<std::int32_t>(2 * groups);
}

std::uint64_t attention_scratch(const ModelConfig& c) {
  const std::int64_t rows = AttentionScratch::kTilePositions * (c.n_heads / c.n_kv_heads);
  return 4 * buffer<float>(c.head_dim * kKvBlock) + 2 * buffer<float>(rows * c.head_dim) + buffer<float>(rows) +
         buffer<float>(rows * kSumLanes) + 2 * buffer<std::int32_t>(rows);
}

std::uint64_t rope_tables(const ModelConfig& c, std::int64_t positions) {
  const auto half = static_cast<std::uint64_t>(c.rotary_dim() / 2);
  const std::uint64_t tables = c.sliding_rope_theta > 0 ? 2 : 1;
  return tables * (half * sizeof(double) + 2 * static_cast<std::uint64_t>(positions) * half * sizeof(float));
}

std::uint64_t expert_scratch(const ModelConfig& c, const TensorSlice& slice, std::int64_t rows) {
  if (c.n_experts == 0) return 0;
  const std::int64_t entries = rows * c.n_experts_used;
  return buffer<float>(rows * c.n_experts) + buffer<float>(c.shared_expert_gate ? rows : 0) +
         buffer<float>(entries * c.dim) + buffer<float>(entries * c.expert_hidden_dim) +
         buffer<float>(entries * slice.expert_hidden.size()) +
         quantised_rows(entries, std::max(c.dim, c.expert_hidden_dim));
}

// Work space of a pass over so many rows, but for the residual.
std::uint64_t block_scratch(const ModelConfig& c, const TensorSlice& slice, std::int64_t rows, int threads) {
  return 2 * buffer<float>(rows * c.dim)                                                            // normed, projected
         + buffer<float>(rows * slice.heads.size() * c.head_dim) + buffer<float>(rows * c.q_dim())  // q, attended
         + 2 * buffer<float>(rows * slice.kv_heads.size() * c.head_dim)                             // k, v
         + buffer<float>(rows * c.hidden_dim) + buffer<float>(rows * slice.hidden.size())           // gate, up
         + quantised_rows(rows, std::max({c.dim, c.q_dim(), c.hidden_dim})) +
         static_cast<std::uint64_t>(threads) * attention_scratch(c) + expert_scratch(c, slice, rows);
}

// Frames that wait for this stage or leave it: as many as are in flight, in the worst case, but not more rows than the
// cache has positions; and the one that is computed.
std::uint64_t frame_bytes(const ModelConfig& c, const StageOptions& o, int stages) {
  if (stages == 1) return 0;
  const std::int64_t row = wire_row_bytes(o.wire, c) + static_cast<std::int64_t>(sizeof(TokenId) + sizeof(TreeLink));
  const std::int64_t in_flight = (2 * stages + kFramesBesideStages) * o.max_rows;
  return kChannelBytes + static_cast<std::uint64_t>((std::min(in_flight, o.cache_tokens) + o.max_rows) * row);
}

// Pieces on their way to and from the other boards of a group, and the receives that wait for them.
std::uint64_t group_bytes(const ModelConfig& c, const StageOptions& o, int boards) {
  return static_cast<std::uint64_t>(boards - 1) * (kChannelBytes + 2 * most_piece_bytes(c, o));
}

ModelPart whole(const Manifest& manifest) {
  return {0, manifest.config.n_layers, true, true};
}

}  // namespace

KvType default_kv_type(const ModelConfig& config) {
  return config.residual == Precision::f32 ? KvType::f32 : KvType::f16;
}

std::int64_t tree_blocks(const Workload& w, int stages) {
  return (w.drafts ? spare_tree_blocks(stages, w.draft_max) : 0) + 1;
}

std::int64_t pool_blocks(const Workload& w, int stages) {
  return std::max(blocks_for(w.cache_tokens), blocks_for(w.context_tokens)) + blocks_for(w.point_tokens) +
         w.requests * tree_blocks(w, stages);
}

std::int64_t least_blocks(const Workload& w, int stages) {
  return blocks_for(w.context_tokens) + tree_blocks(w, stages);
}

StageOptions stage_options(const Workload& w, int stages) {
  StageOptions o;
  o.context_tokens = w.context_tokens;
  o.cache_tokens = pool_blocks(w, stages) * kKvBlock;
  o.max_rows = std::max(std::min(w.chunk_tokens, w.context_tokens), kMaxDraftNodes);  // a segment is one frame
  o.keys = w.keys;
  o.values = w.values;
  o.wire = w.wire;
  return o;
}

StageOptions draft_model_options(const ModelConfig& draft, std::int64_t context_tokens) {
  StageOptions o;
  o.context_tokens = std::min(context_tokens, draft.max_seq_len);
  o.cache_tokens = blocks_for(o.context_tokens) * kKvBlock;
  o.max_rows = kDraftModelRows;
  return o;
}

std::uint64_t most_piece_bytes(const ModelConfig& c, const StageOptions& o) {
  const std::int64_t row = std::max({c.dim, c.q_dim(), c.hidden_dim, c.n_experts_used * c.expert_hidden_dim});
  const std::int64_t logits = kMaxDrawnRows * c.vocab_size;
  const auto floats = static_cast<std::uint64_t>(std::max(o.max_rows * row, logits)) * sizeof(float);
  return floats + (64 << 10);  // and what a frame has beside its rows
}

std::int64_t logit_columns(const ModelConfig& c, const ModelPart& part, bool leads) {
  if (!part.reads_output_head()) return 0;
  return part.output_head && leads ? c.vocab_size : part.rows(c).vocabulary.size();
}

StageBuffers stage_buffers(const ModelConfig& c, const ModelPart& part, const StageOptions& o, int threads,
                           bool leads) {
  const TensorSlice slice = part.rows(c);
  const KvShape shape{part.last_layer - part.first_layer, slice.kv_heads.size(), c.head_dim, o.keys, o.values};
  const std::int64_t rows = o.max_rows;
  StageBuffers b;
  b.cache = static_cast<std::uint64_t>(
      std::max<std::int64_t>(KvCache::bytes_per_block(shape) * (o.cache_tokens / kKvBlock), kCacheLine));
  b.work = block_scratch(c, slice, rows, threads) + buffer<float>(rows * c.dim) + rope_tables(c, o.context_tokens) +
           buffer<float>(kMaxDrawnRows * logit_columns(c, part, leads)) +
           (part.helps_with_output_head() ? buffer<float>(kMaxDrawnRows * c.dim) : 0);
  if (part.slice) b.work += block_scratch(c, slice, second_lane_rows(rows), threads);
  return b;
}

StageMemory own_memory(const Manifest& manifest, const ModelPart& part, const Workload& w, const StageSetting& at,
                       std::uint64_t draft_model) {
  const ModelConfig& c = manifest.config;
  const StageOptions options = stage_options(w, at.stages);
  const StageBuffers buffers = stage_buffers(c, part, options, at.threads, at.leads());
  const bool decides = part.output_head && at.leads();
  StageMemory m;
  m.cache = buffers.cache;
  m.work = buffers.work;
  if (decides && w.every_row) m.work += 2 * static_cast<std::uint64_t>(c.vocab_size) * sizeof(float);  // Evaluator
  m.messages = group_bytes(c, options, at.boards) + (at.leads() ? frame_bytes(c, options, at.stages) : 0);
  if (decides && w.drafts) m.drafters = kDraftFileFactor * w.draft_file_bytes;
  m.draft_model = draft_model;
  for (const FileInfo& f : manifest.files) {
    if (part.embedding && at.leads() && f.name == tokenizer_file_name()) m.tokenizer = kTokenizerFactor * f.bytes();
  }
  m.process = kProcessBytes + static_cast<std::uint64_t>(at.threads) * kThreadBytes;
  return m;
}

StageMemory stage_memory(const Manifest& manifest, const ModelPart& part, const Workload& w, const StageSetting& at,
                         std::uint64_t draft_model) {
  StageMemory m = own_memory(manifest, part, w, at, draft_model);
  m.weights = mapped_bytes(manifest, part);
  return m;
}

std::uint64_t draft_model_bytes(const Manifest& draft, std::int64_t context_tokens, int threads) {
  const StageOptions options = draft_model_options(draft.config, context_tokens);
  const StageBuffers buffers = stage_buffers(draft.config, whole(draft), options, threads);
  return mapped_bytes(draft, whole(draft)) + buffers.cache + buffers.work;
}

}  // namespace jupiter

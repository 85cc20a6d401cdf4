// A pipeline stage: this rank's layers, its part of the KV cache, and on the last rank the head and the sampler.
#pragma once

#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <optional>

#include "io/hash.hpp"
#include "io/model_files.hpp"
#include "kernels/block.hpp"
#include "kernels/wire.hpp"
#include "parallel/frame.hpp"

namespace jupiter {

struct StageOptions {
  std::int64_t context_tokens = 0;  // positions that a sequence may have
  std::int64_t cache_tokens = 0;    // of all sequences together; multiple of 32
  std::int64_t max_rows = 0;        // of a frame
  KvType keys = KvType::f16;
  KvType values = KvType::f16;
  bool exact = false;
  Wire wire = Wire::exact;
};

// Receives the logits of rows at `position` of runs with FrameRun::every_row, in order; the span dies with the call.
using LogitsSink = std::function<void(SequenceId sequence, std::int64_t position, std::span<const float> logits)>;

class Stage {
 public:
  Stage(const ModelConfig& config, ModelFiles files, const StageOptions& options, ThreadPool& pool);

  void open(SequenceId sequence, const SamplingOptions& sampling);
  // Frees the sequence; on the last stage the digest of its logits rows.
  std::uint64_t close(SequenceId sequence);
  // Computes the frame in place: residual in, residual out. On the last stage the residual is dropped and the tokens
  // that runs ask for are drawn and returned.
  std::vector<SampledToken> forward(Frame& frame);

  void set_logits_sink(LogitsSink sink) { sink_ = std::move(sink); }
  FrameLimits limits() const;
  const StageOptions& options() const { return options_; }
  const ModelPart& part() const { return files_.part(); }
  std::uint64_t weight_bytes() const { return files_.weight_bytes(); }
  std::int64_t kv_bytes() const { return cache_.used_bytes(); }
  double compute_s() const { return compute_s_; }
  // Memory that a stage takes besides its mapped weights, bytes: cache and work space.
  static std::int64_t private_bytes(const ModelConfig& config, const ModelPart& part, const StageOptions& options);

 private:
  struct State {
    Sequence cache;
    SamplingOptions sampling;
    std::vector<TokenId> history;  // tokens by position; last stage only
    Hasher logits;                 // last stage only
  };
  // A row that passes the head.
  struct HeadRow {
    const FrameRun* run;
    std::int64_t row;  // of the frame
    std::int64_t position;
  };
  State& state(SequenceId sequence);
  std::vector<RowRun> place(const Frame& frame);
  static std::vector<HeadRow> head_rows(const Frame& frame);
  std::vector<SampledToken> draw(const Frame& frame, const BlockContext& context, MatrixView<float> x);

  const ModelConfig config_;
  ModelFiles files_;
  StageOptions options_;
  Runtime rt_;
  KvCache cache_;
  RopeTable rope_;
  BlockScratch scratch_;
  Buffer<float> residual_;  // [max_rows][dim]
  Buffer<float> logits_;    // [rows drawn at a time][vocab_size]; last stage only
  std::map<SequenceId, State> states_;
  LogitsSink sink_;
  double compute_s_ = 0;
};

}  // namespace jupiter

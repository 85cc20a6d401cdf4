// A pipeline stage: this rank's layers, its part of the KV cache, and on the last rank the head and the decoder.
#pragma once

#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <optional>

#include "io/model/model_files.hpp"
#include "kernels/block.hpp"
#include "kernels/wire.hpp"
#include "parallel/pipeline/decoder.hpp"
#include "parallel/plan/stage_memory.hpp"

namespace jupiter {

class Stage {
 public:
  // stages: of the pipeline.
  Stage(const ModelConfig& config, ModelFiles files, const StageOptions& options, ThreadPool& pool, int stages);

  void open(SequenceId sequence, const SequenceOptions& options);
  // Frees the sequence, or all of it but the positions that are kept; on the last stage, what it leaves behind.
  SequenceEnd close(SequenceId sequence, const SequenceClose& close);
  // Frees every sequence: the run is over.
  void close_all();
  // Computes the frame in place: residual in, residual out; rows of trees that are rejected by now are taken out of it.
  // On the last stage the residual is dropped, and the answer is returned. `newer` runs between layers and may call
  // settle(): a frame of which nothing is left then is given up.
  FrameResult forward(Frame& frame, const std::function<void()>& newer = {});
  // From `newer`: gives the frame up whatever it holds. Its rows are gone from the frame; their positions must be
  // computed again.
  void give_up() { given_up_ = true; }
  // Last stage: segments for which drafters found something since the last answer (FrameResult::late).
  FrameResult late_drafts() { return decoder_.late_drafts(); }
  // What the last rank decided. It takes effect before the next frame; sequences that are closed here are passed over.
  void settle(SequenceId sequence, const Verdict& verdict) { verdicts_.emplace_back(sequence, verdict); }

  // Last stage, before any sequence is open: times its layers for frames of a few widths, so that the first trees have
  // the shape that suits this machine and model. A few ms of a small model. Frames may have 16 rows.
  void learn_widths();
  void set_logits_sink(LogitsSink sink) { decoder_.set_logits_sink(std::move(sink)); }
  void set_hidden_sink(HiddenSink sink) { decoder_.set_hidden_sink(std::move(sink)); }
  void set_drafters(DrafterFactory factory) { decoder_.set_drafters(std::move(factory)); }
  FrameLimits limits() const;
  const StageOptions& options() const { return options_; }
  const ModelPart& part() const { return files_.part(); }
  const PackedMatrix& output_head() const { return files_.output_head().output; }  // [vocab_size][dim]; last stage only
  const Runtime& runtime() const { return rt_; }
  std::uint64_t weight_bytes() const { return files_.weight_bytes(); }
  std::int64_t kv_bytes() const { return cache_.used_bytes(); }
  const KvCache& cache() const { return cache_; }
  const Sequence& sequence(SequenceId id) const;  // PeerError where it is not open
  double compute_s() const { return compute_s_; }
  // What cache and work space take, bytes; stage_buffers() says it beforehand.
  StageBuffers buffers() const;

 private:
  std::vector<RowRun> place(Frame& frame);
  void apply_verdicts();
  void prune(Frame& frame);
  bool is_stale(const Frame& frame);
  OutputHeadRows pass_output_head(const BlockContext& context, MatrixView<const float> x,
                                  std::span<const std::int64_t> rows, bool with_logits);
  void add_cost(Frame& frame, double seconds);
  Sequence& sequence(SequenceId id);

  const ModelConfig config_;
  ModelFiles files_;
  StageOptions options_;
  Runtime rt_;
  KvCache cache_;
  RopeTable rope_;
  BlockScratch scratch_;
  Buffer<float> residual_;  // [max_rows][dim]
  Buffer<float> logits_;    // [rows drawn at a time][vocab_size]; last stage only
  std::map<SequenceId, Sequence> sequences_;
  std::vector<std::pair<SequenceId, Verdict>> verdicts_;  // to be applied
  Decoder decoder_;
  bool given_up_ = false;
  double compute_s_ = 0;
};

}  // namespace jupiter

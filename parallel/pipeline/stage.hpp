// A pipeline stage: this rank's layers, its part of the KV cache, and on the last rank the output head and the decoder.
// In a tensor group several boards are one stage: the leader does what a stage alone does, and the others follow it.
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
#include "parallel/pipeline/group_channels.hpp"
#include "parallel/pipeline/invariants.hpp"
#include "parallel/pipeline/lane_pass.hpp"
#include "parallel/pipeline/shared_head.hpp"
#include "parallel/plan/stage_memory.hpp"

namespace jupiter {

class Stage {
 public:
  // The boards of a tensor group: their slices of every layer, and how they reach each other.
  struct Group {
    std::vector<TensorSlice> slices;
    GroupChannels* channels = nullptr;  // must outlive the stage
  };
  // stages: their number in the pipeline. group: of a board that computes with others.
  Stage(const ModelConfig& config, ModelFiles files, const StageOptions& options, ThreadPool& pool, int stages,
        const std::optional<Group>& group = std::nullopt);

  void open(SequenceId sequence, const SequenceOptions& options);
  // Frees the sequence, except for the positions that are kept. Returns what it leaves behind (last stage only).
  SequenceEnd close(SequenceId sequence, const SequenceClose& close);
  // Frees every sequence at the end of a run.
  void close_all();
  // Computes the frame in place: its residual is replaced by this stage's, and tree rows that are rejected by now are
  // taken out. The last stage drops the residual and returns the answer. on_layer_done runs after each layer and may
  // call queue_verdict(); a frame of which no row can be right any more is then given up.
  FrameResult forward(Frame& frame, const std::function<void()>& on_layer_done = {});
  // Called from on_layer_done of a stage without a group: gives the frame up whatever it holds. It then has no rows,
  // and their positions must be computed again.
  void give_up() { given_up_ = true; }
  // Last stage: segments that drafters found since the last answer (FrameResult::late).
  FrameResult late_drafts() { return decoder_.late_drafts(); }
  // Takes a verdict of the last rank, which takes effect before the next frame. It is ignored if its sequence is closed
  // by then.
  void queue_verdict(SequenceId sequence, const Verdict& verdict) { verdicts_.emplace_back(sequence, verdict); }

  // A board that follows: passes rows of the newest frame through its part of the output head. The answer is for the
  // leader.
  Message head_logits(const Message& asked);
  // A stage that shares the output head with the last one: the same for rows that the last one sent. May be called from
  // on_layer_done.
  Message helped_logits(const Message& asked);
  // Null where this board computes alone.
  GroupChannels* group() const { return channels_; }

  // All boards of the last stage, before any sequence is open: times its layers with frames of 1 to 16 rows, so that
  // the first trees have the shape that suits this machine and model. It takes a few ms with a small model.
  void learn_widths();
  // Last stage, where others help with its output head; must outlive the stage.
  void share_output_head(SharedHead* others) { shared_head_ = others; }
  SharedHead* shared_head() const { return shared_head_; }
  void set_logits_sink(LogitsSink sink) { decoder_.set_logits_sink(std::move(sink)); }
  void set_hidden_sink(HiddenSink sink) { decoder_.set_hidden_sink(std::move(sink)); }
  void set_drafters(DrafterFactory factory) { decoder_.set_drafters(std::move(factory)); }
  void set_vocabulary(VocabularyLoader loader) { decoder_.set_vocabulary(std::move(loader)); }
  FrameLimits limits() const;
  const StageOptions& options() const { return options_; }
  const ModelConfig& config() const { return config_; }
  const ModelPart& part() const { return files_.part(); }
  const PackedMatrix& output_head() const { return files_.whole_output(); }  // [vocab_size][dim]; last stage only
  const Runtime& runtime() const { return rt_; }
  std::uint64_t weight_bytes() const { return files_.weight_bytes(); }
  std::int64_t kv_bytes() const { return cache_.used_bytes(); }
  const KvCache& cache() const { return cache_; }
  const Sequence& sequence(SequenceId id) const;  // PeerError where it is not open
  double compute_s() const { return compute_s_; }
  // Bytes of cache and work space, as stage_buffers() predicts them.
  StageBuffers buffers() const;

 private:
  std::vector<RowRun> place(Frame& frame);
  void apply_verdicts();
  void apply(SequenceId id, Sequence& sequence, const Verdict& verdict);
  void apply_decided(SequenceId id, Sequence& sequence);
  void prune(Frame& frame);
  bool is_stale(const Frame& frame);
  bool compute_layers(const Frame& frame, const std::vector<RowRun>& runs, MatrixView<float> x,
                      const std::function<void()>& on_layer_done);
  OutputHeadRows pass_output_head(MatrixView<const float> x, std::span<const std::int64_t> rows,
                                  const OutputHeadNeed& need);
  void ask_for_logits(MatrixView<const float> x, std::span<const std::int64_t> rows, std::int64_t candidates);
  std::vector<std::uint64_t> take_logits(std::int64_t candidates, MatrixView<float> logits);
  Message my_logits(MatrixView<const float> x, std::span<const std::int64_t> rows, std::int64_t candidates);
  BlockContext context() { return {rt_, config_, cache_, rope_, scratch_, group_}; }
  bool leads() const { return channels_ == nullptr || channels_->leads(); }
  bool decides() const { return part().output_head && leads(); }
  void tell_followers(const Frame& frame);
  void add_cost(Frame& frame, double seconds);
  Sequence& sequence(SequenceId id);

  const ModelConfig config_;
  ModelFiles files_;
  StageOptions options_;
  Runtime rt_;
  GroupChannels* channels_;
  SharedHead* shared_head_ = nullptr;
  TensorGroup group_;
  KvCache cache_;
  RopeTables rope_;
  BlockScratch scratch_;
  std::optional<LanePass> lanes_;   // in a tensor group
  Buffer<float> residual_;          // [max_rows][dim]
  Buffer<float> logits_;            // [kMaxDrawnRows][vocab_size]; other boards have their tokens only, or none
  Buffer<float> helped_rows_;       // [kMaxDrawnRows][dim], of a stage that shares the last one's output head
  std::int64_t residual_rows_ = 0;  // of the newest frame
  std::map<SequenceId, Sequence> sequences_;
  std::vector<std::pair<SequenceId, Verdict>> verdicts_;  // queued until the next frame boundary
  Decoder decoder_;
  StageInvariants invariants_;
  bool given_up_ = false;
  double compute_s_ = 0;
};

}  // namespace jupiter

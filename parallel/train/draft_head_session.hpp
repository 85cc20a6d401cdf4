// The training of a draft head on all ranks: the last stage has the hidden rows and deals them out, every rank computes
// its share of a batch, gradients are summed, and all take the same step.
#pragma once

#include "parallel/comm/mpi.hpp"
#include "parallel/train/draft_head_data.hpp"

namespace jupiter {

struct DraftHeadSessionOptions {
  std::int64_t units = 1024;
  std::int64_t vocabulary = 8192;  // tokens at most
  std::int64_t batch = 512;        // starts
  double epochs = 1;
  std::uint64_t seed = 1;
  std::filesystem::path state;  // rank 0: what an interruption leaves
  std::chrono::seconds deadline{600};
};

// What the last stage knows; null elsewhere.
struct DraftHeadSources {
  HiddenFile* hidden = nullptr;
  const PackedMatrix* output = nullptr;  // [vocab_size][dim]
};

class DraftHeadSession {
 public:
  // Collective. answers: rank 0's.
  DraftHeadSession(const MpiSession& mpi, const Runtime& rt, const ModelConfig& config, TrainingAnswers&& answers,
                   const DraftHeadSources& sources, const DraftHeadSessionOptions& options);

  // Collective. The head, or none where a signal came: its exit code is then interrupted_by any rank, and rank 0 has
  // written what is learned so far. report: rank 0's lines about progress.
  std::optional<SequentialHead> run(const std::function<void(const std::string&)>& report);
  ExitCode stopped_by() const { return stopped_by_; }

 private:
  void share_answers(TrainingAnswers&& answers);
  void share_output();
  void share_state();
  DraftHeadBatch fetch(const std::vector<DraftHeadSchedule::Stretch>& stretches);
  std::vector<std::byte> read(const std::vector<DraftHeadSchedule::Stretch>& stretches) const;
  DraftHeadScore sum(const DraftHeadScore& mine, std::vector<float>& gradient);
  DraftHeadScore step();
  DraftHeadScore validate();
  void save();
  std::string describe(const DraftHeadScore& learned, const DraftHeadScore& validated, double seconds) const;
  bool is_source() const { return mpi_.rank() + 1 == mpi_.stages(); }

  const MpiSession& mpi_;
  const Runtime rt_;
  const ModelConfig& config_;
  DraftHeadSources sources_;
  DraftHeadSessionOptions options_;
  DraftHeadShape shape_;
  TrainingAnswers answers_;
  std::vector<TokenId> vocabulary_;
  std::vector<std::int32_t> index_;  // [vocab_size]: in the draft vocabulary; -1: not in it
  std::optional<DraftHeadSchedule> schedule_;
  std::optional<DraftHeadTrainer> trainer_;
  DraftHeadTraining training_;
  std::int64_t steps_ = 0;
  ExitCode stopped_by_ = ExitCode::ok;
};

}  // namespace jupiter

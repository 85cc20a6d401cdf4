// What a draft is made of: prompts, the model's answers to them, and the checkpoint that keeps answers through a stop.
#pragma once

#include <optional>

#include "app/engine.hpp"
#include "app/request_file.hpp"
#include "io/progress.hpp"
#include "parallel/train/draft_head_data.hpp"
#include "parallel/train/ngram_training.hpp"

namespace jupiter {

struct TrainOptions {
  void declare(OptionSet& options);
  void check(const OptionSet& options);

  EngineOptions engine;
  std::string input, output, template_name;
  std::int64_t self = 3000;
  std::int64_t answer_tokens = 192;
  std::uint64_t seed = 1;
  bool raw = false;
  double epochs = 1;               // of heads; 0: none
  std::int64_t vocabulary = 8192;  // of heads
  std::int64_t units = 1024;       // of heads
  std::string checkpoint() const { return output + ".part.jsonl"; }
  std::string state() const { return output + ".part.h5"; }
  std::string hidden() const { return output + ".part.hidden"; }
};

// Rank 0's.
class DraftAnswers {
 public:
  DraftAnswers(const TrainOptions& options, const Manifest& manifest);

  // Everything that is not there yet; a signal's exit code where one came.
  ExitCode run(Scheduler& scheduler);
  // What stands before the first token of an answer; a token alone at position 0 says little of its usual followers.
  std::vector<TokenId> sweep_prefix() const;
  const std::string& made_from() const { return made_from_; }
  // What the answers (or the text) count; and the answers themselves (or stretches of the text).
  // Of longer ones than the context the head sees the beginning.
  void read(NgramCounts& counts, TrainingAnswers& answers, std::int64_t context_tokens) const;
  // They are in the draft file now.
  void remove_checkpoint();

 private:
  void read_input();
  std::string id_of(std::size_t i) const;
  void feed(Scheduler& scheduler, ProgressBar& bar);
  std::vector<TokenId> tokens_of(std::vector<ChatMessage> messages, const std::string& prompt) const;
  void invent(Scheduler& scheduler, ProgressBar& bar, std::size_t i);
  void keep(std::size_t i, const std::vector<TokenId>& prompt, const std::vector<TokenId>& answer);
  void keep_given(std::size_t i);
  void answer(Scheduler& scheduler, ProgressBar& bar, std::size_t i, std::vector<TokenId> prompt);

  const TrainOptions& options_;
  const Manifest& manifest_;
  Tokenizer tokenizer_;
  std::optional<ChatTemplate> template_;
  std::vector<BatchRequest> requests_;
  std::vector<TokenId> text_;
  std::string made_from_;
  std::optional<AnswerFile> checkpoint_;
  std::size_t next_ = 0, total_ = 0, done_ = 0, lost_ = 0;
};

}  // namespace jupiter

// What a draft head learns from: answers of the model and, in a scratch file, the hidden rows that decided their
// tokens. Memory does not grow with the number of answers, but for their tokens.
#pragma once

#include <filesystem>
#include <string>

#include "io/model/packed.hpp"
#include "kernels/runtime.hpp"
#include "parallel/pipeline/decoder.hpp"
#include "parallel/pipeline/evaluate.hpp"
#include "parallel/train/draft_head_training.hpp"

namespace jupiter {

// Answers one behind the other, prompts included; a window's scored tokens are the answer's.
struct TrainingAnswers {
  std::vector<TokenId> tokens;
  std::vector<EvalWindow> windows;
  void add(std::span<const TokenId> sequence, std::size_t answer_from);
  // Of hidden rows: one decided each token of an answer.
  std::int64_t rows() const;
  std::string key() const;  // hex, of tokens and windows
};

// The most frequent tokens of the answers, ascending; at most `most`.
std::vector<TokenId> draft_vocabulary(const TrainingAnswers& answers, std::int64_t most, std::int64_t vocab_size);

// Hidden rows in f16, in order of the answers. The file begins with the key of the answers, so that an interrupted
// training finds its rows again; one of other answers is written anew.
class HiddenFile {
 public:
  HiddenFile(std::filesystem::path path, std::int64_t dim) : path_(std::move(path)), dim_(dim) {}
  ~HiddenFile();
  HiddenFile(const HiddenFile&) = delete;
  HiddenFile& operator=(const HiddenFile&) = delete;

  // The key of the whole file that is there; empty: none.
  std::string found() const;
  // Writing: rows come one by one (opens at the first), finish() makes it whole. RunError where the disk is full.
  HiddenSink sink(const KernelTable& kernels);
  void finish(const std::string& key, std::int64_t rows);
  // Rows [first, first + count) as f32. RunError where they cannot be read.
  void read(const KernelTable& kernels, std::int64_t first, std::int64_t count, float* out);
  void remove();

 private:
  void open(bool anew);
  void flush();
  std::filesystem::path path_;
  std::int64_t dim_;
  int fd_ = -1;
  std::int64_t written_ = 0;  // rows
  std::vector<f16_t> waiting_;
};

// Which stretches of the answers make which batch. Every 50th answer is kept for validation.
class DraftHeadSchedule {
 public:
  DraftHeadSchedule(const TrainingAnswers& answers, std::int64_t batch_starts, std::uint64_t seed);
  // A stretch: row of the hidden file, its token in TrainingAnswers::tokens (the one that the row decided), starts.
  struct Stretch {
    std::int64_t row = 0, token = 0, starts = 0;
  };
  std::int64_t steps_of_epoch() const;
  // Stretches of a step; each epoch has its own order.
  std::vector<Stretch> batch(std::int64_t step);
  std::vector<std::vector<Stretch>> validation() const;

 private:
  std::int64_t spans_per_batch_;
  std::uint64_t seed_;
  std::int64_t epoch_ = -1;
  std::vector<Stretch> learned_, order_, validation_;
};

}  // namespace jupiter

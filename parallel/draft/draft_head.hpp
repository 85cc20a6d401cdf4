// Heads that draft from the hidden row which decided the newest token, and how their guesses join those of drafters
// that cost nothing.
#pragma once

#include <map>

#include "io/model/draft_file.hpp"
#include "kernels/linear.hpp"
#include "parallel/draft/draft.hpp"

namespace jupiter {

struct HeadGuess {
  TokenId token = 0;
  float probability = 0;
};

// The state of a head in one sequence.
class DraftHead {
 public:
  virtual ~DraftHead() = default;
  // hidden: [dim], after the final norm; of the row that decided the newest token.
  virtual void begin(std::span<const float> hidden) = 0;
  // What follows `context`, most likely first. Its tokens from `root` on are the path: the newest token, then drafted
  // ones.
  virtual std::vector<HeadGuess> guess(DraftContext context, std::size_t root) = 0;
  // Tokens of a prompt, long before they are asked about.
  virtual void foretell(DraftContext) {}
  // Whether something became known since the last guess() that was not then; heads on other ranks say so.
  virtual bool has_news() { return false; }
};

// The most likely of a row of logits, by number; the logits become scratch.
std::vector<HeadGuess> likeliest(const KernelTable& kernels, std::vector<float>& logits);

// A matrix that is multiplied once a step: q8, or f32 where its columns are no multiple of a group.
class PackedRows {
 public:
  PackedRows(std::int64_t rows, std::int64_t cols, const std::function<void(std::int64_t row, float* out)>& fill);
  const PackedMatrix& matrix() const { return matrix_; }

 private:
  Buffer<std::byte> bytes_;
  PackedMatrix matrix_;
};

// Makes the heads of sequences; what they share is packed once. output: the model's output head [vocab_size][dim],
// which must outlive this, as must what `rt` refers to.
class HeadMaker {
 public:
  virtual ~HeadMaker() = default;
  virtual std::unique_ptr<DraftHead> make() const = 0;
};
std::unique_ptr<HeadMaker> sequential_head(const Runtime& rt, const SequentialHead& head, const PackedMatrix& output);
std::unique_ptr<HeadMaker> medusa_heads(const Runtime& rt, const MedusaHeads& heads, std::int64_t dim);

// A head beside other drafters. The two are mixed by how much each was worth so far, separately for contexts about
// which the others are more and less sure.
class HeadDrafter {
 public:
  // thrifty: the head is asked only where its gain pays for its time, after a few questions that tell both.
  HeadDrafter(std::unique_ptr<DraftHead> head, DraftSource source, bool thrifty)
      : head_(std::move(head)), source_(source), thrifty_(thrifty) {}

  void see(std::span<const float> hidden) { hidden_.assign(hidden.begin(), hidden.end()); }
  void observe(DraftContext context, TokenId token);
  // proposals: the others' for the token after `context`; becomes everybody's.
  void blend(DraftContext context, const DraftWorth& worth, std::vector<Proposal>& proposals);
  const HeadUse& use() const { return use_; }
  void foretell(DraftContext decided) { head_->foretell(decided); }
  bool has_news() { return head_->has_news(); }

 private:
  static constexpr std::size_t kSureness = 4;  // classes of contexts
  struct Node {
    std::vector<Proposal> others;
    std::vector<HeadGuess> guesses;
    std::size_t sureness = 0;
  };
  // Probability of each side, and of both together.
  struct Shares {
    double others = 0;  // of what they say
    double head = 0;    // of what it says
  };
  static std::size_t sureness_of(const std::vector<Proposal>& others);
  Shares shares(const Node& node) const;
  double weight(std::size_t sureness) const;
  double gain(std::size_t sureness) const;
  double trust() const;
  void learn(const Node& node, TokenId token);
  const Node* ask(DraftContext context, const std::vector<Proposal>& others);

  std::unique_ptr<DraftHead> head_;
  DraftSource source_;
  bool thrifty_;
  std::vector<float> hidden_;
  std::map<std::vector<TokenId>, Node> nodes_;  // by path behind the token before the root
  std::size_t decided_ = 0;                     // tokens so far
  std::size_t root_ = 0;                        // of them, when nodes_ began
  bool stale_ = true;
  std::array<double, kSureness> weight_sum_{}, weight_count_{}, gain_sum_{};
  double hits_ = 0, promised_ = 0;
  HeadUse use_;
  double cost_s_ = 0;  // of one question, running mean
};

}  // namespace jupiter

// A smaller model that drafts for a larger one of the same vocabulary (speculative sampling, Leviathan et al. 2023,
// Chen et al. 2023). All of it is on one rank, and its cache has room for one sequence.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <optional>

#include "io/model/manifest.hpp"
#include "parallel/draft/neural_drafter.hpp"
#include "parallel/pipeline/stage.hpp"

namespace jupiter {

// FormatError, naming `folder`, where vocabulary or tokenizer are not the target's.
void check_vocabulary(const std::filesystem::path& folder, const Manifest& draft, const Manifest& target);

class DraftModel {
 public:
  // draft: the folder's manifest. target: the model that it drafts for. context_tokens: the target's context; where the
  // draft model's own is shorter, it has no guesses beyond that. `pool` must outlive it. FormatError as
  // check_vocabulary().
  DraftModel(const std::filesystem::path& folder, const Manifest& draft, const Manifest& target, ThreadPool& pool,
             std::int64_t context_tokens);

  // What follows the context; empty where it is longer than this model's own context.
  std::vector<DraftGuess> guess(DraftContext context);
  // Makes one pass of at most `rows` rows towards guess(), and returns its result once the last row went through.
  // Between layers it asks should_yield() whether this rank has something better to do. Then the pass is given up,
  // though not more than twice in a row.
  std::optional<std::vector<DraftGuess>> step(DraftContext context, std::int64_t rows,
                                              const std::function<bool()>& should_yield);

 private:
  bool pass(DraftContext context, std::int64_t first, std::int64_t rows, std::uint32_t flags,
            const std::function<bool()>& should_yield);

  std::unique_ptr<Stage> stage_;
  std::vector<float> logits_;
  std::vector<TokenId> held_;  // tokens whose keys and values are in the cache
  int given_up_ = 0;           // how many passes in a row were given up
};

// Which one of several drafters uses the model, which drafts for one sequence at a time.
class ExclusiveUse {
 public:
  void take(const void* user) { user_ = user; }
  // Takes it where nobody has it. Whether the user has it then.
  bool take_if_free(const void* user) {
    if (user_ == nullptr) user_ = user;
    return has(user);
  }
  bool has(const void* user) const { return user_ == user; }
  void release(const void* user) {
    if (has(user)) user_ = nullptr;
  }

 private:
  const void* user_ = nullptr;
};

// Drafters that ask a model on this rank. Of several sequences the newest has it.
std::unique_ptr<NeuralDrafterFactory> local_model_drafters(std::unique_ptr<DraftModel> model);

}  // namespace jupiter

// A smaller model that drafts for a larger one of the same vocabulary (speculative sampling: Leviathan et al. 2023,
// Chen et al. 2023): whole, on one rank, with a cache of its own for one sequence.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <optional>

#include "io/model/manifest.hpp"
#include "parallel/draft/draft_head.hpp"
#include "parallel/pipeline/stage.hpp"

namespace jupiter {

// FormatError, naming `folder`, where vocabulary or tokenizer are not the target's.
void check_vocabulary(const std::filesystem::path& folder, const Manifest& draft, const Manifest& target);

class DraftModel {
 public:
  // draft: the folder's manifest. target: the model that it drafts for. context_tokens: of that model; its own may be
  // shorter, it then falls silent.
  // `pool` must outlive it. FormatError as check_vocabulary().
  DraftModel(const std::filesystem::path& folder, const Manifest& draft, const Manifest& target, ThreadPool& pool,
             std::int64_t context_tokens);

  // What follows the context; nothing where it is longer than this model's own.
  std::vector<HeadGuess> guess(DraftContext context);
  // One pass of at most `rows` rows towards guess(): its result, once the last row went through. `wanted` says between
  // layers that this rank has something better to do: the pass is then given up, but not more than twice in a row.
  std::optional<std::vector<HeadGuess>> step(DraftContext context, std::int64_t rows,
                                             const std::function<bool()>& wanted);

 private:
  bool pass(DraftContext context, std::int64_t first, std::int64_t rows, std::uint32_t flags,
            const std::function<bool()>& wanted);

  std::unique_ptr<Stage> stage_;
  std::vector<float> logits_;
  std::vector<TokenId> held_;  // tokens in the cache
  int given_up_ = 0;           // passes in a row
};

// Heads that ask a model on this rank; it drafts for one sequence at a time, the newest.
std::unique_ptr<HeadMaker> draft_model_head(std::unique_ptr<DraftModel> model);

}  // namespace jupiter

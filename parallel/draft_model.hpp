// A smaller model that drafts for a larger one of the same vocabulary (speculative sampling: Leviathan et al. 2023,
// Chen et al. 2023): whole, on the last rank, with a cache of its own.
#pragma once

#include <filesystem>
#include <memory>

#include "io/manifest.hpp"
#include "parallel/draft_head.hpp"
#include "parallel/stage.hpp"

namespace jupiter {

// Memory: weights, and a cache for one sequence, the only one that it drafts for at a time. `pool` must outlive the
// heads. FormatError where the folder's vocabulary or tokenizer is another one than `target`'s; MemoryError where it
// does not fit. context_tokens: of the model that it drafts for; its own may be shorter, it then falls silent.
std::unique_ptr<HeadMaker> draft_model(const std::filesystem::path& folder, const Manifest& target, ThreadPool& pool,
                                       std::int64_t context_tokens);

}  // namespace jupiter

// Does this cluster, with its plan and chunks, give the bits that one rank alone gives?
#pragma once

#include <nlohmann/json.hpp>

#include "app/engine.hpp"

namespace jupiter {

struct CheckAnswer {
  std::vector<TokenId> tokens;
  std::string logits_hash;
};

// Answers all prompts greedily, at once; end-of-turn tokens do not end an answer.
std::vector<CheckAnswer> answer_prompts(Scheduler& scheduler, const DecodeOptions& decode,
                                        const std::vector<std::vector<TokenId>>& prompts);

// The same on this rank alone, with all layers, other chunks and plain decoding. Error where they are not all on this
// board's disk, or do not fit in its memory.
std::vector<CheckAnswer> answer_alone(const MpiSession& mpi, const EngineOptions& options,
                                      const std::vector<std::vector<TokenId>>& prompts);

nlohmann::ordered_json to_json(const std::vector<CheckAnswer>& answers);

}  // namespace jupiter

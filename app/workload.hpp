// What a command is to hold in memory: from its options, and from the plan where they leave it open.
#pragma once

#include "app/engine.hpp"
#include "parallel/plan/stage_memory.hpp"

namespace jupiter {

// Context, cache, requests at a time, types of cached values and decoding that the command line does not give are the
// plan's; of a plan without a workload (an older one), the context.
void take_from_plan(const Plan& plan, const ModelConfig& config, EngineOptions& options);

// UsageError where the context is longer than the model's or too short for what the command needs.
Workload workload_of(const EngineOptions& options, const ModelConfig& config, int stages);

// What to do where the workload does not fit but `blocks` of its KV cache would.
std::string memory_advice(const Workload& workload, const ModelConfig& config, int stages, std::int64_t blocks,
                          bool planned);

}  // namespace jupiter

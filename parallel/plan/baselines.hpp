// What other systems' schedules would take on the same boards, from the same profile: the comparison of the Jupiter
// paper (arXiv 2504.08242), of schedules instead of programs. The kernels, formats and links are Jupiter's everywhere.
#pragma once

#include <string>
#include <vector>

#include "parallel/plan/planner.hpp"

namespace jupiter {

struct BaselineForecast {
  std::string name;
  double ttft_s = 0;                  // to the first token
  double token_s = 0;                 // of each further one
  std::vector<std::uint64_t> memory;  // that each board needs, by board of the profile; 0: takes no part
  std::string reason;                 // why it cannot run; empty: it can
  std::optional<Plan> plan;           // of those that this program runs, too

  double request_s(std::int64_t new_tokens) const { return ttft_s + static_cast<double>(new_tokens) * token_s; }
};

// In this order; the request's kind and objective do not matter.
//   one board      the quickest that holds the model
//   EdgeShard      layers in sequence over boards that its planner chooses for the least latency, the prompt as one
//                  piece (Zhang et al., arXiv 2405.14371)
//   Megatron-LM    equal shares of every matrix, two ring all-reduces of f16 sums a layer (Shoeybi et al.,
//                  arXiv 1909.08053)
//   SP             the prompt's rows in equal shares, the whole model on every board, keys and values gathered in a
//                  ring (Li et al., arXiv 2105.13120); answers on one board
//   Galaxy         as Megatron-LM with shares by speed; in prompts the ring's steps hide behind the products
//                  (Ye et al., arXiv 2405.17245)
//   DeTransformer  equal shares of blocks that are independent within a layer, one gather a layer (Wei et al., DATE
//                  2024); needs weights trained for it, so only its time counts
//   Jupiter, and Jupiter without chunks, without its planner, without drafts, without tensor groups
std::vector<BaselineForecast> forecast_baselines(const Profile& profile, const Manifest& manifest,
                                                 const PlanRequest& request);

}  // namespace jupiter

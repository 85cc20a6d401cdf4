// Which board of a plan a draft model works on: one whose memory holds it beside its layers, and that waits longest for
// the other boards while a token goes round, because the model drafts in that time.
#pragma once

#include "parallel/plan/planner.hpp"

namespace jupiter {

// A draft model as the planner sees it.
struct DraftNeeds {
  std::string model_hash;
  std::uint64_t bytes = 0;  // weights, cache, work space (draft_model_bytes())
  double relative = 0;  // bytes of its weights over those of the target model, which is taken for the ratio of times
};

// The best plan among those that leave room for the draft model on one of their boards: the quickest request first;
// where several are within 2 %, the one whose board computes most drafts in the time that a decoded token takes
// elsewhere. The last stage is taken where no other has room: drafting there delays the answer. MemoryError where
// nothing fits. profile and manifest as for Planner.
Plan plan_with_draft(const Profile& profile, const Manifest& manifest, const PlanRequest& request,
                     const DraftNeeds& needs);

}  // namespace jupiter

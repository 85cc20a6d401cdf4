// What the planner's sources share: the terms of its objective.
#pragma once

#include "parallel/plan/planner.hpp"

namespace jupiter {

// What one board adds to the objective (Planner::best_split()) with so many layers.
struct Planner::Piece {
  double sum = 0;  // u
  double max = 0;  // v
};

// The stages of a pipeline that shares its output head, and which share each computes. The cost of a board then depends
// on its layers and its place, as without sharing: which of the boards is the last one makes no difference to the
// others.
struct Planner::HeadSharing {
  std::vector<int> boards;  // indices in the profile
  std::vector<double> shares;
};

// The weight of the slowest stage in that objective.
double weight_of_max(const PlanRequest& request, std::int64_t chunk);

}  // namespace jupiter

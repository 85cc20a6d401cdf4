// From a plan's boards to ranks: stages follow the plan, not mpirun's order.
#pragma once

#include "io/model/manifest.hpp"
#include "parallel/comm/mpi.hpp"
#include "parallel/plan/plan.hpp"

namespace jupiter {

// The plan in a file of the launching rank, on every rank; collective. CollectiveError where it cannot be read or is
// not of this model.
Plan share_plan(const MpiSession& mpi, const std::string& file, const Manifest& manifest);

// The ranks in the plan's order: each has the place of its board (host and which rank of that host it is); collective.
// CollectiveError where a board of the plan has no rank, or a rank's board is not in the plan.
MpiSession take_places(const MpiSession& mpi, const Plan& plan, const std::string& file);

}  // namespace jupiter

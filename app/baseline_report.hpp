// The comparison with other systems' schedules: a table, and files for scripts.
#pragma once

#include <string>
#include <vector>

#include "parallel/plan/baselines.hpp"

namespace jupiter {

// Prints the table. With a folder also baselines.json, and NAME.json of each plan that can be run.
void report_baselines(const std::vector<BaselineForecast>& forecasts, const Profile& profile, const Manifest& manifest,
                      const PlanRequest& request, const std::string& folder);

}  // namespace jupiter

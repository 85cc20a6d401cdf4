// What every result carries, so that two of them can be compared: who computed it, on what, when.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "io/model/manifest.hpp"

namespace jupiter {

struct Plan;

// version, git_commit ("unknown" outside git), compiler, cpu, kernels (the chosen table), plan_hash (only with a plan),
// model_hash, date (ISO 8601, UTC): of the rank that calls it, now.
nlohmann::ordered_json result_info(const Manifest& manifest, const Plan* plan);
// The same in front of a JSON document that the text holds, whose own fields win.
std::string with_result_info(const std::string& json, const Manifest& manifest, const Plan* plan);
// Of what a plan says, not of how its file is laid out.
std::string plan_hash(const Plan& plan);
std::string utc_now();  // "2000-01-31T12:00:00Z"

}  // namespace jupiter

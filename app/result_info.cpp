// Facts about this build and this machine.
#include "app/result_info.hpp"

#include <sys/utsname.h>

#include <ctime>
#include <fstream>

#include "app/git_commit.hpp"
#include "io/hash.hpp"
#include "io/json_fields.hpp"
#include "kernels/kernel_table.hpp"
#include "parallel/plan/plan.hpp"

namespace jupiter {

namespace {

std::string compiler() {
#if defined(__clang__)
  return "clang " __clang_version__;
#else
  return "g++ " __VERSION__;
#endif
}

// What /proc/cpuinfo calls it; boards give a name of the board only.
std::string cpu() {
  std::ifstream in("/proc/cpuinfo");
  std::string board;
  for (std::string line; std::getline(in, line);) {
    const std::size_t colon = line.find(": ");
    if (colon == std::string::npos) continue;
    if (line.starts_with("model name")) return line.substr(colon + 2);
    if (line.starts_with("Model") || line.starts_with("Hardware")) board = line.substr(colon + 2);
  }
  utsname machine{};
  return !board.empty() ? board : ::uname(&machine) == 0 ? std::string(machine.machine) : "unknown";
}

}  // namespace

std::string utc_now() {
  const std::time_t now = std::time(nullptr);
  std::tm utc{};
  ::gmtime_r(&now, &utc);
  char text[sizeof "2000-01-01T00:00:00Z"];
  std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &utc);
  return text;
}

std::string plan_hash(const Plan& plan) {
  return hex(hash_bytes(to_json(plan)));
}

nlohmann::ordered_json result_info(const Manifest& manifest, const Plan* plan) {
  nlohmann::ordered_json j = {{"version", JUPITER_VERSION},
                              {"git_commit", JUPITER_GIT_COMMIT},
                              {"compiler", compiler()},
                              {"cpu", cpu()},
                              {"kernels", kernels().name}};
  if (plan != nullptr) j["plan_hash"] = plan_hash(*plan);
  j["model_hash"] = hex(manifest.hash);
  j["date"] = utc_now();
  return j;
}

std::string with_result_info(const std::string& json, const Manifest& manifest, const Plan* plan) {
  nlohmann::ordered_json all = result_info(manifest, plan);
  all.update(parse_json<nlohmann::ordered_json>(json, "result"));
  return all.dump(1) + "\n";
}

}  // namespace jupiter

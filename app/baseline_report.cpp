// Memory is shown for the board that needs most.
#include "app/baseline_report.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <iostream>
#include <nlohmann/json.hpp>

#include "app/result_info.hpp"
#include "io/error.hpp"
#include "io/files.hpp"

namespace jupiter {

namespace {

using nlohmann::ordered_json;

// "Jupiter without chunks" -> "jupiter-without-chunks"
std::string file_name(std::string name) {
  for (char& c : name) c = c == ' ' ? '-' : static_cast<char>(c >= 'A' && c <= 'Z' ? c - 'A' + 'a' : c);
  return name + ".json";
}

void write_files(const std::vector<BaselineForecast>& forecasts, const Profile& profile, const Manifest& manifest,
                 const PlanRequest& request, const std::filesystem::path& folder) {
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error) throw RunError(folder.string() + ": cannot be created: " + error.message());
  ordered_json boards = ordered_json::array(), all = ordered_json::array();
  for (const BoardProfile& b : profile.boards) {
    boards.push_back({{"host", b.host}, {"slot", b.slot}, {"memory_bytes", b.memory_bytes}});
  }
  for (const BaselineForecast& f : forecasts) {
    ordered_json j = {{"name", f.name}, {"reason", f.reason}};
    if (f.reason.empty()) {
      j["ttft_s"] = f.ttft_s;
      j["token_s"] = f.token_s;
      j["request_s"] = f.request_s(request.new_tokens);
    }
    j["memory_bytes"] = f.memory;
    if (f.plan && f.reason.empty()) {
      j["plan"] = file_name(f.name);
      write_file_atomically(folder / file_name(f.name), with_result_info(to_json(*f.plan), manifest, &*f.plan));
    }
    all.push_back(std::move(j));
  }
  const ordered_json result = {{"prompt_tokens", request.prompt_tokens},
                               {"new_tokens", request.new_tokens},
                               {"hit_rate", request.hit_rate},
                               {"boards", boards},
                               {"baselines", all}};
  write_file_atomically(folder / "baselines.json", result.dump(1) + "\n");
}

}  // namespace

void report_baselines(const std::vector<BaselineForecast>& forecasts, const Profile& profile, const Manifest& manifest,
                      const PlanRequest& request, const std::string& folder) {
  std::cout << fmt::format("{} + {} tokens on {} boards, predicted\n{:<32}{:>14}{:>12}{:>12}{:>16}\n",
                           request.prompt_tokens, request.new_tokens, profile.boards.size(), "system", "first token s",
                           "tokens/s", "request s", "most memory MiB");
  for (const BaselineForecast& f : forecasts) {
    const std::uint64_t most = f.memory.empty() ? 0 : *std::max_element(f.memory.begin(), f.memory.end());
    if (f.reason.empty()) {
      std::cout << fmt::format("{:<32}{:>14.2f}{:>12.2f}{:>12.1f}{:>16}\n", f.name, f.ttft_s, 1 / f.token_s,
                               f.request_s(request.new_tokens), most >> 20);
    } else {
      std::cout << fmt::format("{:<32}  {}\n", f.name, f.reason);
    }
  }
  std::cout << std::flush;
  if (!folder.empty()) write_files(forecasts, profile, manifest, request, folder);
}

}  // namespace jupiter

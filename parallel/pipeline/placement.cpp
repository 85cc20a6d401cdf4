// Two exchanges: the plan's text to all ranks, the ranks' boards to rank 0 and the order back.
#include "parallel/pipeline/placement.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "io/files.hpp"
#include "io/hash.hpp"
#include "parallel/comm/collectives.hpp"
#include "parallel/comm/startup.hpp"

namespace jupiter {

namespace {

constexpr std::uint64_t kMaxPlanBytes = 16 << 20;

// World ranks in the order of the plan's stages, then of their other boards, then of the boards left out; `boards` by
// world rank.
std::vector<int> order_of(const Plan& plan, const std::vector<std::string>& boards, const std::string& file) {
  std::vector<int> order;
  const auto add = [&](const std::string& host, int slot) {
    const std::string board = fmt::format("{}:{}", host, slot);
    const auto it = std::find(boards.begin(), boards.end(), board);
    if (it == boards.end()) throw UsageError(fmt::format("{}: expected a rank on board {}, found none", file, board));
    order.push_back(static_cast<int>(it - boards.begin()));
  };
  for (const StagePlan& s : plan.stages) add(s.host, s.slot);
  for (const StagePlan& s : plan.stages) {
    for (const BoardPlan& b : s.others) add(b.host, b.slot);
  }
  for (std::size_t r = 0; r < boards.size(); ++r) {
    if (std::find(order.begin(), order.end(), static_cast<int>(r)) != order.end()) continue;
    const auto& out = plan.left_out;
    if (std::find(out.begin(), out.end(), boards[r]) == out.end()) {
      throw UsageError(fmt::format("{}: expected ranks on the plan's boards only, found one on {}", file, boards[r]));
    }
    order.push_back(static_cast<int>(r));
  }
  return order;
}

}  // namespace

Plan share_plan(const MpiSession& mpi, const std::string& file, const Manifest& manifest) {
  std::string text;
  together(mpi, [&] {
    if (mpi.rank() == 0) text = read_file(file, kMaxPlanBytes);
  });
  text = broadcast(mpi, text);
  Plan plan;
  together(mpi, [&] {
    plan = parse_plan(text, file);
    check(plan, manifest.config, file);
    if (plan.model_hash != hex(manifest.hash)) {
      throw FormatError(file, "model_hash", hex(manifest.hash) + " (this model)", plan.model_hash);
    }
  });
  return plan;
}

MpiSession take_places(const MpiSession& mpi, const Plan& plan, const std::string& file) {
  const auto boards = gather(mpi, fmt::format("{}:{}", mpi.host(), mpi.rank_on_host()));
  std::vector<int> order;
  together(mpi, [&] {
    if (mpi.rank() == 0) order = order_of(plan, boards, file);
  });
  std::vector<int> boards_of_stage;
  for (const StagePlan& s : plan.stages) boards_of_stage.push_back(s.boards());
  return mpi.arranged(broadcast(mpi, order), boards_of_stage);
}

}  // namespace jupiter

// A plan's boards become ranks: the session of the plan's order, beside the one that mpirun made, which stays as it is.
// Exit code 0: as expected.
#include <cstdio>

#include <fmt/format.h>

#include "parallel/comm/channel.hpp"
#include "parallel/comm/collectives.hpp"
#include "parallel/comm/startup.hpp"
#include "parallel/pipeline/placement.hpp"

namespace jupiter {
namespace {

int failures = 0;

void expect(bool ok, const std::string& what) {
  if (ok) return;
  std::fprintf(stderr, "mpi_placement_test: %s\n", what.c_str());
  ++failures;
}

StagePlan stage(const std::string& host, int slot) {
  StagePlan s;
  s.host = host;
  s.slot = slot;
  return s;
}

// Stages from the last rank to the second; the first is left out.
Plan backwards(const MpiSession& mpi) {
  Plan plan;
  for (int slot = mpi.size() - 1; slot > 0; --slot) plan.stages.push_back(stage(mpi.host(), slot));
  plan.left_out.push_back(fmt::format("{}:0", mpi.host()));
  return plan;
}

void values_follow_the_order(const MpiSession& started, const MpiSession& placed) {
  const int n = started.size(), me = started.rank();
  expect(placed.rank() == n - 1 - me, "the rank of a board");
  expect(placed.stages() == n - 1 && placed.size() == n, "number of stages and ranks");
  expect(placed.holds_layers() == (me != 0), "a board that is left out holds no layers");
  expect(placed.is_launcher() == (me == 0), "mpirun's first rank stays the launcher");
  expect(placed.world(placed.rank()) == me, "mpirun's number of a rank");
  const auto all = all_gather(placed, me);
  for (int r = 0; r < n; ++r) expect(all[static_cast<std::size_t>(r)] == n - 1 - r, "values by the plan's rank");
  expect(broadcast(placed, me, 0) == n - 1, "a broadcast comes from the plan's first stage");
  std::vector<float> sum{1.0f};
  sum_over_ranks(placed, sum, std::chrono::seconds(30));
  expect(sum[0] == static_cast<float>(n), "a sum over all ranks");
}

// Rank 0 of the plan sends to rank 1 of the plan, which is another pair of processes than mpirun's.
void messages_follow_the_order(const MpiSession& placed) {
  if (placed.rank() < 2) {
    const int peer = 1 - placed.rank();
    SendChannel out(placed, peer, Tag::exchange);
    ReceiveChannel in(placed, peer, Tag::exchange, 64, ReceiveChannel::Count::one);
    Message m;
    PayloadWriter(m.payload).value(std::int32_t{4711 + placed.rank()});
    out.send(std::move(m));
    const Message got = await_message(out, in, peer);
    expect(PayloadReader(got.payload).value<std::int32_t>() == 4711 + peer, "a message of the other stage");
    flush(out, peer);
  }
  barrier(placed);
}

std::string refusal(const MpiSession& mpi, const Plan& plan) {
  try {
    take_places(mpi, plan, "p.json");
    return "";
  } catch (const CollectiveError& e) {
    expect(e.code() == ExitCode::usage, "exit code of a refusal");
    return e.what();
  }
}

void boards_that_do_not_match(const MpiSession& mpi) {
  Plan missing = backwards(mpi);
  missing.stages.push_back(stage("no-such-board", 0));
  expect(refusal(mpi, missing).find("p.json: expected a rank on board no-such-board:0") != std::string::npos,
         "a board without a rank, told to every rank");
  Plan fewer = backwards(mpi);
  fewer.left_out.clear();
  expect(refusal(mpi, fewer).find(mpi.host() + ":0") != std::string::npos, "a rank that the plan does not know");
}

void run(const MpiSession& mpi) {
  const MpiSession placed = take_places(mpi, backwards(mpi), "p.json");
  values_follow_the_order(mpi, placed);
  if (mpi.size() > 2) messages_follow_the_order(placed);
  expect(mpi.rank() == mpi.world(mpi.rank()) && mpi.stages() == mpi.size(), "the first session stays as it was");
  if (mpi.size() == 3) {
    const MpiSession again = placed.arranged({0, 1, 2}, {1, 1, 1});
    expect(again.rank() == mpi.rank() && again.stages() == 3, "back to mpirun's order");
  }
  boards_that_do_not_match(mpi);
  const MpiSession alone = placed.alone();
  expect(alone.rank() == 0 && alone.size() == 1 && alone.stages() == 1 && alone.is_launcher(), "a session alone");
  expect(all_gather(alone, 5) == std::vector<int>{5}, "collectives of one rank");
  barrier(mpi);
}

}  // namespace
}  // namespace jupiter

int main() {
  const jupiter::MpiSession mpi;
  jupiter::run(mpi);
  return jupiter::failures == 0 ? 0 : 1;
}

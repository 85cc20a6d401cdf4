// Statuses to rank 0, its verdict back.
#include "parallel/comm/startup.hpp"

#include "parallel/comm/collectives.hpp"

namespace jupiter {

namespace {

struct Received {
  std::string host;
  std::string version;
  std::string model_hash;
  std::int32_t format_version = 0;
  std::int32_t protocol = 0;
  ExitCode code = ExitCode::ok;
  std::string message;
  template <typename Self, typename Visit>
  static void fields(Self& s, Visit&& visit) {
    visit(s.host, s.version, s.model_hash, s.format_version, s.protocol, s.code, s.message);
  }
};

std::string place(std::size_t rank, const Received& s) {
  return "rank " + std::to_string(rank) + " (" + s.host + ")";
}

// What two ranks must have in common.
std::optional<Error> compare(const Received& first, std::size_t rank, const Received& s) {
  const auto differs = [&](const char* what, const std::string& a, const std::string& b) {
    return Error(ExitCode::failed, std::string(what) + " differs: " + place(0, first) + " has " + a + ", " +
                                       place(rank, s) + " has " + b);
  };
  if (s.version != first.version) return differs("program version", first.version, s.version);
  if (s.protocol != first.protocol) {
    return differs("message protocol (another build of the program)", std::to_string(first.protocol),
                   std::to_string(s.protocol));
  }
  if (s.format_version != first.format_version) {
    return differs("file format", std::to_string(first.format_version), std::to_string(s.format_version));
  }
  if (s.model_hash != first.model_hash) return differs("model hash", first.model_hash, s.model_hash);
  return std::nullopt;
}

// The first problem; where all are ready, the first disagreement.
std::optional<Error> judge(const std::vector<Received>& all) {
  for (std::size_t r = 0; r < all.size(); ++r) {
    if (all[r].code == ExitCode::ok) continue;
    const std::string where = all.size() > 1 ? place(r, all[r]) + ": " : "";
    return Error(all[r].code, where + all[r].message);
  }
  for (std::size_t r = 1; r < all.size(); ++r) {
    if (const auto problem = compare(all[0], r, all[r])) return problem;
  }
  return std::nullopt;
}

}  // namespace

void agree(const MpiSession& mpi, const RankStatus& s) {
  const Received mine{mpi.host(),
                      s.version,
                      s.model_hash,
                      s.format_version,
                      s.protocol,
                      s.problem ? s.problem->code() : ExitCode::ok,
                      s.problem ? s.problem->what() : ""};
  const std::vector<Received> all = gather(mpi, mine);
  Received verdict;
  if (mpi.rank() == 0) {
    if (const auto problem = judge(all)) {
      verdict.code = problem->code();
      verdict.message = problem->what();
    }
  }
  verdict = broadcast(mpi, verdict);
  if (verdict.code != ExitCode::ok) throw CollectiveError(verdict.code, verdict.message);
}

}  // namespace jupiter

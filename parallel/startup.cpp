// Statuses to rank 0, its verdict back.
#include "parallel/startup.hpp"

#include "parallel/message.hpp"

namespace jupiter {

namespace {

struct Received {
  std::string host;
  std::string version;
  std::string model_hash;
  std::int32_t format_version;
  std::int32_t code;
  std::string message;
};

std::string pack(const MpiSession& mpi, const RankStatus& s) {
  std::vector<std::byte> bytes;
  PayloadWriter w(bytes);
  w.text(mpi.host());
  w.text(s.version);
  w.text(s.model_hash);
  w.value(std::int32_t{s.format_version});
  w.value(static_cast<std::int32_t>(s.problem ? s.problem->code() : ExitCode::ok));
  w.text(s.problem ? s.problem->what() : "");
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

Received unpack(const std::string& text) {
  PayloadReader r(std::as_bytes(std::span(text)));
  Received s;
  s.host = r.text();
  s.version = r.text();
  s.model_hash = r.text();
  s.format_version = r.value<std::int32_t>();
  s.code = r.value<std::int32_t>();
  s.message = r.text();
  return s;
}

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
  if (s.format_version != first.format_version) {
    return differs("file format", std::to_string(first.format_version), std::to_string(s.format_version));
  }
  if (s.model_hash != first.model_hash) return differs("model hash", first.model_hash, s.model_hash);
  return std::nullopt;
}

// The first problem; where all are ready, the first disagreement.
std::optional<Error> judge(const std::vector<Received>& all) {
  for (std::size_t r = 0; r < all.size(); ++r) {
    if (all[r].code == 0) continue;
    const std::string where = all.size() > 1 ? place(r, all[r]) + ": " : "";
    return Error(static_cast<ExitCode>(all[r].code), where + all[r].message);
  }
  for (std::size_t r = 1; r < all.size(); ++r) {
    if (const auto problem = compare(all[0], r, all[r])) return problem;
  }
  return std::nullopt;
}

}  // namespace

void agree(const MpiSession& mpi, const RankStatus& mine) {
  std::vector<Received> all;
  for (const std::string& text : gather_text(mpi, pack(mpi, mine))) all.push_back(unpack(text));
  std::optional<Error> verdict;
  if (mpi.rank() == 0) verdict = judge(all);
  const std::string code =
      broadcast_text(mpi, std::to_string(static_cast<int>(verdict ? verdict->code() : ExitCode{})));
  if (code == "0") return;
  throw CollectiveError(static_cast<ExitCode>(std::stoi(code)), verdict ? verdict->what() : "");
}

}  // namespace jupiter

// Ranks that work together: where one of them fails, all end with the same error, and go on together after it.
#include "parallel/comm/startup.hpp"

#include <cstdio>
#include <functional>

#include "parallel/comm/collectives.hpp"

namespace jupiter {
namespace {

int failures = 0;

void expect(bool ok, const std::string& what) {
  if (ok) return;
  std::fprintf(stderr, "expected %s\n", what.c_str());
  ++failures;
}

struct Outcome {
  ExitCode code = ExitCode::ok;
  std::string message;
};

// How `work` ended on this rank.
Outcome outcome_of(const std::function<void()>& work) {
  try {
    work();
    return {};
  } catch (const CollectiveError& e) {
    return {e.code(), e.what()};
  } catch (const std::exception& e) {
    expect(false, std::string("a CollectiveError, found ") + e.what());
    return {ExitCode::failed, e.what()};
  }
}

// All ranks ended with this code; rank 0, which reports it, names all of `words`.
void expect_all(const MpiSession& mpi, const Outcome& mine, ExitCode code, const std::vector<std::string>& words,
                const std::string& what) {
  expect(mine.code == code, what + ": code " + std::to_string(static_cast<int>(code)) + " on rank " +
                                std::to_string(mpi.rank()) + ", found " + std::to_string(static_cast<int>(mine.code)));
  for (const std::string& word : words) {
    if (mpi.rank() == 0)
      expect(mine.message.find(word) != std::string::npos, what + ": '" + word + "' in " + mine.message);
  }
}

void errors_of_one_rank(const MpiSession& mpi) {
  const std::vector<std::pair<ExitCode, std::function<void()>>> errors = {
      {ExitCode::usage, [] { throw UsageError("a wrong option"); }},
      {ExitCode::invalid_file, [] { throw FormatError("a wrong file"); }},
      {ExitCode::memory, [] { throw MemoryError("a wrong size"); }},
      {ExitCode::peer, [] { throw PeerError("a wrong message"); }},
      {ExitCode::failed, [] { throw RunError("a wrong value"); }}};
  for (int culprit = 0; culprit < mpi.size(); ++culprit) {
    const std::string where = mpi.size() > 1 ? "rank " + std::to_string(culprit) + " (" + mpi.host() + "): " : "";
    for (const auto& [code, fail] : errors) {
      bool worked = false;
      const Outcome mine = outcome_of([&, &error = fail] {
        together(mpi, [&] {
          worked = true;
          if (mpi.rank() == culprit) error();
        });
      });
      expect(worked, "work on every rank");
      expect_all(mpi, mine, code, {where + "a wrong "}, "an error of rank " + std::to_string(culprit));
    }
    const Outcome memory = outcome_of([&] {
      together(mpi, [&] {
        if (mpi.rank() == culprit) throw std::bad_alloc();
      });
    });
    expect_all(mpi, memory, ExitCode::memory, {where + "out of memory"}, "no memory");
    const Outcome well = outcome_of([&] { together(mpi, [] {}); });
    expect_all(mpi, well, ExitCode::ok, {}, "nothing wrong after an error");
    expect(all_gather(mpi, mpi.rank()).size() == static_cast<std::size_t>(mpi.size()), "exchanges after an error");
  }
}

void several_errors(const MpiSession& mpi) {
  const Outcome all = outcome_of(
      [&] { together(mpi, [&] { throw Error(mpi.rank() == 0 ? ExitCode::usage : ExitCode::memory, "mine"); }); });
  expect_all(mpi, all, ExitCode::usage, {"mine"}, "the first rank's error of several");
  // A problem that was there before leaves the work out, on that rank only.
  RankStatus status;
  if (mpi.rank() == mpi.size() - 1) status.problem = UsageError("known before");
  bool worked = false;
  const Outcome before = outcome_of([&] { together(mpi, status, [&] { worked = true; }); });
  expect_all(mpi, before, ExitCode::usage, {"known before"}, "a problem from before");
  expect(worked == (mpi.rank() != mpi.size() - 1), "no work where there is a problem already");
}

void disagreements(const MpiSession& mpi) {
  const bool last = mpi.rank() == mpi.size() - 1;
  const RankStatus same{.version = "1.0", .model_hash = "aa", .format_version = 3};
  expect_all(mpi, outcome_of([&] { agree(mpi, same); }), ExitCode::ok, {}, "ranks that agree");
  if (mpi.size() == 1) return;
  const auto differs = [&](const std::function<void(RankStatus&)>& change, const std::vector<std::string>& words) {
    RankStatus mine = same;
    if (last) change(mine);
    expect_all(mpi, outcome_of([&] { agree(mpi, mine); }), ExitCode::failed, words, "a difference");
  };
  const std::string who = "rank " + std::to_string(mpi.size() - 1);
  differs([](RankStatus& s) { s.version = "1.1"; }, {"program version", "1.0", "1.1", "rank 0", who, mpi.host()});
  differs([](RankStatus& s) { s.model_hash = "bb"; }, {"model hash", "aa", "bb", who});
  differs([](RankStatus& s) { s.format_version = 4; }, {"file format", "3", "4", who});
  differs([](RankStatus& s) { s.protocol = 1; }, {"message protocol", std::to_string(kProtocol), "1", who});
  // What keeps a rank from running counts before a difference.
  RankStatus mine = same;
  if (last) {
    mine.version = "1.1";
    mine.problem = MemoryError("too small");
  }
  expect_all(mpi, outcome_of([&] { agree(mpi, mine); }), ExitCode::memory, {"too small", who}, "a problem before all");
}

}  // namespace
}  // namespace jupiter

int main() {
  jupiter::MpiSession mpi;
  jupiter::errors_of_one_rank(mpi);
  jupiter::several_errors(mpi);
  jupiter::disagreements(mpi);
  return jupiter::failures == 0 ? 0 : 1;
}

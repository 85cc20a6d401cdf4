// The timelines of all ranks in one file: pieces of few events, more than a message holds, and files that cannot be
// written.
#include "parallel/comm/trace.hpp"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "io/files.hpp"
#include "parallel/comm/startup.hpp"

using namespace jupiter;

namespace {

namespace fs = std::filesystem;
constexpr std::chrono::seconds kDeadline{60};

// Rank r has r + 1 times as many events; position and request tell them apart.
void fill(Trace& trace, int rank, int events) {
  const auto start = Trace::Clock::now();
  for (int i = 0; i < events * (rank + 1); ++i) {
    const auto at = start + std::chrono::microseconds(i);
    trace.add(static_cast<Trace::Kind>(i % 3), at, at + std::chrono::nanoseconds(500), static_cast<std::uint32_t>(rank),
              i, 7);
  }
}

int expect(bool right, const char* what) {
  if (!right) std::printf("wrong: %s\n", what);
  return right ? 0 : 1;
}

int check_small(const std::string& text, int ranks, int events) {
  const auto all = nlohmann::json::parse(text);
  int wrong = expect(all["displayTimeUnit"] == "ms", "displayTimeUnit");
  std::size_t at = 0;
  const auto& list = all["traceEvents"];
  for (int rank = 0; rank < ranks; ++rank) {
    wrong += expect(list.at(at)["ph"] == "M" && list[at]["pid"] == rank &&
                        list[at]["args"]["name"].get<std::string>().starts_with("rank " + std::to_string(rank) + " ("),
                    "a rank's name");
    ++at;
    for (int i = 0; i < events * (rank + 1); ++i, ++at) {
      const auto& e = list.at(at);
      const char* names[] = {"compute", "send", "wait"};
      wrong += expect(e["ph"] == "X" && e["name"] == names[i % 3] && e["cat"] == names[i % 3] && e["pid"] == rank &&
                          e["tid"] == (i % 3 == 1 ? 1 : 0) && e["args"]["position"] == i &&
                          e["args"]["request"] == rank && e["args"]["rows"] == 7 && e["dur"] == 0.5,
                      "an event");
      if (rank == 0) wrong += expect(e["ts"] == static_cast<double>(i), "a time of rank 0");
    }
  }
  return wrong + expect(at == list.size(), "the number of events");
}

int check_pieces(const MpiSession& mpi, const std::string& file) {
  int wrong = 0;
  for (const std::size_t piece : {std::size_t{1}, std::size_t{7}, std::size_t{100}, Trace::kPieceEvents}) {
    for (const int events : {0, 7, 150}) {
      Trace trace(true, piece);
      fill(trace, mpi.rank(), events);
      trace.write(mpi, file, kDeadline);
      if (mpi.is_launcher()) wrong += check_small(read_file(file), mpi.size(), events);
    }
  }
  return wrong;
}

// More than 16 MiB of events, which no text between ranks may have.
int check_large(const MpiSession& mpi, const std::string& file) {
  const int events = (18 << 20) / static_cast<int>(sizeof(Trace::Event));
  Trace trace(true);
  fill(trace, mpi.rank(), events);
  trace.write(mpi, file, kDeadline);
  if (!mpi.is_launcher()) return 0;
  const std::string text = read_file(file, std::uint64_t{4} << 30);
  const auto lines = std::count(text.begin(), text.end(), '\n');
  const int ranks = mpi.size();
  return expect(lines == ranks + std::int64_t{events} * ranks * (ranks + 1) / 2 + 2, "the number of lines") +
         expect(text.ends_with("}}\n]}\n"), "the end");
}

// A rank without a temporary folder, and a launching rank that cannot write, end all ranks with one error.
int check_failures(const MpiSession& mpi, const std::string& file) {
  int wrong = 0;
  const auto fails = [&](const char* what, int failing_rank, const std::string& target) {
    Trace trace(true, 10);
    if (mpi.rank() == failing_rank) ::setenv("TMPDIR", "/no/such/folder", 1);
    fill(trace, mpi.rank(), 25);
    ::unsetenv("TMPDIR");
    try {
      trace.write(mpi, target, kDeadline);
      wrong += expect(false, what);
    } catch (const CollectiveError& e) {
      wrong += expect(e.code() == ExitCode::failed, what);
    }
  };
  fails("no temporary folder", mpi.size() - 1, file);
  fails("no folder of the file", -1, "/no/such/folder/trace.json");
  wrong += expect(!mpi.is_launcher() || !fs::exists(file), "no file after a failure");
  return wrong;
}

}  // namespace

int main() {
  MpiSession mpi;
  const fs::path folder = fs::temp_directory_path() / ("jupiter-trace-test-" + std::to_string(::getpid()));
  const std::string file = (folder / "trace.json").string();
  fs::create_directories(folder);
  int wrong = check_failures(mpi, file);
  wrong += check_pieces(mpi, file);
  wrong += check_large(mpi, file);
  const auto left = static_cast<int>(std::distance(fs::directory_iterator(folder), fs::directory_iterator()));
  wrong += expect(left == (mpi.is_launcher() ? 1 : 0), "nothing beside the file");
  fs::remove_all(folder);
  return wrong == 0 ? 0 : 1;
}

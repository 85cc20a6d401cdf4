// Ranks that share a host's memory. Exit code 0: as expected.
#include <cstdio>

#include "io/memory.hpp"
#include "parallel/comm/startup.hpp"
#include "parallel/pipeline/memory_check.hpp"

namespace jupiter {
namespace {

int failures = 0;

void expect(bool ok, const char* what) {
  if (ok) return;
  std::fprintf(stderr, "mpi_memory_test: %s\n", what);
  ++failures;
}

std::string advice(std::int64_t blocks) {
  return "use " + std::to_string(blocks) + " blocks";
}

// Empty where the claims fit.
std::string refusal(const MpiSession& mpi, const MemoryClaim& mine, const CacheWish& wish) {
  try {
    claim_memory(mpi, mine, wish, advice);
    return "";
  } catch (const CollectiveError& e) {
    expect(e.code() == ExitCode::memory, "exit code of a refusal");
    return mpi.rank() == 0 ? e.what() : "refused";
  }
}

void run(const MpiSession& mpi) {
  const std::uint64_t room = available_memory();
  const auto n = static_cast<std::uint64_t>(mpi.size());
  const std::uint64_t alone = room / 10 * 7;  // fits one rank, not two
  const CacheWish none{0, 0};
  expect(refusal(mpi, mpi.rank() == 1 ? MemoryClaim{0, alone, 0, "", 0} : MemoryClaim{}, none).empty(),
         "one rank's claim was refused");
  const std::string text = refusal(mpi, {0, alone, 0, "", 0}, none);
  expect(!text.empty(), "claims of ranks on one host were not added up");
  if (mpi.rank() == 0) {
    for (const char* word : {mpi.host().c_str(), "ranks 0, 1", "together", "MiB", "use 0 blocks"}) {
      expect(text.find(word) != std::string::npos, (text + ": expected " + word).c_str());
    }
  }
  // Pages of one file count once.
  expect(refusal(mpi, {alone, 0, 0, "1:2", alone}, none).empty(), "a shared file was counted twice");
  expect(!refusal(mpi, {alone, 0, 0, mpi.rank() == 0 ? "1:2" : "1:3", alone}, none).empty(), "two files were one");
  // The cache takes what is left, the same on all ranks; memory may change a little between the questions.
  const std::uint64_t block = 1 << 20;
  const auto fair = static_cast<std::int64_t>(room / n / block);
  const std::int64_t blocks = claim_memory(mpi, {0, 0, block, "", 0}, {1, 1 << 30}, advice);
  expect(blocks > fair / 2 && blocks < fair * 3 / 2, "blocks that fit");
  expect(claim_memory(mpi, {0, 0, block, "", 0}, {1, 7}, advice) == 7, "more blocks than wished");
  expect(!refusal(mpi, {0, 0, block, "", 0}, {fair * 2, fair * 2}).empty(), "a cache that does not fit");
  const std::uint64_t share = share_of_memory(mpi);
  expect(share > room / n / 2 && share < room / n * 3 / 2, "share of the host's memory");
}

}  // namespace
}  // namespace jupiter

int main() {
  jupiter::MpiSession mpi;
  jupiter::run(mpi);
  return jupiter::failures == 0 ? 0 : 1;
}

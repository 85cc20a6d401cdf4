// Claims and rooms to rank 0, its verdict back.
#include "parallel/pipeline/memory_check.hpp"

#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <limits>
#include <map>
#include <set>

#include "io/memory.hpp"
#include "parallel/comm/collectives.hpp"
#include "parallel/comm/startup.hpp"

namespace jupiter {

namespace {

struct Room {
  MemoryRoom room;
  template <typename Self, typename Visit>
  static void fields(Self& s, Visit&& visit) {
    visit(s.room.id, s.room.bytes);
  }
};

struct Claimed {
  std::string host;
  MemoryClaim claim;
  std::vector<Room> rooms;
  template <typename Self, typename Visit>
  static void fields(Self& s, Visit&& visit) {
    visit(s.host, s.claim.weights, s.claim.other, s.claim.cache_block, s.claim.file, s.claim.file_bytes, s.rooms);
  }
};

// What every rank claims, and of what, on rank 0.
std::vector<Claimed> gather_claims(const MpiSession& mpi, const MemoryClaim& mine) {
  Claimed c{mpi.host(), mine, {}};
  for (MemoryRoom& room : memory_rooms()) c.rooms.push_back({std::move(room)});
  return gather(mpi, c);
}

// All claims on what ranks share.
struct Shared {
  std::uint64_t bytes = std::numeric_limits<std::uint64_t>::max();  // that are free
  std::uint64_t weights = 0, other = 0, cache_block = 0;
  std::set<std::string> hosts;
  std::set<std::string> files;
  std::vector<std::size_t> ranks;

  std::uint64_t needed(std::int64_t blocks) const {
    return weights + other + static_cast<std::uint64_t>(blocks) * cache_block;
  }
  std::int64_t blocks_that_fit(std::int64_t most) const {
    if (weights + other > bytes) return 0;
    if (cache_block == 0) return most;
    return std::min(most, static_cast<std::int64_t>((bytes - weights - other) / cache_block));
  }
};

std::map<std::string, Shared> by_room(const std::vector<Claimed>& all) {
  std::map<std::string, Shared> rooms;
  for (std::size_t rank = 0; rank < all.size(); ++rank) {
    const MemoryClaim& c = all[rank].claim;
    for (const auto& [room] : all[rank].rooms) {
      Shared& s = rooms[room.id];
      s.bytes = std::min(s.bytes, room.bytes);
      s.weights += c.weights;
      if (!c.file.empty() && !s.files.insert(c.file).second) s.weights -= c.file_bytes;
      s.other += c.other;
      s.cache_block += c.cache_block;
      s.hosts.insert(all[rank].host);
      s.ranks.push_back(rank);
    }
  }
  return rooms;
}

std::string refusal(const Shared& s, const CacheWish& wish, const std::string& advice) {
  const auto mib = [](std::uint64_t bytes) { return (bytes + (1 << 20) - 1) >> 20; };
  std::string hosts, ranks;
  for (const std::string& host : s.hosts) hosts += (hosts.empty() ? "" : " and ") + host;
  for (const std::size_t rank : s.ranks) ranks += (ranks.empty() ? "" : ", ") + std::to_string(rank);
  ranks = s.ranks.size() == 1 ? "rank " + ranks : "ranks " + ranks + " together";
  const std::uint64_t cache = static_cast<std::uint64_t>(wish.least) * s.cache_block;
  return fmt::format(
      "host {}, {}: expected at most {} MiB (available memory), found {} MiB: {} of weights, {} of KV "
      "cache, {} of work space and all else; {}",
      hosts, ranks, s.bytes >> 20, mib(s.needed(wish.least)), mib(s.weights), mib(cache), mib(s.other), advice);
}

}  // namespace

std::string file_identity(const std::string& path) {
  struct stat info {};
  if (::stat(path.c_str(), &info) != 0) return "";
  return fmt::format("{}:{}", info.st_dev, info.st_ino);
}

std::int64_t claim_memory(const MpiSession& mpi, const MemoryClaim& mine, const CacheWish& wish,
                          const std::function<std::string(std::int64_t blocks)>& advice) {
  const std::vector<Claimed> all = gather_claims(mpi, mine);
  std::int64_t blocks = wish.most;
  std::string problem;
  std::map<std::string, Shared> rooms = by_room(all);
  for (const auto& [id, s] : rooms) blocks = std::min(blocks, s.blocks_that_fit(wish.most));
  for (const auto& [id, s] : rooms) {
    if (problem.empty() && s.needed(wish.least) > s.bytes) problem = refusal(s, wish, advice(blocks));
  }
  problem = broadcast(mpi, problem);
  if (!problem.empty()) throw CollectiveError(ExitCode::memory, problem);
  return broadcast(mpi, blocks);
}

std::uint64_t share_of_memory(const MpiSession& mpi) {
  const std::vector<Claimed> all = gather_claims(mpi, {});
  std::map<std::string, Shared> rooms = by_room(all);
  std::vector<std::uint64_t> shares;
  for (const Claimed& c : all) {
    std::uint64_t least = std::numeric_limits<std::uint64_t>::max();
    for (const auto& [room] : c.rooms) least = std::min(least, rooms[room.id].bytes / rooms[room.id].ranks.size());
    shares.push_back(c.rooms.empty() ? 0 : least);
  }
  return broadcast(mpi, shares)[mpi.rank()];
}

}  // namespace jupiter

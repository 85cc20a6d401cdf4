// Whether all ranks fit into the memory that they share, before any of them takes it.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "parallel/comm/mpi.hpp"

namespace jupiter {

// The bytes that one rank will take. Ranks without layers claim nothing.
struct MemoryClaim {
  std::uint64_t weights = 0;
  std::uint64_t other = 0;        // everything else but the KV cache, minus what the process has already
  std::uint64_t cache_block = 0;  // of one block of the cache
  std::string file;               // identity of a mapped file that other ranks may map too (tied embeddings)
  std::uint64_t file_bytes = 0;   // its part of `weights`, counted once among ranks that share pages
};

// Device and inode; empty where there is none.
std::string file_identity(const std::string& path);

// How many blocks of the KV cache every rank should have.
struct CacheWish {
  std::int64_t least = 0;
  std::int64_t most = 0;
};

// Collective. How many blocks, of at most wish.most, fit on all hosts: what ranks share (a machine, a control group)
// has to hold the sum of their claims. Where not even wish.least do, CollectiveError (exit 4) on all ranks: it names
// host, ranks, MiB needed and found, and what `advice` (rank 0's; blocks that would fit) says.
std::int64_t claim_memory(const MpiSession& mpi, const MemoryClaim& mine, const CacheWish& wish,
                          const std::function<std::string(std::int64_t blocks)>& advice);

// Collective. This rank's part of the memory that is free: what several ranks share is divided among them.
std::uint64_t share_of_memory(const MpiSession& mpi);

}  // namespace jupiter

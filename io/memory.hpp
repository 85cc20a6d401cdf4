// How much memory this process may still take: the host's, or less where a control group limits it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace jupiter {

// A limit on memory, and what is left of it. Processes that see the same id share it.
struct MemoryRoom {
  std::string id;           // of the machine (until it starts anew) or of a control group
  std::uint64_t bytes = 0;  // that may still be taken
};

// What limits this process: the machine's available memory, and its control group's and those around it, of version 1
// or 2. What can be taken back at once (cached files) counts as free. Empty where nothing is known. Tests set `root`,
// where proc and the mounted control groups are found.
std::vector<MemoryRoom> memory_rooms(const std::filesystem::path& root = "/");

// The bytes that the smallest of them leaves; 0 where nothing is known.
std::uint64_t available_memory(const std::filesystem::path& root = "/");

// The same for all processes of a machine until it starts anew, whatever they call it; host names of emulated boards
// and containers differ.
std::string machine_id(const std::filesystem::path& root = "/");

// Bytes that this process has now.
std::uint64_t resident_memory();

}  // namespace jupiter

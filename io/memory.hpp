// How much memory this process may still take: the host's, or less where a control group limits it.
#pragma once

#include <cstdint>
#include <filesystem>

namespace jupiter {

// Bytes; 0: unknown. What can be taken back at once (cached files) counts as free. The smallest of the host's
// MemAvailable and the room in this process's control group and the groups around it, of version 1 or 2.
// `root`: where proc and the mounted control groups are found, for tests.
std::uint64_t available_memory(const std::filesystem::path& root = "/");

}  // namespace jupiter

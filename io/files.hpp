// Files read whole with a limit, or written durably: beside their place, then renamed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

namespace jupiter {

// The whole file; FormatError where it cannot be read or is larger than max_bytes.
std::string read_file(const std::filesystem::path& path, std::uint64_t max_bytes = 1ull << 30);

// Writes path + ".tmp", syncs, renames. RunError (with the system's reason) where that fails; no .tmp is left then.
void write_file_atomically(const std::filesystem::path& path, std::string_view content);
// Flushes a file that was written through another library to the disk.
void sync_file(const std::filesystem::path& path);
void rename_file(const std::filesystem::path& from, const std::filesystem::path& to);

}  // namespace jupiter

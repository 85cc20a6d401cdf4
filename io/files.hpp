// Files as this project uses them: read whole with a limit, mapped read-only, or written durably beside and renamed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
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

// A read-only mapping of a whole file. Moves, does not copy.
class MappedFile {
 public:
  MappedFile() = default;
  explicit MappedFile(const std::filesystem::path& path);  // FormatError where it cannot be mapped
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  ~MappedFile();

  std::span<const std::byte> bytes() const { return {data_, size_}; }
  const std::string& name() const { return name_; }

 private:
  const std::byte* data_ = nullptr;
  std::size_t size_ = 0;
  std::string name_;
};

}  // namespace jupiter

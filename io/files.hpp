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

// Whether both name one regular file, whatever the spelling (links, ./x and x); of files that do not exist yet, whether
// they will be the same one. Devices and pipes are never the same: nothing of theirs can be lost.
bool same_file(const std::filesystem::path& a, const std::filesystem::path& b);

// A file that takes its place only when it is whole: until then it has a hidden name in the same folder that no other
// file has, and it is removed with this object. A link is followed. RunError names the file to be.
class NewFile {
 public:
  explicit NewFile(const std::filesystem::path& target);
  ~NewFile();
  NewFile(NewFile&& other) noexcept;
  NewFile& operator=(NewFile&&) = delete;
  const std::filesystem::path& path() const { return path_; }  // now: what other libraries write to
  void write(std::string_view text);                           // appends
  // Nothing more is written: the content is on the disk.
  void finish();
  // finish(), where that is not done; then under its own name, which is on the disk too.
  void put_in_place();

 private:
  std::filesystem::path target_, path_;  // path_ is empty once the file is in place
  int fd_ = -1;
};

// The same for a text. Devices and pipes are written directly.
void write_file_atomically(const std::filesystem::path& path, std::string_view content);
// RunError where a file that is to be written later cannot be.
void check_writable(const std::filesystem::path& path);
// Makes a new or renamed file's name durable. File systems that cannot sync folders pass.
void sync_folder_of(const std::filesystem::path& file);

}  // namespace jupiter

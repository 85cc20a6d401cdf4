// Reads files whole, up to a limit, and writes them durably: beside their place, to which they are renamed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

namespace jupiter {

// Returns the whole file. FormatError where it cannot be read or is larger than max_bytes.
std::string read_file(const std::filesystem::path& path, std::uint64_t max_bytes = 1ull << 30);

// Whether both names mean one regular file, however they are spelled (links, ./x and x). Names of files that do not
// exist yet are the same if one file will have both. Devices and pipes are never the same, since nothing of them can be
// lost.
bool same_file(const std::filesystem::path& a, const std::filesystem::path& b);

// A file that takes its place only when it is whole. Until then it has a hidden name in the same folder, which no other
// file has, and it is removed with this object. A link is followed. Every RunError names the file that is to be.
class NewFile {
 public:
  explicit NewFile(const std::filesystem::path& target);
  ~NewFile();
  NewFile(NewFile&& other) noexcept;
  NewFile& operator=(NewFile&&) = delete;
  const std::filesystem::path& path() const { return path_; }  // its present name, for other libraries
  void write(std::string_view text);                           // appends
  // Ends the writing. The content is on the disk when this returns.
  void finish();
  // Gives the file its own name, after finish() where that was not called. The name, too, is on the disk then.
  void put_in_place();

 private:
  std::filesystem::path target_, path_;  // path_ is empty once the file is in place
  int fd_ = -1;
};

// Writes a whole text in the same way. Devices and pipes are written directly.
void write_file_atomically(const std::filesystem::path& path, std::string_view content);
// RunError where a file that is to be written later cannot be written.
void check_writable(const std::filesystem::path& path);
// Makes the name of a new or renamed file durable, where the file system can sync folders.
void sync_folder_of(const std::filesystem::path& file);

}  // namespace jupiter

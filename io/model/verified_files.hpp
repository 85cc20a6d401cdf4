// Which shards were found whole since this machine started: a file that has not changed since is not read through
// again, so that a start after a failure takes a moment.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string_view>

namespace jupiter {

class VerifiedFiles {
 public:
  // Notes are empty files in this folder, which is made where it is missing. What others could write to does not count:
  // there, nothing is ever noted.
  explicit VerifiedFiles(std::filesystem::path folder);
  // Those of this user: a folder in /tmp, which a restart of the machine empties on most systems.
  static const VerifiedFiles& of_user();

  // What a note stands for: this file as it is now (device, inode, size, times), this start of the machine, and the
  // checksums. 0, which is never noted, for a file that is too new: a change within the clock's step would not show.
  static std::uint64_t key(const std::filesystem::path& file, std::string_view checksums);
  bool has(std::uint64_t key) const;
  // Failing to write is no error: the file is read through at the next start.
  void add(std::uint64_t key) const;

 private:
  std::filesystem::path folder_;
  bool usable_ = false;
};

}  // namespace jupiter

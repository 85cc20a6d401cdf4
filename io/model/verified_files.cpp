// Notes are made by the kernel's O_CREAT, which ranks of one host may do at the same time.
#include "io/model/verified_files.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <ctime>

#include "io/hash.hpp"
#include "io/memory.hpp"

namespace jupiter {

namespace {

constexpr std::int64_t kSettledNs = 2'000'000'000;  // the coarsest time stamps are those of FAT, two seconds

std::int64_t nanoseconds(const timespec& t) {
  return std::int64_t{t.tv_sec} * 1'000'000'000 + t.tv_nsec;
}

}  // namespace

VerifiedFiles::VerifiedFiles(std::filesystem::path folder) : folder_(std::move(folder)) {
  ::mkdir(folder_.c_str(), 0700);
  struct stat info {};
  usable_ = ::lstat(folder_.c_str(), &info) == 0 && S_ISDIR(info.st_mode) && info.st_uid == ::geteuid() &&
            (info.st_mode & 077) == 0;
}

const VerifiedFiles& VerifiedFiles::of_user() {
  static const VerifiedFiles files("/tmp/jupiter-verified-" + std::to_string(::geteuid()));
  return files;
}

std::uint64_t VerifiedFiles::key(const std::filesystem::path& file, std::string_view checksums) {
  struct stat info {};
  timespec now{};
  if (::stat(file.c_str(), &info) != 0 || ::clock_gettime(CLOCK_REALTIME, &now) != 0) return 0;
  const std::int64_t changed = nanoseconds(info.st_ctim), modified = nanoseconds(info.st_mtim);
  if (nanoseconds(now) - std::max(changed, modified) < kSettledNs) return 0;
  const std::array<std::uint64_t, 5> place = {info.st_dev, info.st_ino, static_cast<std::uint64_t>(info.st_size),
                                              static_cast<std::uint64_t>(changed),
                                              static_cast<std::uint64_t>(modified)};
  const std::string start = machine_id();
  Hasher hasher;
  hasher.update(place.data(), sizeof place);
  hasher.update(start.data(), start.size());
  hasher.update(checksums.data(), checksums.size());
  return hasher.digest();
}

bool VerifiedFiles::has(std::uint64_t key) const {
  return usable_ && key != 0 && ::access((folder_ / hex(key)).c_str(), F_OK) == 0;
}

void VerifiedFiles::add(std::uint64_t key) const {
  if (!usable_ || key == 0) return;
  const int fd = ::open((folder_ / hex(key)).c_str(), O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
  if (fd >= 0) ::close(fd);
}

}  // namespace jupiter

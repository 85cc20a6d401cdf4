// POSIX files with errors that name the file and the system's reason.
#include "io/files.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <random>
#include <utility>

#include "io/error.hpp"

namespace jupiter {

namespace {

std::string reason() {
  return std::strerror(errno);
}

RunError unwritable(const std::filesystem::path& file) {
  return RunError(file.string() + ": cannot be written: " + reason());
}

class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  ~Descriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return fd_; }

 private:
  int fd_;
};

int open_for_reading(const std::filesystem::path& path, struct stat& info) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) throw FormatError(path.string() + ": cannot be opened: " + reason());
  if (::fstat(fd, &info) != 0) {
    ::close(fd);
    throw FormatError(path.string() + ": cannot be read: " + reason());
  }
  return fd;
}

// What a name stands for, if it is there and no regular file.
bool is_device_or_pipe(const std::filesystem::path& path) {
  std::error_code ignored;
  const auto type = std::filesystem::status(path, ignored).type();
  using Type = std::filesystem::file_type;
  return type == Type::character || type == Type::block || type == Type::fifo || type == Type::socket;
}

std::filesystem::path folder_of(const std::filesystem::path& file) {
  return file.has_parent_path() ? file.parent_path() : ".";
}

// The file that a link leads to, be it there or not.
std::filesystem::path resolved(std::filesystem::path path) {
  std::error_code error;
  for (int links = 0; links < 40 && std::filesystem::is_symlink(path, error); ++links) {
    path = folder_of(path) / std::filesystem::read_symlink(path, error);
  }
  return path;
}

void write_all(int fd, std::string_view content, const std::filesystem::path& file) {
  while (!content.empty()) {
    const ssize_t n = ::write(fd, content.data(), content.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) throw unwritable(file);
    content.remove_prefix(static_cast<std::size_t>(n));
  }
}

}  // namespace

std::string read_file(const std::filesystem::path& path, std::uint64_t max_bytes) {
  struct stat info;
  const Descriptor fd(open_for_reading(path, info));
  if (S_ISDIR(info.st_mode)) throw FormatError(path.string(), "file", "a regular file", "a folder");
  std::string content;
  char chunk[1 << 16];
  for (;;) {  // pipes have no size, so the limit is checked as we go
    const ssize_t n = ::read(fd.get(), chunk, sizeof chunk);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) throw FormatError(path.string() + ": cannot be read: " + reason());
    if (n == 0) return content;
    content.append(chunk, static_cast<std::size_t>(n));
    if (content.size() > max_bytes) {
      throw FormatError(path.string(), "size", "at most " + std::to_string(max_bytes) + " bytes", "more");
    }
  }
}

bool same_file(const std::filesystem::path& a, const std::filesystem::path& b) {
  struct stat x, y;
  const bool there = ::stat(a.c_str(), &x) == 0, other_there = ::stat(b.c_str(), &y) == 0;
  if (there != other_there) return false;
  if (there) return S_ISREG(x.st_mode) && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
  std::error_code error, other_error;
  const auto place = std::filesystem::weakly_canonical(resolved(a), error);
  return place == std::filesystem::weakly_canonical(resolved(b), other_error) && !error && !other_error;
}

NewFile::NewFile(const std::filesystem::path& target) : target_(resolved(target)) {
  std::error_code error;
  const auto status = std::filesystem::status(target_, error);
  if (std::filesystem::exists(status) && !std::filesystem::is_regular_file(status)) {
    throw RunError(target.string() + ": cannot be written: expected a file or nothing, found a folder or a device");
  }
  const std::string name = target_.filename().string().substr(0, 200);
  std::random_device random;
  do {
    const std::uint64_t number = (std::uint64_t{random()} << 32) | random();
    path_ = folder_of(target_) / fmt::format(".{}.{:016x}.new", name, number);
    fd_ = ::open(path_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  } while (fd_ < 0 && errno == EEXIST);
  if (fd_ < 0) throw unwritable(target);
}

NewFile::NewFile(NewFile&& other) noexcept
    : target_(std::move(other.target_)),
      path_(std::exchange(other.path_, std::filesystem::path())),
      fd_(std::exchange(other.fd_, -1)) {}

NewFile::~NewFile() {
  if (fd_ >= 0) ::close(fd_);
  if (!path_.empty()) ::unlink(path_.c_str());
}

void NewFile::write(std::string_view text) {
  write_all(fd_, text, target_);
}

void NewFile::finish() {
  if (::fsync(fd_) != 0 || ::close(std::exchange(fd_, -1)) != 0) throw unwritable(target_);
}

void NewFile::put_in_place() {
  if (fd_ >= 0) finish();
  if (::rename(path_.c_str(), target_.c_str()) != 0) {
    throw RunError(target_.string() + ": cannot be put in place: " + reason());
  }
  path_.clear();
  sync_folder_of(target_);
}

void write_file_atomically(const std::filesystem::path& path, std::string_view content) {
  if (is_device_or_pipe(path)) {
    const Descriptor fd(::open(path.c_str(), O_WRONLY | O_CLOEXEC));
    if (fd.get() < 0) throw unwritable(path);
    write_all(fd.get(), content, path);
    return;
  }
  NewFile file(path);
  file.write(content);
  file.put_in_place();
}

void check_writable(const std::filesystem::path& path) {
  if (!is_device_or_pipe(path)) {
    const NewFile trial(path);
  } else if (::access(path.c_str(), W_OK) != 0) {
    throw unwritable(path);
  }
}

void sync_folder_of(const std::filesystem::path& file) {
  const Descriptor fd(::open(folder_of(file).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (fd.get() < 0) return;  // a folder that may be written but not read
  if (::fsync(fd.get()) != 0 && errno != EINVAL && errno != EROFS && errno != ENOTSUP) throw unwritable(file);
}

}  // namespace jupiter

// POSIX files with errors that name the file and the system's reason.
#include "io/files.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "io/error.hpp"

namespace jupiter {

namespace {

std::string reason() {
  return std::strerror(errno);
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
  int release() { return std::exchange(fd_, -1); }

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

void write_all(int fd, std::string_view content, const std::string& file) {
  while (!content.empty()) {
    const ssize_t n = ::write(fd, content.data(), content.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) throw RunError(file + ": cannot be written: " + reason());
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

void write_file_atomically(const std::filesystem::path& path, std::string_view content) {
  const std::string temporary = path.string() + ".tmp";
  {
    Descriptor fd(::open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666));
    if (fd.get() < 0) throw RunError(path.string() + ": cannot be written: " + reason());
    try {
      write_all(fd.get(), content, path.string());
      if (::fsync(fd.get()) != 0) throw RunError(path.string() + ": cannot be written: " + reason());
      if (::close(fd.release()) != 0) throw RunError(path.string() + ": cannot be written: " + reason());
    } catch (...) {
      ::unlink(temporary.c_str());
      throw;
    }
  }
  rename_file(temporary, path);
}

void sync_file(const std::filesystem::path& path) {
  const Descriptor fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (fd.get() < 0 || ::fsync(fd.get()) != 0) throw RunError(path.string() + ": cannot be written: " + reason());
}

void rename_file(const std::filesystem::path& from, const std::filesystem::path& to) {
  if (::rename(from.c_str(), to.c_str()) != 0) {
    throw RunError(to.string() + ": cannot be put in place: " + reason());
  }
}

}  // namespace jupiter

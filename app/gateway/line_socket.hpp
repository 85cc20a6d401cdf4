// Lines of text over a Unix socket between the gateway and the ranks, both ways, without blocking.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

namespace jupiter {

constexpr std::size_t kMaxLineBytes = std::size_t{64} << 20;  // a prompt of a million tokens is 8 MB

// Owns a connected stream socket. Once the other side is gone, closed() holds, and what is sent is dropped.
class LineSocket {
 public:
  explicit LineSocket(int descriptor);
  ~LineSocket();
  LineSocket(LineSocket&& other) noexcept;
  LineSocket& operator=(LineSocket&& other) noexcept;

  // RunError that names the path where nobody listens there.
  static LineSocket connect(const std::string& path);

  // Takes a line without its end; poll() moves it.
  void send(std::string_view line);
  // Moves what can be moved now. A line that is longer than kMaxLineBytes closes the socket.
  void poll();
  // The oldest line that came and was not taken yet.
  std::optional<std::string> next_line();
  bool closed() const { return descriptor_ < 0; }
  bool has_output() const { return !out_.empty(); }
  int descriptor() const { return descriptor_; }

 private:
  void close();
  void write_some();
  void read_some();
  int descriptor_ = -1;
  std::string in_, out_;
  std::size_t searched_ = 0;  // of in_, for the end of a line
};

// A socket that listens at a path, which it removes at its end.
class LineListener {
 public:
  // The folder must be the user's own and closed to others (mode 0700): RunError otherwise. A socket of that name that
  // nobody listens to any more is replaced.
  explicit LineListener(const std::string& path);
  ~LineListener();
  LineListener(const LineListener&) = delete;
  LineListener& operator=(const LineListener&) = delete;

  // The next connection that waits.
  std::optional<LineSocket> accept();
  int descriptor() const { return descriptor_; }

 private:
  std::string path_;
  int descriptor_ = -1;
};

// Until one of the descriptors (-1: none) can be read, or written where asked for, or the time is over.
void wait_for_sockets(int listener, const LineSocket* socket, int wake, int timeout_ms);

}  // namespace jupiter

// Lines of text over a socket between the gateway and the ranks, both ways, without blocking: a Unix socket where the
// first rank is on the gateway's machine, TCP otherwise.
#pragma once

#include <array>
#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

namespace jupiter {

// What ranks and whoever starts them say first over TCP, where no folder keeps others out.
constexpr const char* kTokenVariable = "JUPITER_RANK_TOKEN";
constexpr std::size_t kMaxLineBytes = std::size_t{64} << 20;  // a prompt of a million tokens is 8 MB

// Owns a connected stream socket. Once the other side is gone, closed() holds, and what is sent is dropped.
class LineSocket {
 public:
  explicit LineSocket(int descriptor);
  ~LineSocket();
  LineSocket(LineSocket&& other) noexcept;
  LineSocket& operator=(LineSocket&& other) noexcept;

  // place: the path of a Unix socket, or tcp:HOST:PORT; then the token of kTokenVariable is the first line. RunError
  // that names the place where nobody listens there.
  static LineSocket connect(const std::string& place);

  // Takes a line without its end; poll() moves it.
  void send(std::string_view line);
  // Moves what can be moved now. A line that is longer than kMaxLineBytes closes the socket.
  void poll();
  // The oldest line that came and was not taken yet.
  std::optional<std::string> next_line();
  bool closed() const { return descriptor_ < 0; }
  bool has_output() const { return !out_.empty(); }
  std::size_t unread_bytes() const { return in_.size() - line_; }
  int descriptor() const { return descriptor_; }

 private:
  void close();
  void write_some();
  void read_some();
  int descriptor_ = -1;
  std::string in_, out_;
  std::size_t line_ = 0;      // where the oldest line begins in in_
  std::size_t searched_ = 0;  // of in_, for the end of that line
};

// A socket that listens.
class LineListener {
 public:
  // At a path, which is removed at the end. The folder must be the user's own and closed to others (mode 0700):
  // RunError otherwise. A socket of that name that nobody listens to any more is replaced.
  explicit LineListener(const std::string& path);
  // At a free port of this machine's address or host name.
  static LineListener tcp(const std::string& address);
  ~LineListener();
  LineListener(LineListener&& other) noexcept;
  LineListener& operator=(LineListener&&) = delete;

  // The next connection that waits.
  std::optional<LineSocket> accept();
  int descriptor() const { return descriptor_; }
  int port() const;  // of TCP

 private:
  LineListener() = default;
  std::string path_;
  int descriptor_ = -1;
};

// Until one of the descriptors (-1: none) can be read, or written where asked for, or the time is over.
void wait_for_sockets(std::array<int, 2> listeners, const LineSocket* socket, int wake, int timeout_ms);

}  // namespace jupiter

// Nonblocking sockets and their buffers.
#include "app/gateway/line_socket.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <memory>
#include <utility>

#include "io/error.hpp"

namespace jupiter {

namespace {

constexpr std::size_t kPieceBytes = 1 << 16;

[[noreturn]] void fail(const std::string& path, const char* what) {
  throw RunError(fmt::format("{}: {}: {}", path, what, std::strerror(errno)));
}

sockaddr_un address_of(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path) {
    throw UsageError(fmt::format("{}: expected a socket's path of at most {} bytes, found {}", path,
                                 sizeof address.sun_path - 1, path.size()));
  }
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  return address;
}

int new_socket(const std::string& path) {
  const int descriptor = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (descriptor < 0) fail(path, "cannot make a socket");
  return descriptor;
}

bool connect_to(int descriptor, const sockaddr_un& address) {
  return ::connect(descriptor, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0;
}

constexpr std::string_view kTcp = "tcp:";

using Addresses = std::unique_ptr<addrinfo, void (*)(addrinfo*)>;

Addresses resolve(const std::string& host, const std::string& port) {
  addrinfo wanted{};
  wanted.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  const int error = ::getaddrinfo(host.c_str(), port.c_str(), &wanted, &found);
  if (error != 0) {
    throw RunError(fmt::format("{}: expected an address or a host's name, found: {}", host, ::gai_strerror(error)));
  }
  return {found, ::freeaddrinfo};
}

// The first of a host's addresses with which it works.
template <typename Use>
int tcp_socket(const std::string& host, const std::string& port, const char* what, Use&& use) {
  const Addresses addresses = resolve(host, port);
  for (const addrinfo* a = addresses.get(); a != nullptr; a = a->ai_next) {
    const int descriptor = ::socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (descriptor >= 0 && use(descriptor, *a)) return descriptor;
    const int reason = errno;
    if (descriptor >= 0) ::close(descriptor);
    errno = reason;
  }
  fail(fmt::format("{}:{}", host, port), what);
}

void send_at_once(int descriptor) {
  const int on = 1;
  ::setsockopt(descriptor, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

LineSocket connect_tcp(const std::string& place) {
  const std::string address = place.substr(kTcp.size());
  const std::size_t colon = address.rfind(':');
  const char* token = std::getenv(kTokenVariable);
  if (colon == std::string::npos) throw UsageError(fmt::format("{}: expected tcp:HOST:PORT", place));
  if (token == nullptr) throw UsageError(fmt::format("{}: expected the gateway's token in {}", place, kTokenVariable));
  const int descriptor =
      tcp_socket(address.substr(0, colon), address.substr(colon + 1), "nobody listens",
                 [](int d, const addrinfo& a) { return ::connect(d, a.ai_addr, a.ai_addrlen) == 0; });
  send_at_once(descriptor);
  LineSocket socket(descriptor);
  socket.send(token);
  return socket;
}

void check_folder(const std::string& path) {
  const std::filesystem::path folder = std::filesystem::absolute(path).parent_path();
  struct stat info {};
  if (::stat(folder.c_str(), &info) != 0) fail(folder.string(), "cannot be read");
  if (info.st_uid == ::geteuid() && (info.st_mode & 077) == 0) return;
  throw RunError(
      fmt::format("{}: expected a folder of this user that is closed to others (mode 0700), found mode {:04o}",
                  folder.string(), info.st_mode & 07777));
}

}  // namespace

LineSocket::LineSocket(int descriptor) : descriptor_(descriptor) {
  ::fcntl(descriptor_, F_SETFL, O_NONBLOCK);
}

LineSocket::~LineSocket() {
  close();
}

LineSocket::LineSocket(LineSocket&& other) noexcept
    : descriptor_(std::exchange(other.descriptor_, -1)),
      in_(std::move(other.in_)),
      out_(std::move(other.out_)),
      line_(other.line_),
      searched_(other.searched_) {}

LineSocket& LineSocket::operator=(LineSocket&& other) noexcept {
  close();
  descriptor_ = std::exchange(other.descriptor_, -1);
  in_ = std::move(other.in_);
  out_ = std::move(other.out_);
  line_ = other.line_;
  searched_ = other.searched_;
  return *this;
}

LineSocket LineSocket::connect(const std::string& path) {
  if (path.starts_with(kTcp)) return connect_tcp(path);
  const sockaddr_un address = address_of(path);
  const int descriptor = new_socket(path);
  if (!connect_to(descriptor, address)) {
    const int reason = errno;
    ::close(descriptor);
    errno = reason;
    fail(path, "nobody listens");
  }
  return LineSocket(descriptor);
}

void LineSocket::close() {
  if (descriptor_ >= 0) ::close(descriptor_);
  descriptor_ = -1;
  out_.clear();
}

void LineSocket::send(std::string_view line) {
  if (closed()) return;
  out_.append(line);
  out_ += '\n';
}

void LineSocket::poll() {
  if (!closed()) write_some();
  if (!closed()) read_some();
}

void LineSocket::write_some() {
  std::size_t done = 0;
  while (done < out_.size()) {
    const ssize_t n = ::send(descriptor_, out_.data() + done, out_.size() - done, MSG_NOSIGNAL);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) break;
    if (n <= 0) return close();
    done += static_cast<std::size_t>(n);
  }
  out_.erase(0, done);
}

// What came before the other side went away can still be taken.
void LineSocket::read_some() {
  std::array<char, kPieceBytes> piece;
  for (;;) {
    const ssize_t n = ::recv(descriptor_, piece.data(), piece.size(), 0);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return;
    if (n <= 0) return close();
    in_.append(piece.data(), static_cast<std::size_t>(n));
    if (in_.size() - line_ > kMaxLineBytes && in_.find('\n', searched_) == std::string::npos) return close();
  }
}

std::optional<std::string> LineSocket::next_line() {
  const std::size_t end = in_.find('\n', searched_);
  if (end == std::string::npos) {  // what was taken goes away once, not with every line
    in_.erase(0, std::exchange(line_, 0));
    searched_ = in_.size();
    return std::nullopt;
  }
  std::string line = in_.substr(line_, end - line_);
  line_ = searched_ = end + 1;
  return line;
}

LineListener::LineListener(const std::string& path) : path_(path) {
  const sockaddr_un address = address_of(path);
  check_folder(path);
  descriptor_ = new_socket(path);
  if (connect_to(descriptor_, address)) {
    ::close(descriptor_);
    throw RunError(fmt::format("{}: another gateway listens there", path));
  }
  ::close(descriptor_);
  ::unlink(path.c_str());
  descriptor_ = new_socket(path);
  const bool listens = ::bind(descriptor_, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0 &&
                       ::listen(descriptor_, 4) == 0;
  if (!listens) {
    const int reason = errno;
    ::close(descriptor_);
    errno = reason;
    fail(path, "cannot listen");
  }
  ::fcntl(descriptor_, F_SETFL, O_NONBLOCK);
}

LineListener LineListener::tcp(const std::string& address) {
  LineListener listener;
  listener.descriptor_ = tcp_socket(address, "0", "cannot listen", [](int d, const addrinfo& a) {
    return ::bind(d, a.ai_addr, a.ai_addrlen) == 0 && ::listen(d, 4) == 0;
  });
  ::fcntl(listener.descriptor_, F_SETFL, O_NONBLOCK);
  return listener;
}

LineListener::LineListener(LineListener&& other) noexcept
    : path_(std::exchange(other.path_, {})), descriptor_(std::exchange(other.descriptor_, -1)) {}

LineListener::~LineListener() {
  if (descriptor_ >= 0) ::close(descriptor_);
  if (!path_.empty()) ::unlink(path_.c_str());
}

int LineListener::port() const {
  sockaddr_storage address{};
  socklen_t size = sizeof address;
  if (::getsockname(descriptor_, reinterpret_cast<sockaddr*>(&address), &size) != 0) return 0;
  return ntohs(address.ss_family == AF_INET6 ? reinterpret_cast<const sockaddr_in6&>(address).sin6_port
                                             : reinterpret_cast<const sockaddr_in&>(address).sin_port);
}

std::optional<LineSocket> LineListener::accept() {
  const int descriptor = ::accept4(descriptor_, nullptr, nullptr, SOCK_CLOEXEC);
  if (descriptor < 0) return std::nullopt;
  if (path_.empty()) send_at_once(descriptor);
  return LineSocket(descriptor);
}

void wait_for_sockets(std::array<int, 2> listeners, const LineSocket* socket, int wake, int timeout_ms) {
  std::array<pollfd, 4> all{};
  nfds_t count = 0;
  const auto add = [&](int descriptor, short events) {
    if (descriptor >= 0) all[count++] = {descriptor, events, 0};
  };
  for (const int listener : listeners) add(listener, POLLIN);
  add(wake, POLLIN);
  if (socket != nullptr)
    add(socket->descriptor(), static_cast<short>(socket->has_output() ? POLLIN | POLLOUT : POLLIN));
  ::poll(all.data(), count, timeout_ms);
}

}  // namespace jupiter

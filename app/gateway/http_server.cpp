// Threads, limits and errors around cpp-httplib.
#include "app/gateway/http_server.hpp"

#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <condition_variable>
#include <iostream>
#include <list>
#include <utility>

#include "io/error.hpp"
#include "io/timer.hpp"

namespace jupiter {

namespace {

thread_local bool turned_away = false;  // this connection gets no thread

void send_all(int socket, std::string_view text) {
  while (!text.empty()) {
    const ssize_t n = ::send(socket, text.data(), text.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n <= 0) return;
    text.remove_prefix(static_cast<std::size_t>(n));
  }
}

// A thread for each connection, at most so many at a time; one whose connection has ended takes the next.
class ConnectionThreads : public httplib::TaskQueue {
 public:
  explicit ConnectionThreads(std::size_t most) : most_(most) {}

  void enqueue(std::function<void()> connection) override {
    std::unique_lock lock(mutex_);
    if (connections_ == most_) {
      lock.unlock();
      turned_away = true;
      return connection();
    }
    ++connections_;
    waiting_.push_back(std::move(connection));
    if (threads_.size() < connections_) threads_.emplace_back([this] { work(); });
    lock.unlock();
    changed_.notify_one();
  }

  void shutdown() override {
    {
      const std::lock_guard lock(mutex_);
      ending_ = true;
    }
    changed_.notify_all();
    for (std::thread& t : threads_) t.join();
  }

 private:
  void work() {
    std::unique_lock lock(mutex_);
    for (;;) {
      changed_.wait(lock, [&] { return ending_ || !waiting_.empty(); });
      if (waiting_.empty()) return;
      const auto connection = std::move(waiting_.front());
      waiting_.pop_front();
      lock.unlock();
      connection();
      lock.lock();
      --connections_;
    }
  }

  std::size_t most_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::list<std::function<void()>> waiting_;
  std::size_t connections_ = 0;  // waiting and served
  bool ending_ = false;
  std::vector<std::thread> threads_;
};

// A connection as cpp-httplib reads and writes it. A request has to be there, whole, within a time and a size.
class Connection : public httplib::Stream {
 public:
  Connection(int socket, const HttpLimits& limits) : socket_(socket), limits_(limits) {
    ::fcntl(socket_, F_SETFL, O_NONBLOCK);
    const int on = 1;
    ::setsockopt(socket_, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  }
  // Waits for the first byte of another request. false: none came.
  bool next_request(bool first) {
    if (ending_) return false;
    reading_ = true;
    taken_ = 0;
    begun_ = Clock::now();
    return wait_for(POLLIN, first ? limits_.request : kKeepAlive);
  }
  void request_is_read() { reading_ = false; }
  void end_after_answer() { ending_ = true; }
  bool gone() const {
    char byte;
    const ssize_t n = ::recv(socket_, &byte, 1, MSG_PEEK);
    return n == 0 || (n < 0 && errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR);
  }

  bool is_readable() const override { return wait_for(POLLIN, limits_.request); }
  bool is_writable() const override { return wait_for(POLLOUT, kWrite) && !gone(); }
  ssize_t read(char* to, size_t size) override {
    const auto left = limits_.request - std::chrono::duration_cast<std::chrono::milliseconds>(Clock::now() - begun_);
    // The body's own limit is cpp-httplib's; headers may take as much again.
    if (!reading_ || left.count() <= 0 || taken_ > limits_.body_bytes + kHeaderBytes) return -1;
    if (!wait_for(POLLIN, left)) return -1;
    const ssize_t n = ::recv(socket_, to, size, 0);
    if (n > 0) taken_ += static_cast<std::size_t>(n);
    return n;
  }
  ssize_t write(const char* from, size_t size) override {
    std::size_t done = 0;
    while (done < size) {
      if (!wait_for(POLLOUT, kWrite)) return -1;
      const ssize_t n = ::send(socket_, from + done, size - done, MSG_NOSIGNAL);
      if (n < 0 && (errno == EAGAIN || errno == EINTR)) continue;
      if (n <= 0) return -1;
      done += static_cast<std::size_t>(n);
    }
    return static_cast<ssize_t>(done);
  }
  void get_remote_ip_and_port(std::string& ip, int& port) const override {
    ip.clear();
    port = 0;
  }
  void get_local_ip_and_port(std::string& ip, int& port) const override { get_remote_ip_and_port(ip, port); }
  socket_t socket() const override { return socket_; }

 private:
  static constexpr std::chrono::milliseconds kKeepAlive{5000}, kWrite{30000};
  static constexpr std::size_t kHeaderBytes = 1 << 20;

  bool wait_for(short event, std::chrono::milliseconds limit) const {
    pollfd one{socket_, event, 0};
    return ::poll(&one, 1, static_cast<int>(limit.count())) > 0;
  }
  int socket_;
  HttpLimits limits_;
  bool reading_ = true, ending_ = false;
  std::size_t taken_ = 0;
  Clock::time_point begun_;
};

thread_local Connection* current = nullptr;

// A body may be on its way that nobody reads: it must not be taken for the next request.
void end_connection(httplib::Response& response) {
  response.set_header("Connection", "close");
  current->end_after_answer();
}

// Whether a body comes that cpp-httplib does not read.
bool has_unread_body(const httplib::Request& request) {
  const bool any =
      request.has_header("Transfer-Encoding") || request.get_header_value<std::uint64_t>("Content-Length") > 0;
  return any && (request.method == "GET" || request.method == "HEAD" || request.method == "OPTIONS");
}

// Takes the same time whatever differs.
bool is_same(const std::string& expected, const std::string& given) {
  unsigned char differs = expected.size() != given.size();
  for (std::size_t i = 0; i < expected.size(); ++i) {
    differs |= static_cast<unsigned char>(expected[i] ^ (i < given.size() ? given[i] : 0));
  }
  return differs == 0;
}

}  // namespace

ApiError bad_request(const std::string& message, const std::string& param) {
  return {400, "invalid_request_error", message, param};
}

nlohmann::json error_object(const ApiError& e) {
  nlohmann::json error = {{"message", e.what()}, {"type", e.type}, {"code", e.status}, {"param", nullptr}};
  if (!e.param.empty()) error["param"] = e.param;
  for (const auto& [name, value] : e.figures) error[name] = value;
  return {{"error", error}};
}

class HttpServer::Listener : public httplib::Server {
 public:
  explicit Listener(const HttpLimits& limits) : limits_(limits) {
    new_task_queue = [most = limits.connections] { return new ConnectionThreads(most); };
    set_payload_max_length(limits.body_bytes);
  }
  std::atomic<std::int64_t> answering = 0;  // requests

 private:
  bool process_and_close_socket(socket_t socket) override {
    bool done = false;
    if (turned_away) {
      const ApiError e(503, "unavailable_error", "too many connections: expected the request again, later");
      const std::string body = error_object(e).dump();
      send_all(socket,
               "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nConnection: close\r\nContent-Type: "
               "application/json\r\nContent-Length: " +
                   std::to_string(body.size()) + "\r\n\r\n" + body);
    } else {
      done = serve(socket);
    }
    ::shutdown(socket, SHUT_RDWR);
    ::close(socket);
    return done;
  }

  bool serve(int socket) {
    Connection connection(socket, limits_);
    current = &connection;
    bool served = false, closed = false;
    for (bool first = true; !closed && svr_sock_ != INVALID_SOCKET && connection.next_request(first); first = false) {
      ++answering;
      served = process_request(connection, false, closed, nullptr);
      --answering;
      if (!served) break;
    }
    current = nullptr;
    return served;
  }
  HttpLimits limits_;
};

HttpServer::HttpServer(const HttpLimits& limits, std::vector<std::string> keys, std::string cors_origin)
    : limits_(limits),
      keys_(std::move(keys)),
      cors_origin_(std::move(cors_origin)),
      listener_(std::make_unique<Listener>(limits)) {
  listener_->set_pre_routing_handler([this](const httplib::Request& request, httplib::Response& response) {
    if (!cors_origin_.empty()) response.set_header("Access-Control-Allow-Origin", cors_origin_);
    if (has_unread_body(request)) end_connection(response);
    if (request.method != "OPTIONS") return httplib::Server::HandlerResponse::Unhandled;
    if (methods_.contains(request.path)) response.set_header("Allow", allowed_methods(request.path));
    response.set_header("Access-Control-Allow-Methods", "GET, POST, OPTIONS");
    response.set_header("Access-Control-Allow-Headers", "Authorization, Content-Type");
    response.set_header("Access-Control-Max-Age", "86400");
    response.status = 204;
    return httplib::Server::HandlerResponse::Handled;
  });
  // What no handler answered: paths, methods and sizes that are not known here.
  listener_->set_error_handler([this](const httplib::Request& request, httplib::Response& response) {
    if (!response.body.empty()) return;
    std::string message = "expected a request that is HTTP/1.1";
    // cpp-httplib answers 400 to methods without a handler, and has no path where it does not know the method.
    const std::string path = request.target.substr(0, request.target.find_first_of("?#"));
    const bool known = methods_.contains(path);
    if (response.status == 413) {
      message = "body: expected at most " + std::to_string(limits_.body_bytes) + " bytes, found more";
    } else if (known && !handles(path, request.method)) {
      response.status = 405;
      const std::string allowed = allowed_methods(path);
      response.set_header("Allow", allowed);
      message = path + ": expected " + allowed + ", found " + request.method;
    } else if (response.status == 404) {
      message = request.path + ": no such path";
    }
    end_connection(response);
    const ApiError e(response.status, response.status == 404 ? "not_found_error" : "invalid_request_error", message);
    response.set_content(error_object(e).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace),
                         "application/json");
  });
}

HttpServer::~HttpServer() = default;

std::string HttpServer::allowed_methods(const std::string& path) const {
  std::string allowed;
  for (const std::string& m : methods_.at(path)) allowed += m == "GET" ? "GET, HEAD, " : m + ", ";
  return allowed + "OPTIONS";
}

bool HttpServer::handles(const std::string& path, const std::string& method) const {
  const std::vector<std::string>& methods = methods_.at(path);
  return std::find(methods.begin(), methods.end(), method == "HEAD" ? "GET" : method) != methods.end();
}

void HttpServer::check_key(const httplib::Request& request) const {
  if (keys_.empty()) return;
  const std::string given = request.get_header_value("Authorization");
  const std::string bare = request.get_header_value("X-Api-Key");  // as llama-server takes it, too
  bool known = false;
  for (const std::string& key : keys_) known |= is_same("Bearer " + key, given) | is_same(key, bare);
  if (!known) throw ApiError(401, "authentication_error", "expected a known key (Authorization: Bearer KEY)");
}

void HttpServer::route(const std::string& method, const std::string& path, Handler handler, bool open) {
  methods_[path].push_back(method);
  const auto safe = [this, handler = std::move(handler), open](const httplib::Request& request,
                                                               httplib::Response& response) {
    current->request_is_read();
    const auto fail = [&](const ApiError& e) {
      response.status = e.status;
      if (e.status == 401) response.set_header("WWW-Authenticate", "Bearer");
      if (e.status == 429 || e.status == 503) response.set_header("Retry-After", "1");
      response.set_content(error_object(e).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace),
                           "application/json");
    };
    try {
      if (!open) check_key(request);
      handler(request, response);
    } catch (const ApiError& e) {
      fail(e);
    } catch (const Error& e) {
      const bool theirs = e.code() == ExitCode::usage || e.code() == ExitCode::invalid_file;
      fail(theirs ? bad_request(e.what()) : ApiError(500, "server_error", e.what()));
    } catch (const std::exception& e) {
      std::cerr << "gateway: " << request.method << " " << request.path << ": " << e.what() << std::endl;
      fail(ApiError(500, "server_error", e.what()));
    }
  };
  method == "GET" ? listener_->Get(path, safe) : listener_->Post(path, safe);
}

void HttpServer::get(const std::string& path, Handler handler, bool open) {
  route("GET", path, std::move(handler), open);
}

void HttpServer::post(const std::string& path, Handler handler) {
  route("POST", path, std::move(handler), false);
}

int HttpServer::bind(const std::string& host, int port) {
  const bool bound = port == 0 ? (port = listener_->bind_to_any_port(host)) > 0 : listener_->bind_to_port(host, port);
  if (!bound) throw RunError("gateway: cannot listen at " + host + " port " + std::to_string(port));
  return port;
}

void HttpServer::serve() {
  listener_->listen_after_bind();
}

void HttpServer::stop() {
  listener_->stop();
}

bool HttpServer::wait_until_idle(std::chrono::milliseconds limit) const {
  const Clock::time_point end = Clock::now() + limit;
  while (listener_->answering > 0 && Clock::now() < end) std::this_thread::sleep_for(std::chrono::milliseconds(10));
  return listener_->answering == 0;
}

bool HttpServer::client_gone() {
  return current != nullptr && current->gone();
}

}  // namespace jupiter

// The HTTP side: cpp-httplib, with limits that it lacks. Every connection has a thread; beyond a number of them a
// client is told to come back later (503). A client that takes longer to send its request than it may is cut off.
#pragma once

#include <httplib.h>

#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

namespace jupiter {

// What a client is told instead of an answer: a status and OpenAI's error object.
struct ApiError : std::runtime_error {
  ApiError(int http_status, std::string error_type, const std::string& message, std::string name_of_param = "")
      : std::runtime_error(message),
        status(http_status),
        type(std::move(error_type)),
        param(std::move(name_of_param)) {}
  int status;
  std::string type;   // OpenAI's: invalid_request_error, authentication_error, rate_limit_error, ...
  std::string param;  // the field that is wrong; empty: none
  std::map<std::string, std::int64_t> figures = {};  // further fields of the error object
};

// 400, invalid_request_error.
ApiError bad_request(const std::string& message, const std::string& param = "");
nlohmann::json error_object(const ApiError& error);

struct HttpLimits {
  std::size_t connections = 256;
  std::size_t body_bytes = 16 << 20;
  std::chrono::seconds request{30};  // from the connection, or the answer before, to the whole request
};

class HttpServer {
 public:
  using Handler = std::function<void(const httplib::Request&, httplib::Response&)>;

  HttpServer(const HttpLimits& limits, std::vector<std::string> keys, std::string cors_origin);
  ~HttpServer();

  // open: needs no key. What a handler throws becomes an error object: ApiError as it says, others a 500.
  void get(const std::string& path, Handler handler, bool open = false);
  void post(const std::string& path, Handler handler);

  bool has_keys() const { return !keys_.empty(); }
  // The methods of each path.
  const std::map<std::string, std::vector<std::string>>& routes() const { return methods_; }

  // The port that it listens at (port 0: one that is free). RunError where the address cannot be had.
  int bind(const std::string& host, int port);
  // Until stop(), which cuts answers off.
  void serve();
  void stop();
  // Whether all requests are answered within this time.
  bool wait_until_idle(std::chrono::milliseconds limit) const;

  // Whether the client of the request that this thread answers has gone away.
  static bool client_gone();

 private:
  class Listener;
  void route(const std::string& method, const std::string& path, Handler handler, bool open);
  void check_key(const httplib::Request& request) const;
  // Of a path that is known.
  std::string allowed_methods(const std::string& path) const;
  bool handles(const std::string& path, const std::string& method) const;
  HttpLimits limits_;
  std::vector<std::string> keys_;
  std::string cors_origin_;
  std::map<std::string, std::vector<std::string>> methods_;  // by path
  std::unique_ptr<Listener> listener_;
};

}  // namespace jupiter

// Waiting for answers and for their clients.
#include "app/gateway/reply.hpp"

#include <atomic>
#include <random>

#include "app/gateway/answers.hpp"
#include "io/timer.hpp"

namespace jupiter {

using nlohmann::ordered_json;

namespace {
constexpr std::chrono::seconds kPing{5};  // silence after which a stream says that it lives
}

std::string dump(const ordered_json& j) {
  return j.dump(-1, ' ', false, ordered_json::error_handler_t::replace);
}

std::string event_text(const ordered_json& j) {
  return "data: " + dump(j) + "\n\n";
}

std::string new_id(const char* prefix) {
  static std::atomic<std::uint64_t> count{0};
  static const std::uint64_t start = std::random_device{}();
  return prefix + std::to_string(start) + "-" + std::to_string(++count);
}

std::uint64_t random_seed() {
  thread_local std::mt19937_64 random(std::random_device{}());
  return random();
}

void check_time(const GatewayContext& context, std::chrono::steady_clock::time_point start) {
  if (Clock::now() - start < context.timeout) return;
  throw ApiError(504, "timeout_error",
                 "expected an answer within " + std::to_string(context.timeout.count()) + " s, found none");
}

std::shared_ptr<Generation> submit_or_refuse(Backend& backend, GenerationSpec spec) {
  if (auto generation = backend.submit(std::move(spec))) return generation;
  check_ending(backend);
  throw ApiError(429, "rate_limit_error", "too many answers are under way: expected the request again, later");
}

void check_ending(const Backend& backend) {
  if (backend.status().ending) throw ApiError(503, "unavailable_error", "the server is about to end");
}

void check_end(const Backend& backend, const GenerationEnd& end) {
  if (end.error.empty()) return;
  check_ending(backend);
  throw ApiError(500, "server_error", end.error);
}

ReplyHead::ReplyHead(const GatewayContext& context, const char* id_prefix, const std::string& asked_model)
    : id(new_id(id_prefix)),
      model(asked_model.empty() ? context.model_names.front() : asked_model),
      created(std::chrono::duration_cast<std::chrono::seconds>(std::chrono::system_clock::now().time_since_epoch())
                  .count()) {}

ordered_json ReplyHead::object(const GatewayContext& context, const char* kind) const {
  return {{"id", id},
          {"object", kind},
          {"created", created},
          {"model", model},
          {"system_fingerprint", context.fingerprint}};
}

void respond(const std::shared_ptr<Reply>& reply, bool stream, httplib::Response& response) {
  if (!stream) {
    if (!reply->wait_for_all()) throw ApiError(499, "client_closed_request", "the client is gone");
    response.set_content(dump(reply->object()), "application/json");
    return;
  }
  response.set_header("Cache-Control", "no-cache");
  response.set_header("X-Accel-Buffering", "no");
  auto last = std::make_shared<Clock::time_point>(Clock::now());
  response.set_chunked_content_provider("text/event-stream", [reply, last](std::size_t, httplib::DataSink& sink) {
    std::string text;
    bool done = false;
    try {
      text = reply->events(kLook);
      done = reply->done();
    } catch (const std::exception& e) {  // nobody above this function would catch it
      text = event_text(error_object(ApiError(500, "server_error", e.what()))) + kLastEvent;
      done = true;
    }
    if (HttpServer::client_gone()) return false;
    if (text.empty() && Clock::now() - *last > kPing) text = ": ping\n\n";
    if (!text.empty()) {
      *last = Clock::now();
      if (!sink.write(text.data(), text.size())) return false;
    }
    if (done) sink.done();
    return true;
  });
}

}  // namespace jupiter

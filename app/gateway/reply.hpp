// What answers a request for text, whole or as a stream of events, and what such answers have in common.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "app/gateway/http_server.hpp"

namespace jupiter {

struct GatewayContext;
class Backend;
class Generation;
struct GenerationEnd;
struct GenerationSpec;

class Reply {
 public:
  virtual ~Reply() = default;
  // Waits for the whole answer. ApiError where it takes too long, or cannot be computed. false: the client is gone.
  virtual bool wait_for_all() = 0;
  // The whole answer.
  virtual nlohmann::ordered_json object() const = 0;
  // Events since the last call, waiting for some at most so long; empty: none came. Nothing follows "[DONE]".
  virtual std::string events(std::chrono::milliseconds limit) = 0;
  virtual bool done() const = 0;
};

// Streams end with their client: what nobody reads is cancelled.
void respond(const std::shared_ptr<Reply>& reply, bool stream, httplib::Response& response);

// How often a thread that waits for an answer looks for its client.
constexpr std::chrono::milliseconds kLook{100};

std::string dump(const nlohmann::ordered_json& j);
// As a server-sent event.
std::string event_text(const nlohmann::ordered_json& j);
constexpr const char* kLastEvent = "data: [DONE]\n\n";
std::string new_id(const char* prefix);
std::uint64_t random_seed();
// ApiError (504) where an answer that began then has taken too long.
void check_time(const GatewayContext& context, std::chrono::steady_clock::time_point start);

// Opens an answer. ApiError where there is no place for it (429), or the gateway is about to end (503).
std::shared_ptr<Generation> submit_or_refuse(Backend& backend, GenerationSpec spec);
// ApiError (503) where no answer is begun any more.
void check_ending(const Backend& backend);
// ApiError where an answer that has ended could not be computed (500), or not before the gateway ends (503).
void check_end(const Backend& backend, const GenerationEnd& end);

// What every object and event of an answer begins with.
struct ReplyHead {
  // asked_model: as the request calls it; empty: the first name.
  ReplyHead(const GatewayContext& context, const char* id_prefix, const std::string& asked_model);
  nlohmann::ordered_json object(const GatewayContext& context, const char* kind) const;
  std::string id, model;
  std::int64_t created;  // seconds since 1970
};

}  // namespace jupiter

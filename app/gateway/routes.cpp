// What is small enough to be answered at once; completions are in answers.cpp.
#include "app/gateway/routes.hpp"

#include <fmt/format.h>

#include "app/gateway/openapi.hpp"
#include "app/gateway/reply.hpp"
#include "io/json_fields.hpp"

namespace jupiter {

namespace {

using nlohmann::ordered_json;

void send(httplib::Response& response, const ordered_json& j) {
  response.set_content(j.dump(-1, ' ', false, ordered_json::error_handler_t::replace), "application/json");
}

ordered_json model_object(const GatewayContext& c) {
  return {
      {"id", c.model_names.front()}, {"object", "model"},
      {"created", c.created},        {"owned_by", "jupiter"},
      {"aliases", c.model_names},    {"meta", {{"n_vocab", c.tokenizer->vocab_size()}, {"n_ctx", c.context_tokens}}}};
}

void health(const GatewayContext& c, httplib::Response& response) {
  check_ending(*c.backend);
  const BackendStatus s = c.backend->status();
  if (s.loaded) return send(response, {{"status", "ok"}});
  // Answers under way go on once the ranks are back.
  throw ApiError(503, "unavailable_error",
                 s.ready.is_null() ? "the model is loading" : "the ranks are being restarted");
}

// A label's value, quoted as Prometheus wants it.
std::string label(const std::string& value) {
  std::string text = "\"";
  for (const char c : value) text += c == '\n' ? "\\n" : c == '"' || c == '\\' ? std::string{'\\', c} : std::string{c};
  return text + '"';
}

std::string rank_metrics(const nlohmann::json& status) {
  const JsonObject now(status, "status");
  std::string text =
      "# HELP jupiter_rank_busy_ratio Share of the last second in which a rank computed\n"
      "# TYPE jupiter_rank_busy_ratio gauge\n";
  for (const JsonObject& r : now.objects("ranks")) {
    text += fmt::format("jupiter_rank_busy_ratio{{rank=\"{}\",host={}}} {:.4f}\n", r.integer("rank"),
                        label(r.string("host")), r.number("busy"));
  }
  return text;
}

// Prometheus text format 0.0.4.
std::string metrics(const GatewayContext& c) {
  const BackendStatus s = c.backend->status();
  std::string text;
  const auto add = [&](const char* name, const char* type, const char* help, auto value) {
    text +=
        fmt::format("# HELP jupiter_{} {}\n# TYPE jupiter_{} {}\njupiter_{} {}\n", name, help, name, type, name, value);
  };
  add("ranks_connected", "gauge", "1: the ranks are there", s.connected ? 1 : 0);
  add("rank_starts_total", "counter", "How often ranks came, the first time included", s.starts);
  add("requests_total", "counter", "Answers begun", s.requests);
  add("requests_open", "gauge", "Answers under way, waiting ones included", s.open);
  add("requests_finished_total", "counter", "Answers that came to their end", s.finished);
  add("requests_cancelled_total", "counter", "Answers whose client went away or had what it wanted", s.cancelled);
  add("requests_failed_total", "counter", "Answers that could not be computed", s.failed);
  add("prompt_tokens_total", "counter", "Prompt tokens computed", s.prompt_tokens);
  add("prompt_tokens_shared_total", "counter", "Prompt tokens found in the cache", s.shared_tokens);
  add("generated_tokens_total", "counter", "Tokens of answers", s.given_tokens);
  add("draft_tokens_total", "counter", "Drafted tokens that answers verified", s.drafted_tokens);
  add("draft_tokens_accepted_total", "counter", "Drafted tokens that were right", s.accepted_tokens);
  if (!s.connected || !s.status.is_object()) return text;
  add("sequences_running", "gauge", "Answers that the ranks compute", s.status.value("running", 0));
  add("sequences_waiting", "gauge", "Answers that wait for room in the KV cache", s.status.value("waiting", 0));
  add("frames_in_flight", "gauge", "Frames on their way through the ranks", s.status.value("frames_in_flight", 0));
  return text + rank_metrics(s.status);
}

ordered_json props(const GatewayContext& c) {
  const SamplingOptions& s = c.sampling;
  const BackendStatus b = c.backend->status();
  return {{"model", c.model_names.front()},
          {"model_path", c.model_names.front()},
          {"system_fingerprint", c.fingerprint},
          {"n_ctx", c.context_tokens},
          {"chat_template", c.chat_template != nullptr ? c.chat_template->name() : ""},
          {"default_generation_settings",
           {{"n_ctx", c.context_tokens},
            {"params",
             {{"temperature", s.temperature},
              {"top_k", s.top_k},
              {"top_p", s.top_p},
              {"min_p", s.min_p},
              {"repeat_penalty", s.repeat_penalty},
              {"seed", s.seed}}}}},
          {"total_slots", b.ready.is_object() ? b.ready.value("most_at_once", 0) : 0},
          {"cluster", b.ready}};
}

// What the ranks said last: who waits, who runs, what each board does.
ordered_json slots(const GatewayContext& c) {
  const BackendStatus b = c.backend->status();
  return {{"connected", b.connected}, {"loaded", b.loaded}, {"open", b.open}, {"starts", b.starts},
          {"boards", b.boards},       {"cluster", b.ready}, {"now", b.status}};
}

void tokenize(const GatewayContext& c, const httplib::Request& request, httplib::Response& response) {
  const JsonObject body = read_body(request).fields;
  const std::string text = body.string("content");
  const bool special = body.find_bool("parse_special").value_or(true);
  const bool pieces = body.find_bool("with_pieces").value_or(false);
  std::vector<TokenId> tokens = c.tokenizer->encode(text, special);
  if (body.find_bool("add_special").value_or(false)) tokens = encode_segments(*c.tokenizer, {{text, special}});
  ordered_json list = ordered_json::array();
  for (const TokenId t : tokens) {
    if (pieces) {
      list.push_back({{"id", t}, {"piece", std::string(c.tokenizer->piece(t))}});
    } else {
      list.push_back(t);
    }
  }
  send(response, {{"tokens", list}});
}

void detokenize(const GatewayContext& c, const httplib::Request& request, httplib::Response& response) {
  const JsonObject body = read_body(request).fields;
  if (!body.has("tokens")) body.fail("tokens", "a list of token ids", "nothing");
  std::string text;
  for (const std::int64_t t : body.ints("tokens")) {
    if (t < 0 || t >= c.tokenizer->vocab_size()) {
      body.fail("tokens", fmt::format("0 to {}", c.tokenizer->vocab_size() - 1), std::to_string(t));
    }
    text += c.tokenizer->piece(static_cast<TokenId>(t));
  }
  send(response, {{"content", text}});
}

// The prompt of a body's messages and tools.
std::vector<PromptSegment> prompt_of(const GatewayContext& c, const RequestBody& body, bool add_generation_prompt) {
  ChatRequest r;
  read_chat_messages(body.fields, r);
  r.tools = read_tools(body.fields, body.in_order);
  if (c.chat_template == nullptr) throw bad_request("messages: the model has no known chat template", "messages");
  put_tools_into_prompt(c, r);
  return c.chat_template->render(r.messages, add_generation_prompt);
}

void apply_template(const GatewayContext& c, const httplib::Request& request, httplib::Response& response) {
  const RequestBody body = read_body(request);
  std::string prompt;
  const bool open_reply = body.fields.find_bool("add_generation_prompt").value_or(true);
  for (const PromptSegment& s : prompt_of(c, body, open_reply)) prompt += s.text;
  send(response, {{"prompt", prompt}});
}

void count_tokens(const GatewayContext& c, const httplib::Request& request, httplib::Response& response) {
  const auto tokens = encode_segments(*c.tokenizer, prompt_of(c, read_body(request), true));
  send(response, {{"input_tokens", tokens.size()}});
}

}  // namespace

void add_routes(HttpServer& server, const GatewayContext& c) {
  using Request = httplib::Request;
  using Response = httplib::Response;
  for (const char* path : {"/health", "/v1/health"}) {
    server.get(
        path, [&c](const Request&, Response& r) { health(c, r); }, true);
  }
  server.get("/metrics", [&c](const Request&, Response& r) { r.set_content(metrics(c), "text/plain; version=0.0.4"); });
  server.get("/props", [&c](const Request&, Response& r) { send(r, props(c)); });
  server.get("/slots", [&c](const Request&, Response& r) { send(r, slots(c)); });
  for (const char* path : {"/models", "/v1/models"}) {
    server.get(
        path,
        [&c](const Request&, Response& r) {
          send(r, {{"object", "list"}, {"data", ordered_json::array({model_object(c)})}});
        },
        true);
  }
  for (const char* path : {"/chat/completions", "/v1/chat/completions"}) {
    server.post(path, [&c](const Request& q, Response& r) { answer_chat(c, q, r); });
  }
  for (const char* path : {"/chat/completions/input_tokens", "/v1/chat/completions/input_tokens"}) {
    server.post(path, [&c](const Request& q, Response& r) { count_tokens(c, q, r); });
  }
  for (const char* path : {"/completions", "/v1/completions"}) {
    server.post(path, [&c](const Request& q, Response& r) { answer_text(c, q, r); });
  }
  server.post("/tokenize", [&c](const Request& q, Response& r) { tokenize(c, q, r); });
  server.post("/detokenize", [&c](const Request& q, Response& r) { detokenize(c, q, r); });
  server.post("/apply-template", [&c](const Request& q, Response& r) { apply_template(c, q, r); });
  const std::string document = openapi_document(c, server.has_keys());
  server.get(
      "/openapi.json", [document](const Request&, Response& r) { r.set_content(document, "application/json"); }, true);
}

}  // namespace jupiter

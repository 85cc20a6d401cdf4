// Field by field.
#include "app/gateway/api_request.hpp"

#include <algorithm>
#include <cmath>

#include "app/prompt.hpp"

namespace jupiter {

namespace {

void add_text(const JsonObject& part, std::string& text) {
  const std::string type = part.string("type");
  if (type != "text") part.fail("type", "text (nothing else can be read)", type);
  text += part.string("text");
}

// A text, or a list of parts that are texts.
std::string content_of(const JsonObject& message) {
  const nlohmann::json* content = message.find("content");
  if (content == nullptr) message.fail("content", "a text", "nothing");
  if (content->is_string()) return content->get<std::string>();
  if (!content->is_array()) message.fail("content", "a text or a list of parts", json_text(*content));
  std::string text;
  for (const nlohmann::json& part : *content) add_text(JsonObject(part, message.where() + ": content"), text);
  return text;
}

std::vector<std::string> read_stop(const JsonObject& body) {
  std::vector<std::string> stops;
  const nlohmann::json* stop = body.find("stop");
  if (stop == nullptr) return stops;
  const auto add = [&](const nlohmann::json& s) {
    if (!s.is_string() || s.get_ref<const std::string&>().empty()) {
      body.fail("stop", "texts that are not empty", json_text(s));
    }
    stops.push_back(s.get<std::string>());
  };
  if (stop->is_array()) {
    for (const nlohmann::json& s : *stop) add(s);
  } else {
    add(*stop);
  }
  if (stops.size() > kMostStops) {
    body.fail("stop", "at most " + std::to_string(kMostStops) + " texts", std::to_string(stops.size()));
  }
  return stops;
}

// Whether a field's value asks for something.
bool matters(const nlohmann::json& v) {
  const bool nothing = v.is_null() || v == false || ((v.is_object() || v.is_array()) && v.empty());
  const bool plain_text = v.is_object() && v.value("type", "") == "text";
  return !nothing && !plain_text && v != "none";
}

// Fields that would change the answer and are not built yet: an error, since an answer without them is another one.
void refuse_unknown_effects(const JsonObject& body, std::initializer_list<const char*> keys) {
  for (const char* key : keys) {
    const nlohmann::json* value = body.find(key);
    if (value != nullptr && matters(*value))
      throw bad_request(std::string(key) + ": not supported by this server", key);
  }
}

// {"TOKEN": bias} as OpenAI has it, or [[token, bias], ...] as llama-server.
std::vector<LogitBias> read_biases(const JsonObject& body) {
  std::vector<LogitBias> biases;
  const nlohmann::json* value = body.find("logit_bias");
  if (value == nullptr) return biases;
  const auto add = [&](std::int64_t token, const nlohmann::json& bias) {
    const bool fits = token >= 0 && token <= INT32_MAX && bias.is_number() && bias >= -100 && bias <= 100;
    if (!fits) body.fail("logit_bias", "tokens, and numbers from -100 to 100", json_text(*value));
    biases.push_back({static_cast<TokenId>(token), bias.get<float>()});
  };
  if (value->is_object()) {
    for (const auto& [token, bias] : value->items()) {
      const bool digits =
          !token.empty() && token.size() < 11 && token.find_first_not_of("0123456789") == std::string::npos;
      add(digits ? std::stoll(token) : -1, bias);
    }
  } else if (value->is_array()) {
    for (const nlohmann::json& pair : *value) {
      const bool is_pair = pair.is_array() && pair.size() == 2 && pair[0].is_number_integer();
      add(is_pair ? pair[0].get<std::int64_t>() : -1, is_pair ? pair[1] : pair);
    }
  } else {
    body.fail("logit_bias", "an object", json_text(*value));
  }
  if (biases.size() > kMostBiases) {
    body.fail("logit_bias", "at most " + std::to_string(kMostBiases) + " tokens", std::to_string(biases.size()));
  }
  return biases;
}

// To JSON 12.0 is an integer like 12, and languages that know no other numbers write it.
void write_whole_numbers_as_integers(nlohmann::json& value) {
  if (value.is_structured()) {
    for (nlohmann::json& part : value) write_whole_numbers_as_integers(part);
  } else if (value.is_number_float()) {
    constexpr double kExact = 9007199254740992;  // up to here a double has every integer
    const double x = value.get<double>();
    if (x != std::floor(x) || std::abs(x) > kExact) return;
    value = x < 0 ? nlohmann::json(static_cast<std::int64_t>(x)) : nlohmann::json(static_cast<std::uint64_t>(x));
  }
}

void read_sampling_and_seed(const JsonObject& body, AnswerRequest& r) {
  const nlohmann::json* seed = body.find("seed");
  // llama-server's -1: a random one. To the library 2^64 - 1 is the same number.
  const bool any = seed != nullptr && !seed->is_number_unsigned() && *seed == -1;
  r.seed_given = seed != nullptr && !any;
  if (!any) return read_sampling(body, r.sampling);
  nlohmann::json others = body.value();
  others.erase("seed");
  read_sampling(JsonObject(std::move(others), body.where()), r.sampling);
}

void read_shared(const RequestBody& request, const SamplingOptions& defaults, AnswerRequest& r) {
  const JsonObject& body = request.fields;
  r.model = body.find_string("model").value_or("");
  r.stream = body.find_bool("stream").value_or(false);
  if (const auto options = body.find_object("stream_options")) {
    if (!r.stream) throw bad_request("stream_options: expected stream: true with it", "stream_options");
    r.include_usage = options->find_bool("include_usage").value_or(false);
  }
  r.ignore_eos = body.find_bool("ignore_eos").value_or(false);
  r.choices = body.find_int("n", 1, kMostChoices).value_or(1);
  // More than any context is to the end of the context.
  for (const char* key : {"max_tokens", "max_completion_tokens"}) {
    if (const auto most = body.find_int(key, 1, INT64_MAX)) r.max_tokens = std::min(*most, kMostTokens);
  }
  // llama-server's: -1 is to the end.
  if (const auto most = body.find_int("n_predict", -1, INT64_MAX)) {
    if (*most == 0) body.fail("n_predict", "-1, or 1 and more", "0");
    if (*most > 0) r.max_tokens = std::min(*most, kMostTokens);
  }
  r.stops = read_stop(body);
  r.sampling = defaults;
  read_sampling_and_seed(body, r);
  r.logit_bias = read_biases(body);
  r.grammar = read_output_format(body, request.in_order);
  if (!r.grammar.empty() && r.ignore_eos) {
    throw bad_request("ignore_eos: expected none where the answer has a form, which says where it ends", "ignore_eos");
  }
}

// An outline is several answers that each end by rules of their own: some fields have no meaning for it.
void check_outline(const JsonObject& body, const ChatRequest& r) {
  if (r.choices > 1) throw bad_request("outline: expected n: 1 with it", "n");
  for (const char* key : {"logprobs", "stop", "tools", "functions", "response_format", "grammar", "json_schema"}) {
    const nlohmann::json* value = body.find(key);
    if (value != nullptr && matters(*value))
      throw bad_request("outline: expected no " + std::string(key) + " with it", key);
  }
}

}  // namespace

void read_chat_messages(const JsonObject& body, ChatRequest& request) {
  std::vector<ChatMessage>& messages = request.messages;
  for (const nlohmann::json& m : body.array_or_empty("messages")) {
    const JsonObject message(m, body.where() + ": messages");
    std::string role = message.string("role");
    if (role == "developer") role = "system";  // OpenAI's newer name
    if (role != "system" && role != "user" && role != "assistant" && role != "tool") {
      message.fail("role", "system, developer, user, assistant or tool", role);
    }
    std::vector<ToolCall> calls;
    if (role == "assistant") calls = read_tool_calls(message);
    const bool silent = !calls.empty() && !message.has("content");
    std::string content = silent ? "" : content_of(message);
    // Templates have one place for a system message; clients send several.
    if (role == "system" && messages.size() == 1 && messages.front().role == "system") {
      messages.front().content += "\n\n" + content;
      continue;
    }
    messages.push_back({std::move(role), std::move(content)});
    if (!calls.empty()) request.calls[messages.size() - 1] = std::move(calls);
  }
  if (messages.empty()) throw bad_request("messages: expected at least one message, found none", "messages");
  if (messages.back().role != "user" && messages.back().role != "tool") {
    throw bad_request("messages: expected the last message to be the user's or a tool's, found one of the role " +
                          messages.back().role,
                      "messages");
  }
}

ChatRequest read_chat_request(const RequestBody& request, const SamplingOptions& defaults) {
  const JsonObject& body = request.fields;
  ChatRequest r;
  read_shared(request, defaults, r);
  refuse_unknown_effects(body, {"functions", "audio"});
  read_chat_messages(body, r);
  r.outline = body.find_bool("outline").value_or(false);
  if (r.outline) check_outline(body, r);
  r.tools = read_tools(body, request.in_order);
  if (r.tools.choice != ToolChoice::none && (!r.grammar.empty() || r.ignore_eos)) {
    throw bad_request("tools: expected no response_format, grammar, json_schema or ignore_eos beside them", "tools");
  }
  if (body.find_bool("logprobs").value_or(false)) {
    r.sampling.top_logprobs = static_cast<std::int32_t>(body.find_int("top_logprobs", 0, kMostTopLogprobs).value_or(0));
  } else if (body.has("top_logprobs")) {
    throw bad_request("top_logprobs: expected logprobs: true with it", "top_logprobs");
  }
  return r;
}

TextRequest read_text_request(const RequestBody& request, const SamplingOptions& defaults) {
  const JsonObject& body = request.fields;
  TextRequest r;
  refuse_unknown_effects(body, {"tools", "functions", "audio"});
  read_shared(request, defaults, r);
  r.sampling.top_logprobs = static_cast<std::int32_t>(body.find_int("logprobs", 0, kMostTopLogprobs).value_or(-1));
  r.echo = body.find_bool("echo").value_or(false);
  const nlohmann::json* prompt = body.find("prompt");
  const auto is_token = [](const nlohmann::json& t) { return t.is_number_integer(); };
  const auto add = [&](const nlohmann::json& p) {
    if (p.is_string()) {
      r.texts.push_back(p.get<std::string>());
    } else if (p.is_array() && !p.empty() && std::all_of(p.begin(), p.end(), is_token)) {
      auto& tokens = r.tokens.emplace_back();
      for (const nlohmann::json& t : p) {
        const auto id = t.is_number_unsigned() && t.get<std::uint64_t>() > INT32_MAX ? -1 : t.get<std::int64_t>();
        if (id < 0 || id > INT32_MAX) body.fail("prompt", "token ids", json_text(t));
        tokens.push_back(static_cast<TokenId>(id));
      }
    } else {
      body.fail("prompt", "a text, tokens, or a list of these", json_text(p));
    }
  };
  if (prompt == nullptr) body.fail("prompt", "a text, tokens, or a list of these", "nothing");
  const bool is_list = prompt->is_array() && !prompt->empty() && !is_token(prompt->front());
  if (!is_list) {
    add(*prompt);
  } else {
    for (const nlohmann::json& p : *prompt) add(p);
  }
  if (!r.texts.empty() && !r.tokens.empty()) body.fail("prompt", "texts or tokens", "both");
  if (r.prompts() * static_cast<std::size_t>(r.choices) > static_cast<std::size_t>(kMostChoices)) {
    throw bad_request("prompt: expected at most " + std::to_string(kMostChoices) +
                          " answers (prompts times n), found " +
                          std::to_string(r.prompts() * static_cast<std::size_t>(r.choices)),
                      "prompt");
  }
  return r;
}

RequestBody parse_body(const std::string& text) {
  nlohmann::json fields = parse_json(text, "body");
  write_whole_numbers_as_integers(fields);
  return {JsonObject(std::move(fields), "body"), parse_json<nlohmann::ordered_json>(text, "body")};
}

RequestBody read_body(const httplib::Request& request) {
  const std::string type = request.get_header_value("Content-Type");
  if (!type.empty() && type.find("json") == std::string::npos) {
    throw ApiError(415, "invalid_request_error", "Content-Type: expected application/json, found " + type);
  }
  check_utf8(request.body, "body", ExitCode::usage);
  return parse_body(request.body);
}

}  // namespace jupiter

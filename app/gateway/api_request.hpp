// Requests of OpenAI's API, as far as they say what to compute. Fields that are not known are ignored, as OpenAI's
// clients expect of a server that is older than they are; known ones of a wrong type or range are an error (400).
#pragma once

#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "app/gateway/http_server.hpp"
#include "app/gateway/tools.hpp"
#include "app/output_format.hpp"
#include "io/json_fields.hpp"
#include "io/tokenizer/chat_template.hpp"
#include "kernels/sampler.hpp"
#include "parallel/pipeline/frame.hpp"

namespace jupiter {

constexpr std::int64_t kMostChoices = 16;
constexpr std::size_t kMostBiases = 1024;
constexpr std::size_t kMostStops = 16;

// What chat and text completions share.
struct AnswerRequest {
  std::string model;
  bool stream = false;
  bool include_usage = false;  // a last event with the usage
  bool ignore_eos = false;
  std::int64_t choices = 1;
  std::int64_t max_tokens = 0;  // 0: to the end of the turn
  std::vector<std::string> stops;
  SamplingOptions sampling;
  std::vector<LogitBias> logit_bias;
  bool seed_given = false;
  GrammarSpec grammar;
  std::optional<ToolForm> calls_tools;  // an answer in this form calls tools
};

struct ChatRequest : AnswerRequest {
  bool outline = false;                                // an outline first, then its points at once
  std::vector<ChatMessage> messages;                   // of the role tool, too
  std::map<std::size_t, std::vector<ToolCall>> calls;  // of earlier answers, by the number of their message
  ToolUse tools;
};

struct TextRequest : AnswerRequest {
  // Texts (in which special tokens are parsed) or tokens: one prompt each.
  std::vector<std::string> texts;
  std::vector<std::vector<TokenId>> tokens;
  bool echo = false;
  std::size_t prompts() const { return texts.size() + tokens.size(); }
};

// A request's body, whose fields are looked up by name, and once more in their order, which matters in schemas.
struct RequestBody {
  JsonObject fields;
  nlohmann::ordered_json in_order;
};
// The body must be a JSON object in UTF-8. ApiError (400) otherwise, 415 for another content type.
RequestBody read_body(const httplib::Request& request);
RequestBody parse_body(const std::string& text);

// defaults: of sampling. ApiError, FormatError or UsageError where a field is wrong.
ChatRequest read_chat_request(const RequestBody& request, const SamplingOptions& defaults);
TextRequest read_text_request(const RequestBody& request, const SamplingOptions& defaults);

// A list of messages, whose contents are texts or lists of text parts, with the calls of tools in them.
void read_chat_messages(const JsonObject& body, ChatRequest& request);

}  // namespace jupiter

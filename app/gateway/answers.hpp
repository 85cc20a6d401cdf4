// Chat and text completions: from a request to prompts, from answers to OpenAI's objects and events.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "app/gateway/answer_reader.hpp"
#include "app/gateway/api_request.hpp"

namespace jupiter {

// What every handler works with.
struct GatewayContext {
  std::vector<std::string> model_names;  // at least one
  std::string fingerprint;               // of program and model; begins with "b", as llama-server's
  std::int64_t created = 0;
  std::int64_t context_tokens = 0;
  SamplingOptions sampling;  // of requests that do not say it
  std::chrono::seconds timeout{600};
  const Tokenizer* tokenizer = nullptr;
  const ChatTemplate* chat_template = nullptr;    // or none
  ReasoningForm reasoning = ReasoningForm::none;  // of chats
  bool hides_reasoning = false;
  Backend* backend = nullptr;
};

// The tokens of a conversation with the template; ApiError where there is none or a role does not suit it.
std::vector<TokenId> chat_tokens(const GatewayContext& context, const std::vector<ChatMessage>& messages);

// Tools, calls and their results become text, and the grammar of calls the answer's. ApiError as above.
void put_tools_into_prompt(const GatewayContext& context, ChatRequest& request);

void answer_chat(const GatewayContext& context, const httplib::Request& request, httplib::Response& response);
void answer_text(const GatewayContext& context, const httplib::Request& request, httplib::Response& response);

}  // namespace jupiter

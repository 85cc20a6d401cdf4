// How requests become completions, and completions OpenAI's objects.
#include "app/gateway/answers.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "app/gateway/outlined.hpp"
#include "app/gateway/reply.hpp"
#include "app/prompt.hpp"
#include "io/timer.hpp"

namespace jupiter {

namespace {

using nlohmann::ordered_json;
using std::chrono::milliseconds;

// A kind of completion: how its objects look.
struct Kind {
  const char* object;
  const char* event;
  const char* id_prefix;
  bool chat;
};
constexpr Kind kChat{"chat.completion", "chat.completion.chunk", "chatcmpl-", true};
constexpr Kind kText{"text_completion", "text_completion", "cmpl-", false};

// Bytes of a token as OpenAI lists them, and as text where they are one.
ordered_json token_json(const Tokenizer& tokenizer, TokenId token, double logprob) {
  const std::string_view piece = tokenizer.piece(token);
  ordered_json bytes = ordered_json::array();
  for (const char c : piece) bytes.push_back(static_cast<unsigned char>(c));
  return {{"token", std::string(piece)}, {"logprob", logprob}, {"bytes", bytes}};
}

ordered_json chat_logprobs(const Tokenizer& tokenizer, const std::vector<GivenToken>& tokens) {
  ordered_json content = ordered_json::array();
  for (const GivenToken& t : tokens) {
    ordered_json one = token_json(tokenizer, t.token, t.logprob);
    one["top_logprobs"] = ordered_json::array();
    for (const TokenLogprob& c : t.top) one["top_logprobs"].push_back(token_json(tokenizer, c.token, c.logprob));
    content.push_back(std::move(one));
  }
  return {{"content", content}, {"refusal", nullptr}};
}

ordered_json text_logprobs(const Tokenizer& tokenizer, const std::vector<GivenToken>& tokens, std::size_t& offset) {
  ordered_json j = {{"tokens", ordered_json::array()},
                    {"token_logprobs", ordered_json::array()},
                    {"top_logprobs", ordered_json::array()},
                    {"text_offset", ordered_json::array()}};
  for (const GivenToken& t : tokens) {
    ordered_json top = ordered_json::object();
    for (const TokenLogprob& c : t.top) top[std::string(tokenizer.piece(c.token))] = c.logprob;
    j["tokens"].push_back(std::string(tokenizer.piece(t.token)));
    j["token_logprobs"].push_back(t.logprob);
    j["top_logprobs"].push_back(std::move(top));
    j["text_offset"].push_back(offset);
    offset += tokenizer.piece(t.token).size();
  }
  return j;
}

// One of a request's answers.
struct Choice {
  AnswerReader reader;
  std::size_t prompt = 0;  // which one it answers
  std::string text;        // so far
  std::string reasoning;   // likewise
  std::vector<GivenToken> tokens;
  std::size_t offset = 0;  // of text_logprobs
  bool begun = false;      // an event was sent
  bool told_end = false;
  std::optional<ToolCallReader> tools = {};           // where it may call tools
  std::vector<ToolCallReader::Delta> new_calls = {};  // that no event told yet
};

// All answers to one request.
class Completion : public Reply {
 public:
  Completion(const GatewayContext& context, const Kind& kind, AnswerRequest request,
             std::vector<std::vector<TokenId>> prompts, std::vector<std::string> echoes)
      : context_(context),
        kind_(kind),
        request_(std::move(request)),
        echoes_(std::move(echoes)),
        head_(context, kind.id_prefix, request_.model) {
    for (std::size_t p = 0; p < prompts.size(); ++p) {
      prompt_tokens_ += std::ssize(prompts[p]);
      for (std::int64_t n = 0; n < request_.choices; ++n) start(prompts[p], p, static_cast<std::uint64_t>(n));
    }
  }

  bool wait_for_all() override {
    for (;;) {
      bool open = false;
      for (Choice& c : choices_) {
        if (c.reader.finished()) continue;
        take(c, kLook);
        open |= !c.reader.finished();
      }
      if (!open) return true;
      if (HttpServer::client_gone()) return false;
      check_time();
    }
  }

  ordered_json object() const override {
    ordered_json j = head(kind_.object);
    j["choices"] = ordered_json::array();
    for (std::size_t i = 0; i < choices_.size(); ++i) j["choices"].push_back(whole(i));
    j["usage"] = usage();
    j["timings"] = timings();
    return j;
  }

  std::string events(milliseconds limit) override {
    std::string text;
    try {
      for (std::size_t i = 0; i < choices_.size(); ++i) {
        Choice& c = choices_[i];
        if (c.told_end) continue;
        const AnswerPiece piece = take(c, limit);
        text += events_of(i, piece);
        if (!text.empty()) limit = milliseconds{0};
      }
      check_time();
    } catch (const ApiError& e) {
      done_ = true;
      return text + event_text(error_object(e)) + kLastEvent;
    }
    if (std::all_of(choices_.begin(), choices_.end(), [](const Choice& c) { return c.told_end; })) {
      if (request_.include_usage) {
        ordered_json j = head(kind_.event);
        j["choices"] = ordered_json::array();
        j["usage"] = usage();
        j["timings"] = timings();
        text += event_text(j);
      }
      text += kLastEvent;
      done_ = true;
    }
    return text;
  }
  bool done() const override { return done_; }

 private:
  void start(const std::vector<TokenId>& prompt, std::size_t which, std::uint64_t n) {
    GenerationSpec spec;
    spec.prompt = prompt;
    spec.max_new_tokens = request_.max_tokens;
    spec.sampling = request_.sampling;
    spec.logit_bias = request_.logit_bias;
    spec.grammar = request_.grammar;
    // Drawn here, not on the ranks: what a board computes again has the same numbers.
    if (!request_.seed_given && request_.sampling.temperature > 0) spec.sampling.seed = random_seed();
    spec.sampling.seed += n;
    if (!request_.ignore_eos) spec.end_tokens = context_.tokenizer->data().end_of_turn;
    const ReasoningForm form = kind_.chat ? context_.reasoning : ReasoningForm::none;
    const bool thinking = kind_.chat && context_.chat_template->opens_thinking();
    choices_.push_back({AnswerReader(*context_.backend, submit_or_refuse(*context_.backend, std::move(spec)),
                                     *context_.tokenizer, request_.stops, form, thinking),
                        which,
                        "",
                        "",
                        {}});
    if (request_.calls_tools) choices_.back().tools.emplace(*request_.calls_tools);
  }

  AnswerPiece take(Choice& c, milliseconds limit) {
    AnswerPiece piece = c.reader.next(limit);
    if (context_.hides_reasoning) piece.reasoning.clear();
    c.reasoning += piece.reasoning;
    if (c.tools) take_calls(c, piece);
    c.text += piece.text;
    c.tokens.insert(c.tokens.end(), piece.tokens.begin(), piece.tokens.end());
    if (c.reader.finished()) check_end(*context_.backend, c.reader.end());
    return piece;
  }

  // What belongs to a call is no content.
  static void take_calls(Choice& c, AnswerPiece& piece) {
    ToolCallReader::Piece read = c.tools->push(piece.text);
    if (c.reader.finished()) read.content += c.tools->finish().content;
    piece.text = std::move(read.content);
    c.new_calls.insert(c.new_calls.end(), read.calls.begin(), read.calls.end());
  }

  // An id that the same request gets again: of the prompt's length, the seed and the place in the answer.
  std::string call_id(std::size_t i, std::size_t call) const {
    return fmt::format("call_{:x}_{}_{}_{}", request_.sampling.seed, prompt_tokens_, i, call);
  }

  ordered_json call_json(std::size_t i, std::size_t call, const std::string& name, const std::string& arguments) const {
    return {{"id", call_id(i, call)}, {"type", "function"}, {"function", {{"name", name}, {"arguments", arguments}}}};
  }

  const char* finish_reason(const Choice& c) const {
    const std::string_view reason = c.reader.finish_reason();
    const bool calls = c.tools && !c.tools->calls().empty() && reason == "stop";
    return calls ? "tool_calls" : c.reader.finish_reason();
  }

  ordered_json call_delta(std::size_t i, const ToolCallReader::Delta& d) const {
    ordered_json call = {{"index", d.index}};
    if (!d.name.empty()) {
      call.update(call_json(i, d.index, d.name, ""));
    } else {
      call["function"] = {{"arguments", d.arguments}};
    }
    return {{"tool_calls", ordered_json::array({call})}};
  }

  void check_time() const { jupiter::check_time(context_, start_); }

  ordered_json head(const char* object) const { return head_.object(context_, object); }

  void add_calls(std::size_t i, ordered_json& message) const {
    const std::vector<ToolCall>& calls = choices_[i].tools->calls();
    if (choices_[i].text.empty()) message["content"] = nullptr;
    message["tool_calls"] = ordered_json::array();
    for (std::size_t k = 0; k < calls.size(); ++k) {
      message["tool_calls"].push_back(call_json(i, k, calls[k].name, calls[k].arguments));
    }
  }

  ordered_json whole(std::size_t i) const {
    const Choice& c = choices_[i];
    ordered_json j = {{"index", i}};
    if (kind_.chat) {
      j["message"] = {{"role", "assistant"}, {"content", c.text}, {"refusal", nullptr}};
      if (!c.reasoning.empty()) j["message"]["reasoning_content"] = c.reasoning;
      if (c.tools && !c.tools->calls().empty()) add_calls(i, j["message"]);
    } else {
      j["text"] = echoes_[c.prompt] + c.text;
    }
    j["logprobs"] = nullptr;
    std::size_t offset = echoes_[c.prompt].size();
    if (request_.sampling.top_logprobs >= 0) {
      j["logprobs"] = kind_.chat ? chat_logprobs(*context_.tokenizer, c.tokens)
                                 : text_logprobs(*context_.tokenizer, c.tokens, offset);
    }
    j["finish_reason"] = finish_reason(c);
    return j;
  }

  ordered_json event(std::size_t i, ordered_json delta, const ordered_json& finish) const {
    ordered_json j = head(kind_.event);
    ordered_json choice = {{"index", i}};
    if (kind_.chat) {
      choice["delta"] = std::move(delta);
    } else {
      choice["text"] = delta.value("content", "");
    }
    choice["logprobs"] = nullptr;
    choice["finish_reason"] = finish;
    j["choices"] = ordered_json::array({choice});
    if (request_.include_usage) j["usage"] = nullptr;
    return j;
  }

  std::string events_of(std::size_t i, const AnswerPiece& piece) {
    Choice& c = choices_[i];
    std::string text;
    if (!std::exchange(c.begun, true)) {
      if (kind_.chat) {
        text += event_text(event(i, {{"role", "assistant"}, {"content", ""}}, nullptr));
      } else if (!echoes_[c.prompt].empty()) {
        text += event_text(event(i, {{"content", echoes_[c.prompt]}}, nullptr));
      }
    }
    if (!piece.reasoning.empty()) text += event_text(event(i, {{"reasoning_content", piece.reasoning}}, nullptr));
    if (!piece.text.empty() || (!piece.tokens.empty() && request_.sampling.top_logprobs >= 0)) {
      ordered_json j = event(i, {{"content", piece.text}}, nullptr);
      if (request_.sampling.top_logprobs >= 0) {
        j["choices"][0]["logprobs"] = kind_.chat ? chat_logprobs(*context_.tokenizer, piece.tokens)
                                                 : text_logprobs(*context_.tokenizer, piece.tokens, c.offset);
      }
      text += event_text(j);
    }
    for (const ToolCallReader::Delta& d : std::exchange(c.new_calls, {})) {
      text += event_text(event(i, call_delta(i, d), nullptr));
    }
    if (c.reader.finished()) {
      c.told_end = true;
      text += event_text(event(i, ordered_json::object(), finish_reason(c)));
    }
    return text;
  }

  ordered_json usage() const {
    std::int64_t made = 0, cached = 0, reasoning = 0;
    for (const Choice& c : choices_) {
      made += c.reader.tokens();
      reasoning += c.reader.reasoning_tokens();
      cached = std::max(cached, c.reader.end().times.shared_tokens);
    }
    return {{"prompt_tokens", prompt_tokens_},
            {"completion_tokens", made},
            {"total_tokens", prompt_tokens_ + made},
            {"prompt_tokens_details", {{"cached_tokens", cached}}},
            {"completion_tokens_details", {{"reasoning_tokens", reasoning}}}};
  }

  // llama-server's names.
  ordered_json timings() const {
    const GenerationTimes& t = choices_.front().reader.end().times;
    const auto tokens = static_cast<double>(choices_.front().reader.tokens());
    const double prompt_s = t.first_token_s, rest_s = std::max(t.total_s - t.first_token_s, 0.0);
    const auto rate = [](double n, double s) { return s > 0 ? n / s : 0; };
    return {{"cache_n", t.shared_tokens},
            {"prompt_n", t.prompt_tokens},
            {"prompt_ms", prompt_s * 1e3},
            {"prompt_per_second", rate(static_cast<double>(t.prompt_tokens), prompt_s)},
            {"predicted_n", tokens},
            {"predicted_ms", rest_s * 1e3},
            {"predicted_per_second", rate(std::max(tokens - 1, 0.0), rest_s)},
            {"draft_n", t.drafted},
            {"draft_n_accepted", t.accepted}};
  }

  const GatewayContext& context_;
  const Kind& kind_;
  AnswerRequest request_;
  std::vector<std::string> echoes_;  // by prompt
  ReplyHead head_;
  std::int64_t prompt_tokens_ = 0;
  Clock::time_point start_ = Clock::now();
  std::vector<Choice> choices_;
  bool done_ = false;
};

void check_model(const GatewayContext& context, const AnswerRequest& r) {
  const std::vector<std::string>& names = context.model_names;
  if (r.model.empty() || std::find(names.begin(), names.end(), r.model) != names.end()) return;
  throw ApiError(404, "not_found_error",
                 "model: expected " + names.front() + " (see /v1/models), found " + json_text(r.model), "model");
}

ApiError too_long(std::int64_t prompt_tokens, std::int64_t context_tokens) {
  ApiError e(400, "exceed_context_size_error",
             "prompt: expected fewer than " + std::to_string(context_tokens) + " tokens (the context), found " +
                 std::to_string(prompt_tokens));
  e.figures = {{"n_prompt_tokens", prompt_tokens}, {"n_ctx", context_tokens}};
  return e;
}

void check_length(const GatewayContext& context, const std::vector<TokenId>& prompt) {
  if (prompt.empty()) throw bad_request("prompt: expected at least one token, found none");
  if (std::ssize(prompt) < context.context_tokens) return;
  throw too_long(std::ssize(prompt), context.context_tokens);
}

}  // namespace

std::vector<TokenId> chat_tokens(const GatewayContext& context, const std::vector<ChatMessage>& messages) {
  if (context.chat_template == nullptr) {
    throw bad_request("messages: expected a model with a known chat template (use /v1/completions)", "messages");
  }
  return encode_segments(*context.tokenizer, context.chat_template->render(messages, true));
}

void put_tools_into_prompt(const GatewayContext& context, ChatRequest& r) {
  const auto is_result = [](const ChatMessage& m) { return m.role == "tool"; };
  const bool any =
      !r.tools.tools.empty() || !r.calls.empty() || std::any_of(r.messages.begin(), r.messages.end(), is_result);
  if (!any || context.chat_template == nullptr) return;  // chat_tokens() says that there is no template
  r.messages = with_tools(r.messages, r.calls, r.tools, *context.chat_template);
  if (r.tools.choice == ToolChoice::none) return;
  r.calls_tools = tool_form(*context.chat_template);
  r.grammar = tool_grammar(r.tools, *r.calls_tools);
}

void answer_chat(const GatewayContext& context, const httplib::Request& request, httplib::Response& response) {
  ChatRequest r = read_chat_request(read_body(request), context.sampling);
  check_model(context, r);
  put_tools_into_prompt(context, r);
  std::vector<TokenId> prompt = chat_tokens(context, r.messages);
  check_length(context, prompt);
  const bool stream = r.stream;
  if (r.outline) return respond(outlined_reply(context, std::move(r), std::move(prompt)), stream, response);
  respond(
      std::make_shared<Completion>(context, kChat, std::move(r), std::vector<std::vector<TokenId>>{std::move(prompt)},
                                   std::vector<std::string>{""}),
      stream, response);
}

void answer_text(const GatewayContext& context, const httplib::Request& request, httplib::Response& response) {
  TextRequest r = read_text_request(read_body(request), context.sampling);
  check_model(context, r);
  std::vector<std::vector<TokenId>> prompts = r.tokens;
  for (const std::string& text : r.texts) prompts.push_back(encode_segments(*context.tokenizer, {{text, true}}));
  std::vector<std::string> echoes;
  for (const auto& prompt : prompts) {
    check_length(context, prompt);
    for (const TokenId t : prompt) {
      if (t < context.tokenizer->vocab_size()) continue;
      throw bad_request("prompt: expected tokens below " + std::to_string(context.tokenizer->vocab_size()) +
                            ", found " + std::to_string(t),
                        "prompt");
    }
    echoes.push_back(r.echo ? context.tokenizer->decode(prompt) : "");
  }
  const bool stream = r.stream;
  respond(std::make_shared<Completion>(context, kText, std::move(r), std::move(prompts), std::move(echoes)), stream,
          response);
}

}  // namespace jupiter

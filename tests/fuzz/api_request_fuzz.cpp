// Bodies of HTTP requests: chat, text, tools. What is accepted can be written into a prompt and sent to the ranks.
#include "app/gateway/api_request.hpp"
#include "app/gateway/generation.hpp"
#include "fuzz_target.hpp"

namespace jupiter::fuzz {
namespace {

void check_shared(const AnswerRequest& r) {
  expect(r.choices >= 1 && r.choices <= kMostChoices, "a number of answers outside its range");
  expect(r.max_tokens >= 0, "a negative length");
  expect(r.stops.size() <= kMostStops && r.logit_bias.size() <= kMostBiases, "too many stop strings or biases");
  for (const LogitBias& b : r.logit_bias) expect(b.token >= 0, "a bias of no token");
}

void check_chat(const RequestBody& body) {
  ChatRequest r = read_chat_request(body, {});
  check_shared(r);
  for (const char* name : {"chatml", "llama3"}) {
    const ChatTemplate t = *ChatTemplate::from_name(name);
    const auto messages = with_tools(r.messages, r.calls, r.tools, t);
    accepted([&] { t.render(messages, true); });
    accepted([&] { tool_grammar(r.tools, tool_form(t)); });
  }
}

void check_text(const RequestBody& body) {
  const TextRequest r = read_text_request(body, {});
  check_shared(r);
  GenerationSpec spec;
  spec.id = 1;
  if (!r.tokens.empty()) spec.prompt = r.tokens.front();
  spec.sampling = r.sampling;
  spec.logit_bias = r.logit_bias;
  spec.grammar = r.grammar;
  const nlohmann::json line = to_line(spec);
  expect(accepted([&] { expect(to_line(spec_of(line)) == line, "a request changes on its way"); }),
         "the ranks refuse what the gateway accepts");
}

// ApiError is the other way to refuse a request.
template <typename F>
void accepted_or_told(const F& f) {
  try {
    accepted(f);
  } catch (const ApiError& e) {
    expect(e.status >= 400 && e.status < 500, "a request that is wrong is the server's fault");
    error_object(e);
  }
}

const Target target("api_request",
                    [](Input input) {
                      const std::string text(as_text(input));
                      httplib::Request request;
                      request.body = text;
                      accepted_or_told([&] {
                        const RequestBody body = read_body(request);
                        accepted_or_told([&] { check_chat(body); });
                        accepted_or_told([&] { check_text(body); });
                      });
                    },
                    {.times_input = 64, .floor_bytes = 8 << 20});

}  // namespace
}  // namespace jupiter::fuzz

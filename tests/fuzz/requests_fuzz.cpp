// Requests of a batch, and the answers of an earlier one that --resume reads.
#include "app/baseline.hpp"
#include "app/eval_inputs.hpp"
#include "app/request_file.hpp"
#include "fuzz_target.hpp"

namespace jupiter::fuzz {
namespace {

void check_requests(const std::string& text) {
  BatchRequest defaults;
  defaults.answered = text.size() % 2 != 0;
  for (const BatchRequest& r : read_requests(text, "requests.jsonl", defaults)) {
    if (!r.fault.empty()) continue;
    expect(!r.id.empty(), "a request without an id");
    expect(r.prompt.empty() != r.messages.empty(), "a request without a prompt, or with two");
    expect(r.max_tokens >= 0 && r.max_tokens <= kMostTokens, "a length outside its range");
    expect(r.sampling.temperature >= 0 && r.sampling.temperature <= 100, "a temperature outside its range");
    for (const std::string& stop : r.stops) expect(!stop.empty(), "an empty stop string");
  }
}

// Reading it again finds the same answers.
void check_answers(Input text) {
  const MemoryFile file(text);
  const AnswerFile first(file.path(), true, "0123", "");
  const AnswerFile second(file.path(), true, "0123", "");
  expect(first.done() == second.done() && first.failed() == second.failed(), "answers change when they are read");
}

const Target target("requests",
                    [](Input input) {
                      Pieces pieces(input);
                      const std::size_t kind = pieces.byte() % 5;
                      const Input rest = pieces.rest();
                      const std::string text(as_text(rest));
                      accepted([&] {
                        switch (kind) {
                          case 0:
                            return check_requests(text);
                          case 1:
                            return check_answers(rest);
                          case 2:
                            return (void)parse_golden({"golden.jsonl", text});
                          case 3:
                            return (void)parse_choices({"choices.jsonl", text});
                          default:
                            return (void)Baseline(text, "baseline.json");
                        }
                      });
                    },
                    {.times_input = 64, .floor_bytes = 4 << 20});

}  // namespace
}  // namespace jupiter::fuzz

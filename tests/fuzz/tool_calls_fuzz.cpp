// Answers that may call tools, and stop strings: what is shown and which calls there are does not depend on how the
// text comes in pieces.
#include "app/gateway/tools.hpp"
#include "app/stop_strings.hpp"
#include "fuzz_target.hpp"

namespace jupiter::fuzz {
namespace {

struct Answer {
  std::string content;
  std::vector<std::string> names, arguments;
  bool operator==(const Answer&) const = default;
};

void add(Answer& answer, const ToolCallReader::Piece& piece) {
  answer.content += piece.content;
  for (const ToolCallReader::Delta& d : piece.calls) {
    if (d.index >= answer.names.size()) {
      expect(d.index == answer.names.size(), "a call is left out");
      answer.names.push_back(d.name);
      answer.arguments.emplace_back();
    }
    answer.arguments[d.index] += d.arguments;
  }
}

// lengths: of the pieces, again and again; empty: all at once.
Answer read(std::string_view text, ToolForm form, const std::vector<std::size_t>& lengths) {
  ToolCallReader reader(form);
  Answer answer;
  std::size_t at = 0;
  for (std::size_t i = 0; at < text.size(); ++i) {
    const std::size_t length = lengths.empty() ? text.size() : lengths[i % lengths.size()];
    add(answer, reader.push(text.substr(at, length)));
    at += std::min(length, text.size() - at);
  }
  add(answer, reader.finish());
  expect(reader.calls().size() == answer.names.size(), "a call was not told");
  return answer;
}

std::string shown(std::string_view text, const std::vector<std::string>& stops, std::size_t length) {
  StopStrings reader(stops);
  std::string out;
  for (std::size_t at = 0; at < text.size() && !reader.found(); at += length)
    out += reader.push(text.substr(at, length));
  if (!reader.found()) out += reader.finish();
  for (const std::string& stop : stops) expect(out.find(stop) == std::string::npos, "a stop string is shown");
  return out;
}

const Target target("tool_calls",
                    [](Input input) {
                      Pieces pieces(input);
                      const ToolForm form = pieces.byte() % 2 == 0 ? ToolForm::tagged : ToolForm::llama3;
                      std::vector<std::size_t> lengths;
                      for (int i = 0; i < 4; ++i) lengths.push_back(1 + pieces.byte() % 16);
                      const std::string_view text = as_text(pieces.rest());
                      const Answer whole = read(text, form, {});
                      expect(read(text, form, {1}) == whole, "an answer in single bytes is another one");
                      expect(read(text, form, lengths) == whole, "an answer in pieces is another one");
                      const std::vector<std::string> stops = {"ab", "</tool_call>", "aab", "\n\n"};
                      const std::string all = shown(text, stops, std::max<std::size_t>(text.size(), 1));
                      for (const std::size_t length : lengths)
                        expect(shown(text, stops, length) == all, "pieces show another text");
                    },
                    {.times_input = 16, .floor_bytes = 1 << 20});

}  // namespace
}  // namespace jupiter::fuzz

// The Jinja text of a chat template, recognised or not; a conversation through the template. What people wrote stays in
// ordinary segments.
#include "fuzz_target.hpp"
#include "io/tokenizer/chat_template.hpp"
#include "io/tokenizer/generation_prompt.hpp"

namespace jupiter::fuzz {
namespace {

std::string text_of(const std::vector<PromptSegment>& segments) {
  std::string text;
  for (const PromptSegment& s : segments) text += s.text;
  return text;
}

void check_conversation(const ChatTemplate& t, std::string_view words) {
  const std::string content(words);
  const std::vector<ChatMessage> messages = {
      {"system", content}, {"user", content}, {"assistant", content}, {"user", "b" + content + "e"}};
  const auto all = t.render(messages, true);
  std::size_t ordinary = 0;
  for (const PromptSegment& s : all) ordinary += s.special ? 0 : 1;
  expect(ordinary == messages.size(), "a message stands in no segment of its own");
  const std::string before = text_of(t.render({messages.begin(), messages.end() - 1}, false));
  expect(text_of(all).starts_with(before), "a turn changes what stands before it");
  t.render_turn(messages, 3, true);
  t.render_turn(messages, 3, false);
}

const Target target("chat_template", [](Input input) {
  Pieces parts(input);
  const std::string_view eos = parts.part('\n'), jinja = as_text(parts.rest());
  generation_prompt(jinja);
  if (const auto t = ChatTemplate::recognise(jinja, eos)) check_conversation(*t, jinja.substr(0, 50));
});

}  // namespace
}  // namespace jupiter::fuzz

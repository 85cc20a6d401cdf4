// The known chat templates: how messages become the text that a model was trained on.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "io/tokenizer/tokenizer.hpp"

namespace jupiter {

struct ChatMessage {
  std::string role;  // system (first only), user, assistant, or tool where the template knows it (llama3)
  std::string content;
};

class ChatTemplate {
 public:
  // From the Jinja text that a model carries; `eos` is the text of its end-of-sequence token. Empty: unknown, also
  // where the text that opens the reply is not what we would write (ChatML's may go on, as with <think>: it is taken
  // over).
  static std::optional<ChatTemplate> recognise(std::string_view jinja, std::string_view eos = "</s>");
  static std::optional<ChatTemplate> from_name(std::string_view name);
  static std::string names();  // "chatml, llama2, ...": for help and messages

  const std::string& name() const { return name_; }
  // Whether a prompt ends inside of the reply's thinking (io/tokenizer/reasoning.hpp).
  bool opens_thinking() const;
  // Used where a conversation has no system message; maybe empty.
  const std::string& default_system() const { return default_system_; }

  // The whole conversation, without bos. Templates' parts are special segments, what people wrote is not.
  // Throws UsageError on an unknown role or a system message that is not the first.
  std::vector<PromptSegment> render(const std::vector<ChatMessage>& messages, bool add_generation_prompt) const;

  // What follows a reply that is in the KV cache as it was generated: messages[from - 1] is that reply,
  // messages[from...] are new; the generation prompt is added. reply_ended: the model produced its end-of-turn token,
  // and that token is in the cache too. Appending the tokens of this keeps every earlier token, which render() would
  // not promise.
  std::vector<PromptSegment> render_turn(const std::vector<ChatMessage>& messages, std::size_t from,
                                         bool reply_ended) const;

 private:
  struct Turn {
    std::string before;
    std::string after;
  };
  friend struct ChatTemplateTable;
  std::string content_of(const ChatMessage& message) const;
  void add_message(const ChatMessage& message, bool first_user, std::vector<PromptSegment>& out) const;

  std::string name_;
  std::string opening_;  // what every conversation begins with
  Turn system_, user_;
  Turn tool_;                     // results of tools; empty: the template has no such role
  std::string assistant_before_;  // of a reply in the history
  std::string assistant_end_;     // the reply's end, up to and with its end-of-turn token
  std::string assistant_after_;   // what follows that token
  std::string generation_prompt_;
  std::string later_user_before_;  // put before every user turn but the first
  std::string system_preamble_;    // fixed text that the template itself puts before the system message
  std::string default_system_;
  bool system_inside_user_ = false;  // the system message stands inside the first user turn
  bool trim_ = false;                // white space around contents is dropped
  bool trim_start_ = false;          // white space before contents is dropped
};

// All segments as tokens; bos in front where the tokenizer asks for it and `first` (the start of a sequence).
std::vector<TokenId> encode_segments(const Tokenizer& tokenizer, const std::vector<PromptSegment>& segments,
                                     bool first = true);

}  // namespace jupiter

// Rank 0's side of `run`: options, the prompt, and the conversation as tokens.
#pragma once

#include "app/engine.hpp"
#include "app/prompt.hpp"
#include "parallel/outline.hpp"

namespace jupiter {

enum class OutlineUse : std::uint8_t { never, when_it_suits, always };

struct RunOptions {
  EngineOptions engine;
  SamplingOptions sampling;
  std::optional<std::string> prompt;
  std::optional<std::string> prompt_file;
  std::optional<std::string> system;
  std::string template_name;
  std::vector<std::string> stops;
  std::string json_file;
  std::string trace_file;
  OutlineUse outline = OutlineUse::never;
  OutlineOptions outline_options;
  std::string outline_file;
  bool stats = false;
  std::int64_t max_new_tokens = 0;
  bool ignore_eos = false;
  bool raw = false;
  bool chat = false;
};

// The prompt from where the options say; Error where it is not UTF-8.
std::string read_prompt(const RunOptions& options);

class Frontend {
 public:
  Frontend(const RunOptions& options, const Manifest& manifest);

  const Tokenizer& tokenizer() const { return tokenizer_; }
  const ChatTemplate& chat_template() const { return *template_; }  // not with --raw
  const std::vector<TokenId>& tokens() const { return tokens_; }
  const std::string& last_turn() const { return messages_.back().content; }

  // The tokens of the conversation with this turn; UsageError where it is empty or too long.
  void add_user_turn(const std::string& text);
  void add_reply(const Generated& reply, const std::string& text);

 private:
  const RunOptions& options_;
  Tokenizer tokenizer_;
  std::int64_t context_tokens_;
  std::optional<ChatTemplate> template_;
  std::vector<ChatMessage> messages_;
  std::vector<TokenId> tokens_;
  bool reply_ended_ = true;
};

}  // namespace jupiter

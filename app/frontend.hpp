// Rank 0's side of `run`: options, the prompt, and the conversation as tokens.
#pragma once

#include "app/engine.hpp"
#include "app/output_format.hpp"
#include "app/prompt.hpp"
#include "parallel/outline/outline.hpp"

namespace jupiter {

enum class OutlineUse : std::uint8_t { never, when_it_suits, always };

struct RunOptions {
  void declare(OptionSet& options);
  void check(const OptionSet& options);  // CollectiveError (usage) where options contradict each other

  EngineOptions engine;
  SamplingOptions sampling;
  TextOptions text;
  std::optional<std::string> prompt;
  std::optional<std::string> prompt_file;
  std::optional<std::string> system;
  std::vector<std::string> stops;
  ReasoningUse reasoning = ReasoningUse::show;
  std::string grammar_file, schema_file;
  GrammarSpec grammar;  // of one of these files, on rank 0
  std::string json_file;
  std::string trace_file;
  OutlineUse outline = OutlineUse::never;
  OutlineOptions outline_options;
  std::string outline_file;
  bool stats = false;
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

  // Adds a turn. A conversation that leaves less than a quarter of the context for the answer (or less than -n, where
  // that is smaller) loses its oldest questions and answers until it takes half of the context at most; the system
  // message stays. UsageError, and nothing changed, where the text is empty or by itself longer than the context.
  void add_user_turn(const std::string& text);
  void add_reply(const Generated& reply, const std::string& text);
  // Whether any turn was left out so far.
  bool has_forgotten() const { return has_forgotten_; }

 private:
  // A conversation that ends with a user's turn, all of it as tokens.
  struct Conversation {
    std::vector<ChatMessage> messages;
    std::vector<TokenId> tokens;
    bool has_forgotten = false;  // turns, to make room for this one
  };
  Conversation with_turn(const std::string& text) const;
  void forget_oldest(Conversation& c) const;
  std::int64_t answer_room() const;
  const RunOptions& options_;
  Tokenizer tokenizer_;
  std::int64_t context_tokens_;
  std::optional<ChatTemplate> template_;
  std::vector<ChatMessage> messages_;
  std::vector<TokenId> tokens_;
  bool reply_ended_ = true;
  bool has_forgotten_ = false;
};

}  // namespace jupiter

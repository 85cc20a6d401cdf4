// What a user wrote, turned into tokens turn by turn.
#include "app/frontend.hpp"

#include <fmt/format.h>

#include <iostream>
#include <iterator>

#include "io/files.hpp"
#include "io/progress.hpp"

namespace jupiter {

std::string read_prompt(const RunOptions& o) {
  if (o.prompt) {
    check_utf8(*o.prompt, "-p", ExitCode::usage);
    return *o.prompt;
  }
  if (o.prompt_file) {
    std::string text = read_file(*o.prompt_file, 1 << 30);
    check_utf8(text, *o.prompt_file, ExitCode::invalid_file);
    return text;
  }
  if (is_terminal(Stream::in)) throw UsageError("expected a prompt: -p TEXT, -f FILE, standard input, or --chat");
  std::string text{std::istreambuf_iterator<char>(std::cin), {}};
  check_utf8(text, "standard input", ExitCode::invalid_file);
  return text;
}

Frontend::Frontend(const RunOptions& options, const Manifest& manifest)
    : options_(options),
      tokenizer_(load_tokenizer(options.engine.model, manifest, options.engine.verify)),
      context_tokens_(options.engine.context_tokens > 0 ? options.engine.context_tokens : manifest.config.max_seq_len) {
  if (!options.text.raw) template_ = choose_template(tokenizer_, options.text.template_name);
  if (options.system && !options.text.raw) messages_.push_back({"system", *options.system});
  if (!options.chat || options.prompt) add_user_turn(read_prompt(options));
}

Frontend::Conversation Frontend::with_turn(const std::string& text) const {
  if (options_.text.raw) return {{}, encode_segments(tokenizer_, {{text, true}})};
  Conversation c{messages_, tokens_};
  c.messages.push_back({"user", text});
  const std::vector<TokenId> added =
      tokens_.empty()
          ? encode_segments(tokenizer_, template_->render(c.messages, true))
          : encode_segments(tokenizer_, template_->render_turn(c.messages, c.messages.size() - 1, reply_ended_), false);
  c.tokens.insert(c.tokens.end(), added.begin(), added.end());
  return c;
}

// Tokens of the context that a turn leaves for its answer at least, where the conversation can give way.
std::int64_t Frontend::answer_room() const {
  const std::int64_t quarter = context_tokens_ / 4;
  const std::int64_t most = options_.text.most_new_tokens();
  return most > 0 ? std::min(most, quarter) : quarter;
}

// Half of the context, not just enough: what is left has to be computed again from where the gap is.
void Frontend::forget_oldest(Conversation& c) const {
  const std::size_t first = c.messages.front().role == "system" ? 1 : 0;
  while (c.messages.size() > first + 1 && std::ssize(c.tokens) > context_tokens_ / 2) {
    const auto oldest = c.messages.begin() + static_cast<std::ptrdiff_t>(first);
    c.messages.erase(oldest, oldest + 2);  // a question and its answer
    c.tokens = encode_segments(tokenizer_, template_->render(c.messages, true));
    c.has_forgotten = true;
  }
}

void Frontend::add_user_turn(const std::string& text) {
  if (text.empty()) throw UsageError("prompt: expected a text, found nothing");
  Conversation c = with_turn(text);
  if (options_.chat && std::ssize(c.tokens) + answer_room() > context_tokens_) forget_oldest(c);
  if (std::ssize(c.tokens) > context_tokens_) {
    throw UsageError(fmt::format("prompt: expected at most {} tokens (the context, -c), found {}", context_tokens_,
                                 c.tokens.size()));
  }
  has_forgotten_ |= c.has_forgotten;
  messages_ = std::move(c.messages);
  tokens_ = std::move(c.tokens);
}

void Frontend::add_reply(const Generated& reply, const std::string& text) {
  tokens_.insert(tokens_.end(), reply.tokens.begin(), reply.tokens.end());
  messages_.push_back({"assistant", text});
  reply_ended_ = !reply.tokens.empty() && tokenizer_.is_end(reply.tokens.back());
}

}  // namespace jupiter

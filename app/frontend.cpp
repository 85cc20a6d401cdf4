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
  if (!options.raw) template_ = choose_template(tokenizer_, options.template_name);
  if (options.system && !options.raw) messages_.push_back({"system", *options.system});
  if (!options.chat || options.prompt) add_user_turn(read_prompt(options));
}

void Frontend::add_user_turn(const std::string& text) {
  if (text.empty()) throw UsageError("prompt: expected a text, found nothing");
  std::vector<TokenId> added;
  if (options_.raw) {
    added = encode_segments(tokenizer_, {{text, true}});
  } else {
    messages_.push_back({"user", text});
    added =
        tokens_.empty()
            ? encode_segments(tokenizer_, template_->render(messages_, true))
            : encode_segments(tokenizer_, template_->render_turn(messages_, messages_.size() - 1, reply_ended_), false);
  }
  tokens_.insert(tokens_.end(), added.begin(), added.end());
  if (static_cast<std::int64_t>(tokens_.size()) > context_tokens_) {
    throw UsageError(
        fmt::format("prompt: expected at most {} tokens (the context, -c), found {}", context_tokens_, tokens_.size()));
  }
}

void Frontend::add_reply(const Generated& reply, const std::string& text) {
  tokens_.insert(tokens_.end(), reply.tokens.begin(), reply.tokens.end());
  messages_.push_back({"assistant", text});
  reply_ended_ = !reply.tokens.empty() && tokenizer_.is_end(reply.tokens.back());
}

}  // namespace jupiter

// Prompts are given, or the model invents them: it goes on from an empty turn of the user.
#include "app/draft_answers.hpp"

#include <fmt/format.h>

#include <fstream>
#include <iostream>

#include "io/files.hpp"
#include "io/hash.hpp"
#include "io/json_fields.hpp"

namespace jupiter {

namespace {

constexpr std::size_t kWaiting = 64;             // requests that are prepared ahead
constexpr std::int64_t kQuestionTokens = 64;     // of a prompt that the model invents
constexpr std::size_t kTextStretch = 512;        // of a text that the head learns from, tokens
constexpr std::int64_t kMaxTokens = 16'000'000;  // counted at most: memory is 20 bytes a token

// The template's text in front of what a user writes.
std::vector<PromptSegment> before_user(const ChatTemplate& chat) {
  const std::string mark = "\x01";
  std::vector<PromptSegment> before;
  for (PromptSegment s : chat.render({{"user", mark}}, true)) {
    const auto at = s.text.find(mark);
    if (at != std::string::npos) s.text.resize(at);
    if (!s.text.empty()) before.push_back(s);
    if (at != std::string::npos) break;
  }
  return before;
}

}  // namespace

DraftAnswers::DraftAnswers(const TrainOptions& options, const Manifest& manifest)
    : options_(options),
      manifest_(manifest),
      tokenizer_(load_tokenizer(options.engine.model, manifest, options.engine.verify)) {
  check_outputs({options.output}, {options.input, options.engine.plan});
  if (!options.raw) template_ = choose_template(tokenizer_, options.template_name);
  if (options.input.empty()) {
    total_ = static_cast<std::size_t>(options.self);
    made_from_ = fmt::format("self: seed {}, {} tokens", options.seed, options.answer_tokens);
  } else {
    read_input();
  }
  if (total_ > 0) checkpoint_.emplace(options.checkpoint(), true, hex(manifest.hash), options.input);
}

ExitCode DraftAnswers::run(Scheduler& scheduler) {
  ProgressBar bar("train-draft", "answers");
  while (next_ < total_ && interrupted_by() == ExitCode::ok) {
    feed(scheduler, bar);
    scheduler.run();
  }
  if (interrupted_by() != ExitCode::ok && total_ > 0) {
    std::cerr << fmt::format("train-draft: {} answers are kept, {} in progress are lost; the same command goes on\n",
                             done_, lost_);
  }
  return interrupted_by();
}

void DraftAnswers::read_input() {
  const std::string text = read_file(options_.input, std::uint64_t{1} << 30);
  made_from_ = hex(hash_bytes(text));
  if (options_.input.ends_with(".jsonl")) {
    BatchRequest defaults;
    defaults.answered = true;
    requests_ = read_requests(text, options_.input, defaults);
    for (const BatchRequest& r : requests_) {
      if (!r.fault.empty()) throw FormatError(r.fault);
    }
    total_ = requests_.size();
    return;
  }
  check_utf8(text, options_.input, ExitCode::invalid_file);
  text_ = tokenizer_.encode(text, options_.raw);
  text_.resize(std::min(text_.size(), static_cast<std::size_t>(kMaxTokens)));
}

std::string DraftAnswers::id_of(std::size_t i) const {
  return fmt::format("{} #{}", made_from_, i);
}

void DraftAnswers::feed(Scheduler& scheduler, ProgressBar& bar) {
  for (; next_ < total_ && scheduler.waiting() < kWaiting && interrupted_by() == ExitCode::ok; ++next_) {
    if (checkpoint_->done().contains(nlohmann::json(id_of(next_)).dump())) {
      ++done_;
    } else if (requests_.empty()) {
      invent(scheduler, bar, next_);
    } else if (requests_[next_].answered) {
      keep_given(next_);
      bar.update(++done_, total_);
    } else {
      const BatchRequest& r = requests_[next_];
      answer(scheduler, bar, next_, tokens_of(r.messages, r.prompt));
    }
  }
}

std::vector<TokenId> DraftAnswers::tokens_of(std::vector<ChatMessage> messages, const std::string& prompt) const {
  if (messages.empty()) messages.push_back({"user", prompt});
  if (!template_) return encode_segments(tokenizer_, {{messages.back().content, true}});
  return encode_segments(tokenizer_, template_->render(messages, true));
}

// The model plays the user: it goes on from an empty turn, or without a template from some token.
void DraftAnswers::invent(Scheduler& scheduler, ProgressBar& bar, std::size_t i) {
  Request request;
  if (template_) {
    request.prompt = encode_segments(tokenizer_, before_user(*template_));
  } else {
    const double u = uniform(options_.seed, static_cast<std::int64_t>(i), 0);
    request.prompt = {static_cast<TokenId>(u * static_cast<double>(manifest_.config.vocab_size))};
  }
  request.sampling.temperature = 1;
  request.sampling.top_k = 100;
  request.sampling.top_p = 0.98f;
  request.sampling.min_p = 0.02f;
  request.sampling.seed = options_.seed + i;
  request.max_new_tokens = kQuestionTokens;
  request.end_tokens = tokenizer_.data().end_of_turn;
  const auto before = request.prompt;
  request.on_done = [this, before, i, &scheduler, &bar](Generated&& g) {
    if (interrupted_by() != ExitCode::ok) {
      ++lost_;
    } else if (template_) {
      answer(scheduler, bar, i, tokens_of({}, tokenizer_.decode(g.tokens)));
    } else {
      std::vector<TokenId> prompt = before;
      prompt.insert(prompt.end(), g.tokens.begin(), g.tokens.end());
      answer(scheduler, bar, i, std::move(prompt));
    }
  };
  scheduler.add(std::move(request));
}

void DraftAnswers::keep(std::size_t i, const std::vector<TokenId>& prompt, const std::vector<TokenId>& answer) {
  const nlohmann::ordered_json line = {{"id", id_of(i)},
                                       {"prompt_token_ids", prompt},
                                       {"generated_token_ids", answer},
                                       {"model_hash", hex(manifest_.hash)}};
  checkpoint_->write(line.dump());
}

// A chat whose last answer stands there already, as somebody else or an earlier run gave it.
void DraftAnswers::keep_given(std::size_t i) {
  std::vector<ChatMessage> messages = requests_[i].messages;
  std::vector<TokenId> tokens = tokenizer_.encode(messages.back().content, false);
  messages.pop_back();
  if (!tokenizer_.data().end_of_turn.empty()) tokens.push_back(tokenizer_.data().end_of_turn.front());
  tokens.resize(std::min(tokens.size(), static_cast<std::size_t>(options_.answer_tokens)));
  keep(i, tokens_of(messages, ""), tokens);
}

void DraftAnswers::answer(Scheduler& scheduler, ProgressBar& bar, std::size_t i, std::vector<TokenId> prompt) {
  Request request;
  request.prompt = std::move(prompt);
  request.max_new_tokens = options_.answer_tokens;
  request.end_tokens = tokenizer_.data().end_of_turn;
  const auto before = request.prompt;
  request.on_done = [this, before, i, &scheduler, &bar](Generated&& g) {
    const bool whole = g.stopped || static_cast<std::int64_t>(g.tokens.size()) >= options_.answer_tokens;
    if (interrupted_by() != ExitCode::ok && !whole) {  // cut short: not an answer
      ++lost_;
      return;
    }
    keep(i, before, g.tokens);
    bar.update(++done_, total_);
    if (interrupted_by() == ExitCode::ok) feed(scheduler, bar);
  };
  scheduler.add(std::move(request));
}

void DraftAnswers::read(NgramCounts& counts, TrainingAnswers& answers, std::int64_t context_tokens) const {
  const auto context = static_cast<std::size_t>(context_tokens);
  counts.add(text_, 0);
  const std::size_t stretch = std::min(kTextStretch, context);
  for (std::size_t at = 0; at < text_.size(); at += stretch) {
    answers.add(std::span(text_).subspan(at, std::min(stretch, text_.size() - at)), 0);
  }
  if (!checkpoint_) return;
  std::ifstream in(options_.checkpoint());
  std::string text;
  for (std::int64_t line = 1; std::getline(in, text); ++line) {
    const JsonObject o = parse_json_object(text, fmt::format("{}: line {}", options_.checkpoint(), line));
    std::vector<TokenId> sequence;
    std::size_t from = 0;
    for (const char* field : {"prompt_token_ids", "generated_token_ids"}) {
      from = sequence.size();
      for (const std::int64_t t : o.ints(field)) {
        if (t < 0 || t >= manifest_.config.vocab_size) {
          o.fail(field, fmt::format("tokens below {}", manifest_.config.vocab_size), std::to_string(t));
        }
        sequence.push_back(static_cast<TokenId>(t));
      }
    }
    if (counts.tokens() >= kMaxTokens) return;
    counts.add(sequence, from);
    answers.add(std::span(sequence).first(std::min(sequence.size(), context)), from);
  }
}

std::vector<TokenId> DraftAnswers::sweep_prefix() const {
  const auto tokens = template_ ? tokens_of({}, "") : std::vector<TokenId>{};
  return tokens.empty() ? std::vector<TokenId>{std::max<TokenId>(tokenizer_.data().bos, 0)} : tokens;
}

void DraftAnswers::remove_checkpoint() {
  checkpoint_.reset();
  std::error_code ignored;
  std::filesystem::remove(options_.checkpoint(), ignored);
}

}  // namespace jupiter

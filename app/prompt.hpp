// From what a user wrote to tokens and sampling options: shared by run and batch.
#pragma once

#include <algorithm>
#include <optional>

#include "app/options.hpp"
#include "io/json_fields.hpp"
#include "io/tokenizer/chat_template.hpp"
#include "kernels/sampler.hpp"

namespace jupiter {

// Every option of sampling: its name on the command line and in a request, its variable, its range, what it is.
template <typename Visit>
void visit_sampling(SamplingOptions& s, Visit&& visit) {
  using F = Range<float>;
  visit("temp", "temperature", s.temperature, F{0, 100}, "T", "Temperature; 0 is greedy");
  visit("top-k", "top_k", s.top_k, Range<std::int32_t>{0, INT32_MAX}, "K", "Keep the K most likely tokens; 0: all");
  visit("top-p", "top_p", s.top_p, F{0, 1}, "P", "Keep the most likely tokens up to this sum; 1: all");
  visit("min-p", "min_p", s.min_p, F{0, 1}, "P",
        "Keep tokens of at least this share of the best one's probability; 0: all");
  visit("repeat-penalty", "repeat_penalty", s.repeat_penalty, F{0.01f, 100}, "X",
        "Penalty on the last 64 tokens; 1: none");
  visit("presence-penalty", "presence_penalty", s.presence_penalty, F{-2, 2}, "X",
        "Taken from the logits of tokens that stand in the last 64; 0: none");
  visit("frequency-penalty", "frequency_penalty", s.frequency_penalty, F{-2, 2}, "X",
        "The same, for each time that they stand there");
  visit("seed", "seed", s.seed, Range<std::uint64_t>{}, "N", "Random numbers are keyed by it and the position");
}

// From a request's fields; what it does not have stays as it is. FormatError where a value is outside its range.
void read_sampling(const JsonObject& request, SamplingOptions& sampling);
void declare_sampling(OptionSet& options, const std::string& heading, SamplingOptions& sampling);

// Options that say how a text becomes a prompt and where an answer ends.
struct TextOptions {
  void declare_template(OptionSet& options);
  void declare_answer(OptionSet& options, const std::string& predict_help);
  std::int64_t most_new_tokens() const { return std::min(max_new_tokens, kMostTokens); }

  std::string template_name;        // empty: the model's own
  bool raw = false;                 // no template
  std::int64_t max_new_tokens = 0;  // 0: to the end of the turn
  bool ignore_eos = false;
};

// What becomes of a model's thinking (io/tokenizer/reasoning.hpp).
enum class ReasoningUse : std::uint8_t { show, hide };
void declare_reasoning(OptionSet& options, ReasoningUse& use, const std::string& shown);

// Error(code) at the first byte that is not UTF-8.
void check_utf8(const std::string& text, const std::string& source, ExitCode code);

// The same for a text on the command line, which all ranks have: CollectiveError (usage).
void check_utf8_option(const std::string& text, const std::string& option);

// The template of that name, or the model's own where it is empty; UsageError where there is none.
ChatTemplate choose_template(const Tokenizer& tokenizer, const std::string& name);

}  // namespace jupiter

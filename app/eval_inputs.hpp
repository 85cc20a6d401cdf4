// What `eval` evaluates: a text, golden tokens, questions with choices, and the self-check's prompts, as windows of
// tokens.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "io/model/manifest.hpp"
#include "io/tokenizer/tokenizer.hpp"
#include "parallel/pipeline/evaluate.hpp"

namespace jupiter {

// A file that the launching rank read for all.
struct InputFile {
  std::string name;
  std::string content;
};

// A prompt and the tokens that follow it. JSONL fields: prompt_ids, greedy_ids; optional margin (of each step, between
// the two best logits) and question (a title).
struct GoldenLine {
  std::string title;
  std::vector<TokenId> prompt, tokens;
  std::vector<double> margins;  // empty: not known
};

// JSONL fields: question, choices (texts that continue it after a space), answer (an index).
struct ChoiceLine {
  std::string question;
  std::vector<std::string> choices;
  std::size_t answer = 0;
};

// Both: FormatError naming file and line; UsageError where there is no line at all.
std::vector<GoldenLine> parse_golden(const InputFile& file);
std::vector<ChoiceLine> parse_choices(const InputFile& file);

struct EvalInputs {
  std::optional<InputFile> text;
  std::vector<GoldenLine> golden;
  std::vector<ChoiceLine> choices;
  std::int64_t window = 512;
  std::int64_t stride = 0;           // 0: the window
  std::int64_t max_text_tokens = 0;  // 0: all
  bool self_check = false;
};

// Windows of the text come first, then one a golden line, then one a choice, question after question.
struct EvalWork {
  std::vector<TokenId> tokens;  // of all windows; the text's first
  std::vector<EvalWindow> windows;
  std::int64_t text_tokens = 0;
  std::int64_t text_windows = 0;
  std::vector<std::vector<TokenId>> check_prompts;
  template <typename Self, typename Visit>
  static void fields(Self& s, Visit&& visit) {
    visit(s.tokens, s.windows, s.text_tokens, s.text_windows, s.check_prompts);
  }
};

// Positions that the longest window may take, before the tokenizer is known.
std::int64_t longest_window(const EvalInputs& inputs);
// FormatError or UsageError where tokens are outside the vocabulary or a window is longer than `context_tokens`.
EvalWork make_work(const EvalInputs& inputs, const Tokenizer& tokenizer, std::int64_t context_tokens);

}  // namespace jupiter

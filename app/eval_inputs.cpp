// Files to tokens.
#include "app/eval_inputs.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "io/json_fields.hpp"
#include "parallel/comm/mpi.hpp"

namespace jupiter {

namespace {

// Scores travel to rank 0 in one text of at most 16 MiB.
constexpr std::int64_t kMaxScores = (16 << 20) / static_cast<std::int64_t>(sizeof(TokenScore)) - 1024;
constexpr std::int64_t kCheckTokens[] = {7, 45, 130, 300};  // of the self-check's prompts

constexpr const char* kCheckText =
    "A pipeline of small boards answers a question together: the first one turns the words into vectors, each passes "
    "its layers on to the next, and the last one says which word comes now. None of them could hold the whole model, "
    "and none of them waits longer than it must. In 1913 the assembly line at Highland Park cut the time for a car "
    "from 12 hours to 93 minutes; it did so without making anybody work faster. ";

// Calls use(object, where) for every line that is not empty.
template <typename Use>
void for_lines(const InputFile& file, const Use& use) {
  std::size_t begin = 0, number = 0, found = 0;
  while (begin < file.content.size()) {
    const std::size_t end = std::min(file.content.find('\n', begin), file.content.size());
    const std::string_view line = std::string_view(file.content).substr(begin, end - begin);
    begin = end + 1;
    ++number;
    if (line.find_first_not_of(" \t\r") == std::string_view::npos) continue;
    use(parse_json_object(line, fmt::format("{}:{}", file.name, number)));
    ++found;
  }
  if (found == 0) throw UsageError(file.name + ": expected lines of JSON, found nothing");
}

std::vector<TokenId> token_ids(const JsonObject& line, const char* key) {
  std::vector<TokenId> ids;
  for (const std::int64_t id : line.ints(key)) {
    if (id < 0 || id > INT32_MAX) line.fail(key, "token ids", std::to_string(id));
    ids.push_back(static_cast<TokenId>(id));
  }
  if (ids.empty()) line.fail(key, "at least one token", "none");
  return ids;
}

}  // namespace

std::vector<GoldenLine> parse_golden(const InputFile& file) {
  std::vector<GoldenLine> lines;
  for_lines(file, [&](const JsonObject& line) {
    GoldenLine g{line.find_string("question").value_or(line.where()),
                 token_ids(line, "prompt_ids"),
                 token_ids(line, "greedy_ids"),
                 {}};
    for (const auto& margin : line.array_or_empty("margin")) {
      if (!margin.is_number()) line.fail("margin", "numbers", json_text(margin));
      g.margins.push_back(margin.get<double>());
    }
    if (!g.margins.empty() && g.margins.size() < g.tokens.size()) {
      line.fail("margin", fmt::format("{} numbers, one a token", g.tokens.size()), std::to_string(g.margins.size()));
    }
    lines.push_back(std::move(g));
  });
  return lines;
}

std::vector<ChoiceLine> parse_choices(const InputFile& file) {
  std::vector<ChoiceLine> lines;
  for_lines(file, [&](const JsonObject& line) {
    ChoiceLine c{line.string("question"), {}, 0};
    if (c.question.find_first_not_of(" \t\r\n") == std::string::npos) line.fail("question", "a text", "nothing");
    if (!line.has("choices")) line.fail("choices", "a list of texts", "nothing");
    for (const auto& choice : line.array_or_empty("choices")) {
      if (!choice.is_string() || choice.get<std::string>().empty()) {
        line.fail("choices", "texts that are not empty", json_text(choice));
      }
      c.choices.push_back(choice.get<std::string>());
    }
    if (c.choices.size() < 2) line.fail("choices", "at least two", std::to_string(c.choices.size()));
    const std::int64_t answer = line.integer("answer");
    if (answer < 0 || answer >= std::ssize(c.choices)) {
      line.fail("answer", fmt::format("0 to {}", c.choices.size() - 1), std::to_string(answer));
    }
    c.answer = static_cast<std::size_t>(answer);
    lines.push_back(std::move(c));
  });
  return lines;
}

std::int64_t longest_window(const EvalInputs& inputs) {
  std::int64_t most = inputs.text ? inputs.window : 0;
  for (const GoldenLine& g : inputs.golden) most = std::max(most, std::ssize(g.prompt) + std::ssize(g.tokens));
  for (const ChoiceLine& c : inputs.choices) {
    // A token has at least a byte; a space may be put in front.
    for (const std::string& text : c.choices) most = std::max(most, std::ssize(c.question) + std::ssize(text) + 2);
  }
  return inputs.self_check ? std::max<std::int64_t>(most, std::end(kCheckTokens)[-1] + 64) : most;
}

namespace {

class WorkBuilder {
 public:
  WorkBuilder(const Tokenizer& tokenizer, std::int64_t context_tokens)
      : tokenizer_(tokenizer), context_tokens_(context_tokens) {}

  void add_text(const EvalInputs& in) {
    if (in.text->content.empty()) throw UsageError(in.text->name + ": expected a text, found nothing");
    work_.tokens = tokenizer_.encode(in.text->content, false);
    const auto found = std::ssize(work_.tokens);
    if (found < 2) throw UsageError(in.text->name + ": expected at least two tokens, found one");
    if (in.max_text_tokens > 0) work_.tokens.resize(static_cast<std::size_t>(std::min(found, in.max_text_tokens)));
    work_.text_tokens = std::ssize(work_.tokens);
    work_.windows = eval_windows(work_.text_tokens, in.window, in.stride);
    work_.text_windows = std::ssize(work_.windows);
  }

  // Tokens from scored_from on are scored.
  void add_window(const std::string& where, const std::vector<TokenId>& context, std::span<const TokenId> scored) {
    const auto first = std::ssize(work_.tokens), length = std::ssize(context) + std::ssize(scored);
    if (length > context_tokens_) {
      throw UsageError(
          fmt::format("{}: expected at most {} tokens (the context, -c), found {}", where, context_tokens_, length));
    }
    work_.windows.push_back({first, length, std::ssize(context), 0});
    work_.tokens.insert(work_.tokens.end(), context.begin(), context.end());
    work_.tokens.insert(work_.tokens.end(), scored.begin(), scored.end());
    for (auto i = static_cast<std::size_t>(first); i < work_.tokens.size(); ++i) {
      if (work_.tokens[i] < tokenizer_.vocab_size()) continue;
      throw FormatError(where, "token", fmt::format("below {} (the vocabulary)", tokenizer_.vocab_size()),
                        std::to_string(work_.tokens[i]));
    }
  }

  // As lm-evaluation-harness has it: the choice follows after a space, spaces at the question's end belong to it, and
  // its tokens are what the whole has beyond the question's own number of tokens. Nothing is put in front.
  void add_choice(const ChoiceLine& line, const std::string& choice) {
    const std::string question = line.question.substr(0, line.question.find_last_not_of(" \t\r\n") + 1);
    const std::vector<TokenId> whole = tokenizer_.encode(line.question + " " + choice, false);
    std::size_t context = tokenizer_.encode(question, false).size();
    context = std::clamp<std::size_t>(context, 1, whole.size() - 1);
    add_window(fmt::format("question '{}'", line.question.substr(0, 40)),
               {whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(context)},
               std::span(whole).subspan(context));
  }

  void add_check_prompts() {
    std::string text;
    std::vector<TokenId> tokens;
    while (std::ssize(tokens) < std::end(kCheckTokens)[-1]) tokens = tokenizer_.encode(text += kCheckText, false);
    for (const std::int64_t n : kCheckTokens) {
      if (n + 1 < context_tokens_) work_.check_prompts.emplace_back(tokens.begin(), tokens.begin() + n);
    }
  }

  EvalWork finish() {
    std::int64_t scores = 0;
    for (const EvalWindow& w : work_.windows) scores += w.scored();
    if (scores > kMaxScores) {
      throw UsageError(
          fmt::format("eval: expected at most {} scored tokens, found {}: use --tokens", kMaxScores, scores));
    }
    share_prefixes(work_.tokens, work_.windows);
    return std::move(work_);
  }

 private:
  const Tokenizer& tokenizer_;
  std::int64_t context_tokens_;
  EvalWork work_;
};

}  // namespace

EvalWork make_work(const EvalInputs& inputs, const Tokenizer& tokenizer, std::int64_t context_tokens) {
  WorkBuilder builder(tokenizer, context_tokens);
  if (inputs.text) builder.add_text(inputs);
  for (const GoldenLine& g : inputs.golden) builder.add_window(g.title, g.prompt, g.tokens);
  for (const ChoiceLine& c : inputs.choices) {
    for (const std::string& choice : c.choices) builder.add_choice(c, choice);
  }
  if (inputs.self_check) builder.add_check_prompts();
  return builder.finish();
}

}  // namespace jupiter

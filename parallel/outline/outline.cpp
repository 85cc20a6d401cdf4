// Each point begins as soon as its line of the outline is complete, while the next one is still being written.
#include "parallel/outline/outline.hpp"

#include <algorithm>
#include <deque>
#include <map>
#include <memory>

#include "io/files.hpp"
#include "io/json_fields.hpp"
#include "io/timer.hpp"

namespace jupiter {

namespace {

constexpr std::size_t kLongestPoint = 120;    // bytes; a longer line is an answer, not a point
constexpr std::int64_t kTokensOfAPoint = 16;  // an outline that does not end is cut here, times the points
constexpr std::int64_t kPointPrompt = 128;    // tokens of a point's prompt behind the common part
constexpr const char* kWhite = " \t\r\n";
constexpr std::size_t kSentence = 24;  // bytes; a shorter one may well stand twice in a text
// Small models list one point again and again; of 13 questions SmolLM2-135M gave 3 less than three points without the
// penalty, none with it.
constexpr float kOutlinePenalty = 1.1F;

std::string replaced(std::string text, const std::map<std::string, std::string>& values) {
  std::string out;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t open = text.find('{', at), close = text.find('}', open);
    if (open == std::string::npos || close == std::string::npos) return out + text.substr(at);
    out += text.substr(at, open - at);
    const auto value = values.find(text.substr(open + 1, close - open - 1));
    out += value != values.end() ? value->second : text.substr(open, close - open + 1);
    at = close + 1;
  }
  return out;
}

std::string trimmed(const std::string& text) {
  const auto first = text.find_first_not_of(" \t\r\n*");
  if (first == std::string::npos) return "";
  return text.substr(first, text.find_last_not_of(" \t\r\n*:;,.") + 1 - first);
}

// "3. text" or "3) text": number and text; 0: no such line.
std::pair<std::int64_t, std::string> numbered_line(const std::string& line) {
  std::size_t at = line.find_first_not_of(" \t*#-");
  std::int64_t number = 0;
  const std::size_t first = at;
  for (; at < line.size() && at - first < 3 && line[at] >= '0' && line[at] <= '9'; ++at) {
    number = number * 10 + (line[at] - '0');
  }
  if (at >= line.size() || at == first || (line[at] != '.' && line[at] != ')')) return {0, ""};
  return {number, trimmed(line.substr(at + 1))};
}

// Whether nothing more will come of this outline: a point stands there twice, or it has left the form of a list.
bool is_over(const std::string& text, std::int64_t points_max) {
  constexpr int most = 2;  // lines without a number
  std::int64_t others = 0, numbered = 0;
  for (std::size_t at = 0, end; (end = text.find('\n', at)) != std::string::npos; at = end + 1) {
    ++(numbered_line(text.substr(at, end - at)).first == 0 ? others : numbered);
  }
  const std::size_t complete = text.rfind('\n') + 1;  // 0: not one line
  const auto points = static_cast<std::int64_t>(parse_outline(text.substr(0, complete), points_max).size());
  return others > most || points < numbered || points == points_max || text.size() - complete > 2 * kLongestPoint ||
         text.find("\n\n") != std::string::npos;
}

// The points on their way: texts are shown in order, each as soon as those before it are complete.
class Assembly {
 public:
  Assembly(const Tokenizer& tokenizer, std::function<void(const std::string&)> show)
      : tokenizer_(tokenizer), show_(std::move(show)) {}
  void begin(const std::string& text) {
    parts_.emplace_back(tokenizer_);
    add(parts_.size() - 1, text);
  }
  // false: the point's text is complete. enough: as soon as a sentence is.
  bool push(std::size_t i, TokenId token, bool enough) {
    add(i, parts_[i].body.push(parts_[i].decoder.push(token)));
    return !parts_[i].body.ended() && !(enough && parts_[i].body.at_end_of_sentence());
  }
  void finish(std::size_t i) {
    if (!parts_[i].body.ended()) add(i, parts_[i].body.push(parts_[i].decoder.finish()));
    add(i, "\n");
    parts_[i].done = true;
    while (turn_ < parts_.size() && parts_[turn_].done) {
      if (++turn_ < parts_.size()) show_(parts_[turn_].text);
    }
  }
  const std::string& text(std::size_t i) const { return parts_[i].text; }

 private:
  struct Part {
    explicit Part(const Tokenizer& tokenizer) : decoder(tokenizer) {}
    StreamDecoder decoder;
    PointText body;
    std::string text;
    bool done = false;
  };
  void add(std::size_t i, const std::string& text) {
    parts_[i].text += text;
    if (i == turn_ && !text.empty()) show_(text);
  }
  const Tokenizer& tokenizer_;
  std::function<void(const std::string&)> show_;
  std::deque<Part> parts_;
  std::size_t turn_ = 0;
};

// One answer with what it needs. Everything is decided by texts alone, so that no answer depends on what came first.
class OutlineRun {
 public:
  OutlineRun(Scheduler& scheduler, const Tokenizer& tokenizer, const ChatTemplate& chat, const OutlineOptions& options,
             const OutlineRequest& request, const std::function<void(const std::string&)>& show)
      : scheduler_(scheduler),
        tokenizer_(tokenizer),
        chat_(chat),
        options_(options),
        request_(request),
        show_(show),
        assembly_(tokenizer, [this](const std::string& text) { this->show(text); }) {}

  OutlineAnswer run() {
    if (fits()) {
      scheduler_.add(outline_request());
      scheduler_.run();  // the outline, and its points as they come
    }
    if (interrupted_by() == ExitCode::ok && answer_.points.empty()) write_plain();
    answer_.total_s = elapsed();
    return std::move(answer_);
  }

 private:
  double elapsed() const { return seconds_since(start_); }

  void show(const std::string& text) {
    if (answer_.ttft_s == 0) answer_.ttft_s = elapsed();
    answer_.text += text;
    show_(text);
  }

  // Tokens of a conversation that ends with a question, whose answer begins with `start`.
  std::vector<TokenId> seeded_prompt(const std::vector<ChatMessage>& turns, const std::string& start) const {
    std::vector<ChatMessage> messages;
    if (!request_.system.empty()) messages.push_back({"system", request_.system});
    messages.insert(messages.end(), turns.begin(), turns.end());
    std::vector<PromptSegment> segments = chat_.render(messages, true);
    segments.push_back({start, false});
    return encode_segments(tokenizer_, segments);
  }

  std::vector<TokenId> outline_prompt() const {
    const auto turn = [&](const std::string& question) {
      return ChatMessage{"user", replaced(options_.prompts.outline_request, {{"question", question}})};
    };
    std::vector<ChatMessage> turns;
    for (const OutlinePrompts::Example& e : options_.prompts.examples) {
      turns.push_back(turn(e.question));
      turns.push_back({"assistant", e.outline});
    }
    turns.push_back(turn(request_.question));
    return seeded_prompt(turns, "1.");
  }

  std::vector<TokenId> point_prompt(const std::string& index, const std::string& point) const {
    const std::string text =
        replaced(options_.prompts.point_request, {{"question", request_.question}, {"index", index}, {"point", point}});
    return seeded_prompt({{"user", text}}, heading(index, point));
  }
  static std::string heading(const std::string& index, const std::string& point) { return index + ". " + point + ":"; }

  // What the prompts of all points begin with.
  std::vector<TokenId> common_prompt() const {
    const std::vector<TokenId> a = point_prompt("1", "A"), b = point_prompt("2", "b");
    return {a.begin(), std::mismatch(a.begin(), a.end(), b.begin(), b.end()).first};
  }

  std::int64_t outline_tokens() const { return kTokensOfAPoint * options_.points_max; }

  // Whether the context has room for the outline and for any point; long questions get plain answers.
  bool fits() const {
    const auto outline = static_cast<std::int64_t>(outline_prompt().size()) + outline_tokens();
    const auto point = static_cast<std::int64_t>(common_prompt().size()) + kPointPrompt + options_.point_tokens;
    return std::max(outline, point) <= scheduler_.context_tokens();
  }

  // The outline. It ends with its turn, an empty line, or when nothing more can come of it.
  Request outline_request() {
    Request r = request_.request;
    r.prompt = outline_prompt();
    r.max_new_tokens = outline_tokens();
    r.sampling.repeat_penalty = std::max(r.sampling.repeat_penalty, kOutlinePenalty);
    answer_.outline = "1.";
    const auto decoder = std::make_shared<StreamDecoder>(tokenizer_);
    r.on_token = [this, decoder](TokenId token) {
      // While the first token of the outline goes round, every stage has time for what all points begin with.
      if (!prefix_sent_) scheduler_.compute_prefix(common_prompt());
      prefix_sent_ = true;
      answer_.outline += decoder->push(token);
      take_points(answer_.outline.substr(0, answer_.outline.rfind('\n') + 1));
      return !is_over(answer_.outline, options_.points_max);
    };
    r.end_tokens = tokenizer_.data().end_of_turn;
    r.on_done = [this](Generated&& g) {
      answer_.outline_s = elapsed();
      // A turn that ended leaves a last line without a line break, one that was cut leaves half a line.
      if (g.stopped && !is_over(answer_.outline, options_.points_max)) take_points(answer_.outline);
    };
    return r;
  }

  // Starts the points of these lines; one alone is no outline.
  void take_points(const std::string& lines) {
    const std::vector<std::string> points = parse_outline(lines, options_.points_max);
    if (points.size() < 2 || interrupted_by() != ExitCode::ok) return;
    while (answer_.points.size() < points.size()) start_point(points[answer_.points.size()]);
  }

  void start_point(const std::string& point) {
    const std::size_t i = answer_.points.size();
    const std::string index = std::to_string(i + 1);
    answer_.points.push_back({point, "", {}});
    Request r = request_.request;
    r.prompt = point_prompt(index, point);
    r.max_new_tokens = options_.point_tokens;
    // A point ends with a sentence once half of its tokens are used: all wait for the longest one.
    r.on_token = [this, i, left = options_.point_tokens / 2](TokenId token) mutable {
      return assembly_.push(i, token, --left <= 0);
    };
    r.on_done = [this, i](Generated&& g) {
      assembly_.finish(i);
      answer_.points[i].text = assembly_.text(i);
      answer_.points[i].generated = std::move(g);
    };
    assembly_.begin(heading(index, point));
    scheduler_.add(std::move(r));
  }

  void write_plain() {
    Request r = request_.request;
    StreamDecoder decoder(tokenizer_);
    r.on_token = [&](TokenId token) {
      show(decoder.push(token));
      return true;
    };
    answer_.plain = scheduler_.complete(std::move(r));
    show(decoder.finish());
  }

  Scheduler& scheduler_;
  const Tokenizer& tokenizer_;
  const ChatTemplate& chat_;
  const OutlineOptions& options_;
  const OutlineRequest& request_;
  const std::function<void(const std::string&)>& show_;
  Assembly assembly_;
  OutlineAnswer answer_;
  bool prefix_sent_ = false;
  Clock::time_point start_ = Clock::now();
};

}  // namespace

// Turns as examples, since small models copy examples that stand inside a request.
OutlinePrompts OutlinePrompts::standard() {
  return {"Key points, a few words each: {question}",
          "{question} Explain in detail.",
          {{"How can a student prepare for an exam?",
            "1. Plan the time\n2. Collect material\n3. Practise old exams\n4. Study with others\n5. Sleep enough"},
           {"What are the effects of a long drought?",
            "1. Failed harvests\n2. Dry rivers\n3. Forest fires\n4. Higher food prices\n5. People who move away\n6. "
            "Quarrels over water"},
           {"What if horses had never been tamed?",
            "1. Slower travel\n2. Smaller empires\n3. Other wars\n4. Farming with oxen\n5. Less trade"}}};
}

OutlinePrompts OutlinePrompts::read(const std::string& file) {
  const JsonObject o = parse_json_object(read_file(file, 1 << 20), file);
  OutlinePrompts p{o.string("outline_request"), o.string("point_request"), {}};
  for (const nlohmann::json& value : o.array_or_empty("examples")) {
    const JsonObject example(value, file + ": examples");
    p.examples.push_back({example.string("question"), example.string("outline")});
    if (parse_outline(p.examples.back().outline, 2).size() < 2) {
      example.fail("outline", "at least two numbered lines", json_text(p.examples.back().outline));
    }
  }
  const auto has = [](const std::string& text, const char* name) { return text.find(name) != std::string::npos; };
  if (!has(p.outline_request, "{question}")) o.fail("outline_request", "a text with {question}", "none");
  if (has(p.point_request, "{outline}")) {
    o.fail("point_request", "a text without {outline} (points begin while it is written)", "{outline}");
  }
  return p;
}

std::int64_t outline_cache_tokens(const OutlineOptions& options) {
  return options.points_max * (options.point_tokens + kPointPrompt);
}

std::vector<std::string> parse_outline(const std::string& text, std::int64_t points_max) {
  std::int64_t newest = 0;
  std::vector<std::string> points;
  for (std::size_t at = 0; at < text.size() && std::ssize(points) < points_max;) {
    const std::size_t end = std::min(text.find('\n', at), text.size());
    const auto [number, line] = numbered_line(text.substr(at, end - at));
    at = end + 1;
    const std::string point = trimmed(line.substr(0, line.find(": ")));
    if (number <= newest || point.empty() || point.size() > kLongestPoint) continue;
    newest = number;
    if (std::find(points.begin(), points.end(), point) == points.end()) points.push_back(point);
  }
  return points;
}

// What a line that begins like this is: "2. ", "**", "#" lead to something else than the point.
PointText::Start PointText::line_start(const std::string& text) {
  const auto decided = [&](std::size_t at, auto is_elsewhere) {
    return at >= text.size() ? Start::unknown : is_elsewhere(text[at]) ? Start::elsewhere : Start::text;
  };
  if (text[0] == '#') return Start::elsewhere;
  if (text[0] == '*') return decided(1, [](char c) { return c == '*'; });
  const std::size_t digits = std::min(text.find_first_not_of("0123456789"), text.size());
  if (digits == 0 || digits > 3) return Start::text;
  const Start mark = decided(digits, [](char c) { return c == '.' || c == ')'; });
  return mark != Start::elsewhere ? mark : decided(digits + 1, [](char c) { return c < '0' || c > '9'; });
}

bool PointText::repeats() const {
  constexpr const char* ends = ".!?";
  const std::size_t end = shown_.find_last_of(ends);
  if (end == std::string::npos || end == 0) return false;
  const std::size_t begin = shown_.find_last_of(ends, end - 1) + 1;  // 0: the first sentence
  return end - begin >= kSentence && shown_.find(shown_.substr(begin, end - begin + 1)) < begin;
}

bool PointText::at_end_of_sentence() const {
  return held_.find_first_not_of(kWhite) == std::string::npos && !shown_.empty() &&
         std::string_view(".!?").find(shown_.back()) != std::string_view::npos;
}

std::string PointText::push(const std::string& piece) {
  const std::size_t before = shown_.size();
  if (!ended_) held_ += piece;
  while (!ended_) {
    const std::size_t word = held_.find_first_not_of(kWhite);
    if (word == std::string::npos) break;
    const std::size_t line = held_.substr(0, word).rfind('\n');
    if (line != std::string::npos) {
      const Start start = line_start(held_.substr(word));
      if (start == Start::unknown) break;
      ended_ = start == Start::elsewhere && !shown_.empty();  // a list right behind the heading is the point's own
      if (ended_) break;
    }
    const std::size_t end = std::min(held_.find_first_of(kWhite, word), held_.size());
    const std::size_t from = line != std::string::npos ? line : 0;
    shown_ += shown_.empty() ? " " + held_.substr(word, end - word) : held_.substr(from, end - from);
    held_.erase(0, end);
    ended_ = repeats();
  }
  return shown_.substr(before);
}

std::int64_t OutlineAnswer::tokens() const {
  auto n = std::ssize(plain.tokens);
  for (const OutlinePoint& p : points) n += std::ssize(p.generated.tokens);
  return n;
}

OutlineAnswer answer_with_outline(Scheduler& scheduler, const Tokenizer& tokenizer, const ChatTemplate& chat,
                                  const OutlineOptions& options, const OutlineRequest& request,
                                  const std::function<void(const std::string&)>& show) {
  return OutlineRun(scheduler, tokenizer, chat, options, request, show).run();
}

}  // namespace jupiter

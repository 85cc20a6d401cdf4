// Prompts, and the rules of what is a point and where its text ends.
#include "parallel/outline/outline_text.hpp"

#include <algorithm>
#include <map>

#include "io/files.hpp"
#include "io/json_fields.hpp"

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

std::string replaced(const std::string& text, const std::map<std::string, std::string>& values) {
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

std::string point_heading(std::size_t number, const std::string& point) {
  return std::to_string(number) + ". " + point + ":";
}

// Tokens of a conversation that ends with a question, whose answer begins with `start`.
std::vector<TokenId> OutlinePromptMaker::seeded(const std::vector<ChatMessage>& turns, const std::string& start) const {
  std::vector<ChatMessage> messages;
  if (!question_.system.empty()) messages.push_back({"system", question_.system});
  messages.insert(messages.end(), turns.begin(), turns.end());
  std::vector<PromptSegment> segments = chat_.render(messages, true);
  segments.push_back({start, false});
  return encode_segments(tokenizer_, segments);
}

std::vector<TokenId> OutlinePromptMaker::outline() const {
  const auto turn = [&](const std::string& question) {
    return ChatMessage{"user", replaced(options_.prompts.outline_request, {{"question", question}})};
  };
  std::vector<ChatMessage> turns;
  for (const OutlinePrompts::Example& e : options_.prompts.examples) {
    turns.push_back(turn(e.question));
    turns.push_back({"assistant", e.outline});
  }
  turns.insert(turns.end(), question_.earlier.begin(), question_.earlier.end());
  turns.push_back(turn(question_.text));
  return seeded(turns, "1.");
}

std::vector<TokenId> OutlinePromptMaker::point(const std::string& number, const std::string& point) const {
  std::vector<ChatMessage> turns = question_.earlier;
  turns.push_back({"user", replaced(options_.prompts.point_request,
                                    {{"question", question_.text}, {"index", number}, {"point", point}})});
  return seeded(turns, number + ". " + point + ":");
}

std::vector<TokenId> OutlinePromptMaker::point(std::size_t number, const std::string& text) const {
  return point(std::to_string(number), text);
}

std::vector<TokenId> OutlinePromptMaker::common() const {
  const std::vector<TokenId> a = point(1, "A"), b = point(2, "b");
  return {a.begin(), std::mismatch(a.begin(), a.end(), b.begin(), b.end()).first};
}

std::int64_t OutlinePromptMaker::outline_tokens() const {
  return kTokensOfAPoint * options_.points_max;
}

SamplingOptions OutlinePromptMaker::outline_sampling(SamplingOptions sampling) {
  sampling.repeat_penalty = std::max(sampling.repeat_penalty, kOutlinePenalty);
  return sampling;
}

bool OutlinePromptMaker::fits(std::int64_t context_tokens) const {
  const std::int64_t of_outline = std::ssize(outline()) + outline_tokens();
  const std::int64_t of_point = std::ssize(common()) + kPointPrompt + options_.point_tokens;
  return std::max(of_outline, of_point) <= context_tokens;
}

std::vector<std::string> OutlineReader::new_points(const std::string& lines) {
  const std::vector<std::string> points = parse_outline(lines, points_max_);
  if (points.size() < 2 || points.size() <= returned_) return {};
  const auto first = points.begin() + static_cast<std::ptrdiff_t>(returned_);
  returned_ = points.size();
  return {first, points.end()};
}

std::vector<std::string> OutlineReader::push(TokenId token) {
  text_ += decoder_.push(token);
  return new_points(text_.substr(0, text_.rfind('\n') + 1));
}

// A turn that ended leaves a last line without a line break, one that was cut leaves half a line.
std::vector<std::string> OutlineReader::finish(bool stopped) {
  return stopped && !is_over() ? new_points(text_) : std::vector<std::string>{};
}

bool OutlineReader::is_over() const {
  constexpr int most = 2;  // lines without a number
  std::int64_t others = 0, numbered = 0;
  for (std::size_t at = 0, end; (end = text_.find('\n', at)) != std::string::npos; at = end + 1) {
    ++(numbered_line(text_.substr(at, end - at)).first == 0 ? others : numbered);
  }
  const std::size_t complete = text_.rfind('\n') + 1;  // 0: not one line
  const auto points = static_cast<std::int64_t>(parse_outline(text_.substr(0, complete), points_max_).size());
  return others > most || points < numbered || points == points_max_ || text_.size() - complete > 2 * kLongestPoint ||
         text_.find("\n\n") != std::string::npos;
}

std::string PointReader::push(TokenId token) {
  --left_;
  return body_.push(decoder_.push(token));
}

std::string PointReader::finish() {
  return body_.ended() ? "" : body_.push(decoder_.finish());
}

}  // namespace jupiter

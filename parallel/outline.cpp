// Two rounds on the scheduler: the outline alone, then the shared prefix and all points behind it.
#include "parallel/outline.hpp"

#include <algorithm>
#include <map>

#include "io/files.hpp"
#include "io/json_fields.hpp"

namespace jupiter {

namespace {

using Clock = std::chrono::steady_clock;

constexpr std::size_t kLongestPoint = 120;    // bytes; a longer line is an answer, not a point
constexpr std::int64_t kTokensOfAPoint = 16;  // an outline that does not end is cut here, times the points

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

// Whether the text has left the form of a list.
bool rambles(const std::string& text) {
  constexpr int most = 2;  // lines without a number
  int others = 0;
  for (std::size_t at = 0, end; (end = text.find('\n', at)) != std::string::npos; at = end + 1) {
    if (numbered_line(text.substr(at, end - at)).first == 0) ++others;
  }
  return others > most || text.size() - (text.rfind('\n') + 1) > 2 * kLongestPoint;
}

// Tokens of a conversation of one question whose answer begins with `start`.
std::vector<TokenId> seeded_prompt(const Tokenizer& tokenizer, const ChatTemplate& chat, const std::string& system,
                                   const std::string& question, const std::string& start) {
  std::vector<ChatMessage> messages;
  if (!system.empty()) messages.push_back({"system", system});
  messages.push_back({"user", question});
  std::vector<PromptSegment> segments = chat.render(messages, true);
  segments.push_back({start, false});
  return encode_segments(tokenizer, segments);
}

// The points on their way: texts are shown in order, each as soon as those before it are complete.
class Assembly {
 public:
  Assembly(const Tokenizer& tokenizer, std::size_t points, const std::function<void(const std::string&)>& show)
      : show_(show) {
    for (std::size_t i = 0; i < points; ++i) parts_.emplace_back(tokenizer);
  }
  void begin(std::size_t i, const std::string& text) { add(i, text); }
  // false: the point's text is complete (a line ended).
  bool push(std::size_t i, TokenId token) {
    std::string text = parts_[i].decoder.push(token);
    const std::size_t end = text.find('\n');
    const bool ends = end != std::string::npos && parts_[i].text.size() > 0;
    add(i, ends ? text.substr(0, end) : text);
    return !ends;
  }
  void finish(std::size_t i) {
    add(i, parts_[i].decoder.finish());
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
    std::string text;
    bool done = false;
  };
  void add(std::size_t i, const std::string& text) {
    parts_[i].text += text;
    if (i == turn_ && !text.empty()) show_(text);
  }
  const std::function<void(const std::string&)>& show_;
  std::vector<Part> parts_;
  std::size_t turn_ = 0;
};

// One answer with what it needs.
class OutlineRun {
 public:
  OutlineRun(Scheduler& scheduler, const Tokenizer& tokenizer, const ChatTemplate& chat, const OutlineOptions& options,
             const OutlineRequest& request, const std::function<void(const std::string&)>& show)
      : scheduler_(scheduler), tokenizer_(tokenizer), chat_(chat), options_(options), request_(request), show_(show) {}

  OutlineAnswer run() {
    answer_.outline = outline();
    answer_.outline_s = elapsed();
    const std::vector<std::string> points = parse_outline(answer_.outline, options_.points_max);
    if (interrupted_by() == ExitCode::ok && points.size() >= 2) {
      write_points(points);
    } else if (interrupted_by() == ExitCode::ok) {
      write_plain();
    }
    answer_.total_s = elapsed();
    return std::move(answer_);
  }

 private:
  double elapsed() const { return std::chrono::duration<double>(Clock::now() - start_).count(); }

  void show(const std::string& text) {
    if (answer_.ttft_s == 0) answer_.ttft_s = elapsed();
    answer_.text += text;
    show_(text);
  }

  // The outline's text, its seed included. It ends with a turn, an empty line, or when it holds all points that count.
  std::string outline() {
    Request r = request_.request;
    r.prompt = seeded_prompt(tokenizer_, chat_, request_.system,
                             replaced(options_.prompts.outline_request, {{"question", request_.question}}), "1.");
    r.max_new_tokens = kTokensOfAPoint * options_.points_max;
    std::string text = "1.";
    StreamDecoder decoder(tokenizer_);
    const std::string past = "\n" + std::to_string(options_.points_max + 1) + ".";
    r.on_token = [&](TokenId token) {
      text += decoder.push(token);
      return text.find(past) == std::string::npos && text.find("\n\n") == std::string::npos && !rambles(text);
    };
    scheduler_.complete(std::move(r));
    return text;
  }

  Request point_request(const std::string& outline, std::size_t i, const std::string& point) const {
    const std::string index = std::to_string(i + 1);
    Request r = request_.request;
    r.prompt = seeded_prompt(
        tokenizer_, chat_, request_.system,
        replaced(options_.prompts.point_request,
                 {{"question", request_.question}, {"outline", outline}, {"index", index}, {"point", point}}),
        index + ". " + point + ":");
    r.max_new_tokens = options_.point_tokens;
    return r;
  }

  void write_points(const std::vector<std::string>& points) {
    std::string outline;
    for (std::size_t i = 0; i < points.size(); ++i) outline += std::to_string(i + 1) + ". " + points[i] + "\n";
    std::vector<Request> requests;
    for (std::size_t i = 0; i < points.size(); ++i) requests.push_back(point_request(outline, i, points[i]));
    const SequenceId prefix = prefill_common(requests);
    const std::function<void(const std::string&)> shown = [this](const std::string& text) { show(text); };
    Assembly assembly(tokenizer_, points.size(), shown);
    answer_.points.resize(points.size());
    for (std::size_t i = 0; i < points.size(); ++i) {
      Request& r = requests[i];
      r.parent = prefix;
      r.shared_tokens = scheduler_.shareable(prefix, r.prompt);
      r.on_token = [&assembly, i](TokenId token) { return assembly.push(i, token); };
      r.on_done = [&, i](Generated&& g) {
        assembly.finish(i);
        answer_.points[i] = {points[i], assembly.text(i), std::move(g)};
      };
      assembly.begin(i, std::to_string(i + 1) + ". " + points[i] + ":");
      scheduler_.add(std::move(r));
    }
    scheduler_.run();
    scheduler_.release(prefix);
  }

  // Computes what all prompts begin with, once.
  SequenceId prefill_common(const std::vector<Request>& requests) {
    std::size_t common = requests[0].prompt.size() - 1;
    for (const Request& r : requests) {
      const auto end =
          std::mismatch(requests[0].prompt.begin(), requests[0].prompt.end(), r.prompt.begin(), r.prompt.end());
      common = std::min<std::size_t>(common, end.first - requests[0].prompt.begin());
    }
    Request prefix = request_.request;
    prefix.prompt.assign(requests[0].prompt.begin(), requests[0].prompt.begin() + static_cast<std::ptrdiff_t>(common));
    prefix.decode.mode = DecodeMode::plain;
    prefix.max_new_tokens = 1;
    prefix.end_tokens.clear();
    prefix.keep = true;
    return scheduler_.complete(std::move(prefix)).kept;
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
  OutlineAnswer answer_;
  Clock::time_point start_ = Clock::now();
};

}  // namespace

OutlinePrompts OutlinePrompts::standard() {
  return {
      "You are the organiser of an answer: you give its skeleton, not its text. Write a numbered list of 3 to 10 "
      "points, "
      "each of only 3 to 5 words, and nothing else.\n\n"
      "Question: What are the typical kinds of Chinese dishes?\nSkeleton:\n1. Dumplings.\n2. Noodles and soups.\n3. "
      "Dim sum.\n"
      "4. Hot pot.\n5. Rice dishes.\n\n"
      "Question: How can a student prepare for an exam?\nSkeleton:\n1. Plan the time left.\n2. Collect all material.\n"
      "3. Practise with old exams.\n4. Study with others.\n5. Sleep before the exam.\n\n"
      "Now the skeleton for this question.\nQuestion: {question}\nSkeleton:",
      "Question: {question}\n\nThe skeleton of the answer is\n{outline}\nWrite point {index} and only this point, in "
      "one or "
      "two short sentences. Do not go on with other points."};
}

OutlinePrompts OutlinePrompts::read(const std::string& file) {
  const JsonObject o = parse_json_object(read_file(file, 1 << 20), file);
  OutlinePrompts p{o.string("outline_request"), o.string("point_request")};
  if (p.outline_request.find("{question}") == std::string::npos) {
    o.fail("outline_request", "a text with {question}", "none");
  }
  if (p.point_request.find("{index}") == std::string::npos && p.point_request.find("{point}") == std::string::npos) {
    o.fail("point_request", "a text with {index} or {point}", "none");
  }
  return p;
}

std::vector<std::string> parse_outline(const std::string& text, std::int64_t points_max) {
  std::map<std::int64_t, std::string> by_number;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = std::min(text.find('\n', at), text.size());
    const auto [number, point] = numbered_line(text.substr(at, end - at));
    at = end + 1;
    if (number < 1 || point.empty() || point.size() > kLongestPoint) continue;
    by_number.emplace(number, point);  // the first of a number counts
  }
  std::vector<std::string> points;
  for (const auto& [number, point] : by_number) {
    if (static_cast<std::int64_t>(points.size()) == points_max) break;
    if (std::find(points.begin(), points.end(), point) == points.end()) points.push_back(point);
  }
  return points;
}

std::int64_t OutlineAnswer::tokens() const {
  auto n = static_cast<std::int64_t>(plain.tokens.size());
  for (const OutlinePoint& p : points) n += static_cast<std::int64_t>(p.generated.tokens.size());
  return n;
}

OutlineAnswer answer_with_outline(Scheduler& scheduler, const Tokenizer& tokenizer, const ChatTemplate& chat,
                                  const OutlineOptions& options, const OutlineRequest& request,
                                  const std::function<void(const std::string&)>& show) {
  return OutlineRun(scheduler, tokenizer, chat, options, request, show).run();
}

}  // namespace jupiter

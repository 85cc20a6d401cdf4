// Each point begins as soon as its line of the outline is complete, while the next one is still being written.
#include "parallel/outline/outline.hpp"

#include <deque>

#include "io/timer.hpp"

namespace jupiter {

namespace {

// The points on their way: texts are shown in order, each as soon as those before it are complete.
class Assembly {
 public:
  explicit Assembly(std::function<void(const std::string&)> show) : show_(std::move(show)) {}
  void begin(const PointReader& reader, const std::string& text) {
    parts_.push_back({reader, ""});
    add(parts_.size() - 1, text);
  }
  // false: the point's text is complete.
  bool push(std::size_t i, TokenId token) {
    add(i, parts_[i].reader.push(token));
    return !parts_[i].reader.ended();
  }
  void finish(std::size_t i) {
    add(i, parts_[i].reader.finish());
    add(i, "\n");
    parts_[i].done = true;
    while (turn_ < parts_.size() && parts_[turn_].done) {
      if (++turn_ < parts_.size()) show_(parts_[turn_].text);
    }
  }
  const std::string& text(std::size_t i) const { return parts_[i].text; }

 private:
  struct Part {
    PointReader reader;
    std::string text;
    bool done = false;
  };
  void add(std::size_t i, const std::string& text) {
    parts_[i].text += text;
    if (i == turn_ && !text.empty()) show_(text);
  }
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
        options_(options),
        request_(request),
        show_(show),
        prompts_(tokenizer, chat, options, request_.question),
        outline_(tokenizer, options.points_max),
        assembly_([this](const std::string& text) { this->show(text); }) {}

  OutlineAnswer run() {
    if (prompts_.fits(scheduler_.context_tokens())) {
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

  // The outline. It ends with its turn, an empty line, or when nothing more can come of it.
  Request outline_request() {
    Request r = request_.request;
    r.prompt = prompts_.outline();
    r.max_new_tokens = prompts_.outline_tokens();
    r.sampling = OutlinePromptMaker::outline_sampling(r.sampling);
    r.on_token = [this](TokenId token) {
      // While the first token of the outline goes round, every stage has time for what all points begin with.
      if (!prefix_sent_) scheduler_.compute_prefix(prompts_.common());
      prefix_sent_ = true;
      start_points(outline_.push(token));
      return !outline_.is_over();
    };
    r.end_tokens = tokenizer_.data().end_of_turn;
    r.on_done = [this](Generated&& g) {
      answer_.outline_s = elapsed();
      start_points(outline_.finish(g.stopped));
      answer_.outline = outline_.text();
    };
    return r;
  }

  void start_points(const std::vector<std::string>& points) {
    if (interrupted_by() != ExitCode::ok) return;
    for (const std::string& point : points) start_point(point);
  }

  void start_point(const std::string& point) {
    const std::size_t i = answer_.points.size();
    answer_.points.push_back({point, "", {}});
    Request r = request_.request;
    r.prompt = prompts_.point(i + 1, point);
    r.max_new_tokens = options_.point_tokens;
    r.on_token = [this, i](TokenId token) { return assembly_.push(i, token); };
    r.on_done = [this, i](Generated&& g) {
      assembly_.finish(i);
      answer_.points[i].text = assembly_.text(i);
      answer_.points[i].generated = std::move(g);
    };
    assembly_.begin(PointReader(tokenizer_, options_.point_tokens), point_heading(i + 1, point));
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
  const OutlineOptions& options_;
  const OutlineRequest& request_;
  const std::function<void(const std::string&)>& show_;
  OutlinePromptMaker prompts_;
  OutlineReader outline_;
  Assembly assembly_;
  OutlineAnswer answer_;
  bool prefix_sent_ = false;
  Clock::time_point start_ = Clock::now();
};

}  // namespace

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

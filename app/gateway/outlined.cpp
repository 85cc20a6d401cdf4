// The same texts as those of `run --outline`: prompts and rules are shared (parallel/outline/outline_text.hpp).
#include "app/gateway/outlined.hpp"

#include <algorithm>
#include <deque>
#include <optional>
#include <utility>

#include "io/timer.hpp"
#include "parallel/outline/outline_text.hpp"

namespace jupiter {

namespace {

using nlohmann::ordered_json;
using std::chrono::milliseconds;

constexpr const char* kEvent = "chat.completion.chunk";

OutlineQuestion question_of(const std::vector<ChatMessage>& messages) {
  OutlineQuestion q;
  auto first = messages.begin();
  if (first->role == "system") q.system = (first++)->content;
  q.earlier.assign(first, messages.end() - 1);
  q.text = messages.back().content;
  return q;
}

// An answer of the backend, which is cancelled where it is no longer wanted.
class Part {
 public:
  Part(Backend& backend, std::shared_ptr<Generation> generation)
      : backend_(&backend), generation_(std::move(generation)) {}
  ~Part() { cancel(); }
  Part(Part&&) = default;
  Part(const Part&) = delete;

  void cancel() {
    if (generation_) backend_->cancel(generation_);
    generation_.reset();
  }
  bool open() const { return generation_ != nullptr; }
  // Hands on the tokens that came, waiting for some at most so long, until `take` returns false, which cancels it.
  // Returns once it has ended, whether by its end token or by `take`; otherwise the length ran out.
  template <typename Take>
  std::optional<bool> read(milliseconds limit, Take&& take) {
    for (const GivenToken& t : generation_->wait(limit)) {
      ++tokens_;
      if (take(t.token)) continue;
      cancel();
      return true;
    }
    const auto end = generation_->end();
    if (!end) return std::nullopt;
    check_end(*backend_, *end);
    generation_.reset();
    return end->stopped;
  }
  std::int64_t tokens() const { return tokens_; }

 private:
  Backend* backend_;
  std::shared_ptr<Generation> generation_;  // none: it has ended
  std::int64_t tokens_ = 0;
};

struct Point {
  std::string title;
  std::vector<TokenId> prompt;
  PointReader reader;
  std::string text;
  std::optional<Part> part = {};  // none: it waits for a place among the answers under way
  std::size_t told = 0;           // bytes of text
  bool ended = false;
};

class OutlinedCompletion : public Reply {
 public:
  OutlinedCompletion(const GatewayContext& context, ChatRequest request, std::vector<TokenId> plain)
      : context_(context),
        request_(std::move(request)),
        question_(question_of(request_.messages)),
        prompts_(*context.tokenizer, *context.chat_template, options_, question_),
        plain_prompt_(std::move(plain)),
        outline_reader_(*context.tokenizer, options_.points_max),
        head_(context, "chatcmpl-", request_.model) {
    if (!request_.seed_given && request_.sampling.temperature > 0) request_.sampling.seed = random_seed();
    if (!prompts_.fits(context_.context_tokens)) {
      begin_plain();
      return;
    }
    GenerationSpec spec = spec_of(prompts_.outline(), prompts_.outline_tokens());
    prompt_tokens_ += std::ssize(spec.prompt);
    spec.sampling = OutlinePromptMaker::outline_sampling(spec.sampling);
    spec.end_tokens = context_.tokenizer->data().end_of_turn;
    outline_.emplace(*context_.backend, submit_or_refuse(*context_.backend, std::move(spec)));
  }

  bool wait_for_all() override {
    while (!step(kLook)) {
      if (HttpServer::client_gone()) return false;
      check_time(context_, start_);
    }
    return true;
  }

  ordered_json object() const override {
    ordered_json j = head_.object(context_, "chat.completion");
    ordered_json message = {{"role", "assistant"}, {"content", text()}, {"refusal", nullptr}};
    j["choices"] = ordered_json::array(
        {{{"index", 0}, {"message", message}, {"logprobs", nullptr}, {"finish_reason", finish_reason()}}});
    j["usage"] = usage();
    return j;
  }

  std::string events(milliseconds limit) override {
    std::string out;
    if (!std::exchange(begun_, true)) out = event({{"role", "assistant"}, {"content", ""}}, nullptr);
    try {
      const bool ended = step(limit);
      tell(out);
      if (!ended) {
        check_time(context_, start_);
        return out;
      }
    } catch (const ApiError& e) {
      done_ = true;
      return out + event_text(error_object(e)) + kLastEvent;
    }
    done_ = true;
    out += event(ordered_json::object(), finish_reason());
    if (request_.include_usage) {
      ordered_json j = head_.object(context_, kEvent);
      j["choices"] = ordered_json::array();
      j["usage"] = usage();
      out += event_text(j);
    }
    return out + kLastEvent;
  }
  bool done() const override { return done_; }

 private:
  GenerationSpec spec_of(std::vector<TokenId> prompt, std::int64_t max_new_tokens) const {
    GenerationSpec spec;
    spec.prompt = std::move(prompt);
    spec.max_new_tokens = max_new_tokens;
    spec.sampling = request_.sampling;
    spec.logit_bias = request_.logit_bias;
    if (!request_.ignore_eos) spec.end_tokens = context_.tokenizer->data().end_of_turn;
    return spec;
  }

  void begin_plain() {
    prompt_tokens_ += std::ssize(plain_prompt_);
    plain_.emplace(*context_.backend, submit_or_refuse(*context_.backend, spec_of(plain_prompt_, request_.max_tokens)),
                   *context_.tokenizer, std::vector<std::string>{});
  }

  // Takes what came. true: everything is there.
  bool step(milliseconds limit) {
    if (outline_ && outline_->open()) {
      read_outline(limit);
      limit = milliseconds{0};
    }
    for (Point& p : points_) {
      if (p.ended) continue;
      begin_point(p);
      if (!p.part) continue;
      read_point(p, limit);
      limit = milliseconds{0};
    }
    if (outline_ && outline_->open()) return false;
    if (points_.empty()) return step_plain(limit);
    return std::all_of(points_.begin(), points_.end(), [](const Point& p) { return p.ended; });
  }

  void read_outline(milliseconds limit) {
    const auto stopped = outline_->read(limit, [&](TokenId token) {
      add_points(outline_reader_.push(token));
      return !outline_reader_.is_over();
    });
    if (stopped) add_points(outline_reader_.finish(*stopped));
  }

  void add_points(const std::vector<std::string>& titles) {
    for (const std::string& title : titles) {
      const std::size_t number = points_.size() + 1;
      points_.push_back({title, prompts_.point(number, title), PointReader(*context_.tokenizer, options_.point_tokens),
                         point_heading(number, title)});
      begin_point(points_.back());
    }
  }

  // Where too many answers are under way the point waits; a gateway that ends would let it wait for ever.
  void begin_point(Point& p) {
    if (p.part) return;
    auto generation = context_.backend->submit(spec_of(p.prompt, options_.point_tokens));
    if (!generation) return check_ending(*context_.backend);
    prompt_tokens_ += std::ssize(p.prompt);
    p.part.emplace(*context_.backend, std::move(generation));
  }

  void read_point(Point& p, milliseconds limit) {
    const auto stopped = p.part->read(limit, [&](TokenId token) {
      p.text += p.reader.push(token);
      return !p.reader.ended();
    });
    if (!stopped) return;
    p.text += p.reader.finish() + "\n";
    p.ended = true;
  }

  bool step_plain(milliseconds limit) {
    if (!plain_) begin_plain();
    plain_text_ += plain_->next(limit).text;
    if (!plain_->finished()) return false;
    check_end(*context_.backend, plain_->end());
    return true;
  }

  // Adds events of what was not told yet.
  void tell(std::string& out) {
    std::size_t number = 0;
    for (Point& p : points_) {
      ++number;
      if (p.told == p.text.size()) continue;
      ordered_json delta = {{"content", p.text.substr(p.told)}, {"outline", {{"point", number}, {"title", p.title}}}};
      out += event(std::move(delta), nullptr);
      p.told = p.text.size();
    }
    if (plain_told_ == plain_text_.size()) return;
    out += event({{"content", plain_text_.substr(plain_told_)}}, nullptr);
    plain_told_ = plain_text_.size();
  }

  std::string event(ordered_json delta, const ordered_json& finish) const {
    ordered_json j = head_.object(context_, kEvent);
    j["choices"] = ordered_json::array(
        {{{"index", 0}, {"delta", std::move(delta)}, {"logprobs", nullptr}, {"finish_reason", finish}}});
    if (request_.include_usage) j["usage"] = nullptr;
    return event_text(j);
  }

  std::string text() const {
    std::string all = plain_text_;
    for (const Point& p : points_) all += p.text;
    return all;
  }
  const char* finish_reason() const { return plain_ ? plain_->finish_reason() : "stop"; }

  ordered_json usage() const {
    std::int64_t made = (outline_ ? outline_->tokens() : 0) + (plain_ ? plain_->tokens() : 0);
    for (const Point& p : points_) made += p.part ? p.part->tokens() : 0;
    return {{"prompt_tokens", prompt_tokens_}, {"completion_tokens", made}, {"total_tokens", prompt_tokens_ + made}};
  }

  const GatewayContext& context_;
  ChatRequest request_;
  OutlineOptions options_;
  OutlineQuestion question_;
  OutlinePromptMaker prompts_;
  std::vector<TokenId> plain_prompt_;
  OutlineReader outline_reader_;
  std::optional<Part> outline_;  // none: the context has no room for one
  std::deque<Point> points_;
  std::optional<AnswerReader> plain_;
  std::string plain_text_;
  std::size_t plain_told_ = 0;  // bytes
  ReplyHead head_;
  std::int64_t prompt_tokens_ = 0;
  Clock::time_point start_ = Clock::now();
  bool begun_ = false, done_ = false;
};

}  // namespace

std::shared_ptr<Reply> outlined_reply(const GatewayContext& context, ChatRequest request, std::vector<TokenId> plain) {
  return std::make_shared<OutlinedCompletion>(context, std::move(request), std::move(plain));
}

}  // namespace jupiter

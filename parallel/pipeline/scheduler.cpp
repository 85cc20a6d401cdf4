// The life of a request: taken, started, its tokens, its end.
#include "parallel/pipeline/scheduler.hpp"

#include <algorithm>

#include "io/timer.hpp"

namespace jupiter {

Scheduler::Scheduler(Pipeline& pipeline, int stages, Options options)
    : pipeline_(pipeline), stages_(stages), options_(std::move(options)), account_(pipeline.stage()) {}

std::int64_t Scheduler::tree_blocks(const Request& r) const {
  return is_plain(r) ? 0 : spare_tree_blocks(stages_, r.decode.draft_max);
}

// Positions that a sequence of this request can have when it is alone.
std::int64_t Scheduler::longest_sequence(const Request& r) const {
  return std::min(options_.context_tokens, (account_.total() - tree_blocks(r)) * kKvBlock);
}

std::int64_t Scheduler::add(Request&& request) {
  const auto prompt = std::ssize(request.prompt), given = std::ssize(request.given);
  const std::int64_t longest = longest_sequence(request);
  if (prompt + given > longest) {
    throw UsageError("prompt: expected at most " + std::to_string(longest) +
                     (longest < options_.context_tokens ? " tokens (the KV cache)" : " tokens (the context, -c)") +
                     ", found " + std::to_string(prompt + given));
  }
  if (!request.grammar.empty()) {
    check(request.grammar, "grammar");
    if (request.end_tokens.empty()) throw UsageError("grammar: expected tokens that end the answer, found none");
  }
  auto job = std::make_shared<Job>();
  job->number = next_number_++;
  // The last token is drawn, but not computed.
  const std::int64_t left = longest - prompt, wanted = request.max_new_tokens;
  job->end_position = wanted > 0 && wanted <= left ? prompt + wanted - 1 : longest;
  job->out.tokens = std::move(request.given);
  job->request = std::move(request);
  job->start = Clock::now();
  if (waiting_.empty()) no_room_ = false;
  const std::int64_t number = job->number;
  waiting_.push_back(std::move(job));
  return number;
}

void Scheduler::cancel(std::int64_t number) {
  const auto a = std::find_if(active_.begin(), active_.end(), [&](const Active& x) { return x.job->number == number; });
  if (a != active_.end()) return finish(a);
  const auto w = std::find_if(waiting_.begin(), waiting_.end(), [&](const JobPtr& j) { return j->number == number; });
  if (w == waiting_.end()) return;
  const JobPtr job = *w;
  waiting_.erase(w);
  no_room_ = false;
  job->out.total_s = seconds_since(job->start);
  if (job->request.on_done) job->request.on_done(std::move(job->out));
}

void Scheduler::cancel_all() {
  while (!active_.empty()) finish(active_.begin());
  while (!waiting_.empty()) cancel(waiting_.back()->number);
}

Generated Scheduler::complete(Request&& request) {
  Generated made;
  request.on_done = [&](Generated&& g) { made = std::move(g); };
  add(std::move(request));
  run();
  return made;
}

void Scheduler::compute_prefix(std::vector<TokenId> prefix) {
  const auto tokens = std::ssize(prefix);
  const std::int64_t blocks = (tokens + kKvBlock - 1) / kKvBlock;
  if (tokens > options_.context_tokens || !kept_.is_worth_keeping(prefix) || !make_room(blocks, 0)) return;
  const SequenceId sequence = pipeline_.open({});
  std::int64_t at = 0;
  for (const std::int64_t rows : options_.chunks(tokens)) {
    Frame f;
    f.runs.push_back(FrameRun::consecutive(sequence, at, rows));
    f.tokens.assign(prefix.begin() + at, prefix.begin() + at + rows);
    at += rows;
    decode_frames_.push_back(false);
    pipeline_.submit(std::move(f));
  }
  for (const SequenceId old : kept_.add(sequence, std::move(prefix))) close(old, {}, nullptr, false);
}

bool Scheduler::submit_next() {
  if (pipeline_.in_flight() >= 2 * stages_ + 2) return false;
  auto frame = next_frame();
  if (frame) pipeline_.submit(std::move(*frame));
  return frame.has_value();
}

void Scheduler::run(const std::function<void()>& between_steps) {
  while (!active_.empty() || !waiting_.empty() || !closing_.empty()) {
    if (between_steps) between_steps();
    if (interrupted_by() != ExitCode::ok) {
      waiting_.clear();
      cancel_all();
    }
    while (pipeline_.has_result()) take(pipeline_.next_result());
    end_closed(false);
    admit();
    if (submit_next()) continue;
    if (pipeline_.pending_results() > 0) {
      take(pipeline_.next_result());
    } else if (!closing_.empty()) {
      end_closed(true);
    } else {
      check_progress();
    }
  }
}

// Nothing is on its way, so nothing can come that would change what cannot go on now.
void Scheduler::check_progress() const {
  if (active_.empty() && waiting_.empty()) return;
  throw RunError("scheduler: expected a request that can go on, found " + std::to_string(active_.size()) +
                 " running and " + std::to_string(waiting_.size()) + " waiting with " +
                 std::to_string(account_.free()) + " of " + std::to_string(account_.total()) +
                 " blocks of the KV cache free and nothing on its way (a defect of this program)");
}

void Scheduler::take(FrameResult&& result) {
  if (!result.late) {
    if (decode_frames_.front()) --decodes_in_flight_;
    decode_frames_.pop_front();
  }
  for (SequenceResult& r : result.sequences) {
    const auto a =
        std::find_if(active_.begin(), active_.end(), [&](const Active& x) { return x.sequence == r.sequence; });
    if (a != active_.end()) take(a, std::move(r));  // otherwise its answer has ended, or it was set back
  }
}

// Counts one token. false: the answer ends with it.
bool Scheduler::take_token(Job& job, TokenId token, std::span<const TokenLogprob> logprobs) {
  const Request& r = job.request;
  const auto& ends = r.end_tokens;
  job.out.tokens.push_back(token);
  if (job.out.ttft_s == 0) job.out.ttft_s = seconds_since(job.start);
  const bool is_end = std::find(ends.begin(), ends.end(), token) != ends.end();
  if (!is_end && r.on_logprobs && !logprobs.empty()) r.on_logprobs(logprobs);
  if (is_end || (r.on_token && !r.on_token(token))) {
    job.out.stopped = true;
    return false;
  }
  const auto n = std::ssize(job.out.tokens);
  return n != r.max_new_tokens && std::ssize(r.prompt) + n - 1 < job.end_position;
}

void Scheduler::take(Place a, SequenceResult&& r) {
  const std::vector<TokenId> tokens = std::move(r.tokens);
  const std::vector<TokenLogprob> logprobs = std::move(r.logprobs);
  if (!is_plain(a->job->request)) {
    a->segments.take(std::move(r));
  } else if (!tokens.empty()) {
    a->next = tokens.back();
  }
  const std::size_t each = tokens.empty() ? 0 : logprobs.size() / tokens.size();
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    if (!take_token(*a->job, tokens[i], std::span(logprobs).subspan(i * each, each))) return finish(a);
  }
}

void Scheduler::finish(Place a) {
  const Active done = std::move(*a);
  active_.erase(a);
  Generated& out = done.job->out;
  out.total_s = seconds_since(done.job->start);
  SequenceClose how{std::ssize(out.tokens), 0, done.segments.verdict()};
  std::vector<TokenId> tokens = done.job->request.prompt;
  tokens.insert(tokens.end(), out.tokens.begin(), out.tokens.end());
  if (!out.tokens.empty()) tokens.pop_back();  // the last one was not computed
  const std::int64_t keep = std::min({done.job->request.keep_tokens, std::ssize(tokens), done.decoding ? kKeepAll : 0});
  tokens.resize(keep);
  if (kept_.is_worth_keeping(tokens)) how.kept_tokens = keep;
  close(done.sequence, how, done.job, true);
  if (how.kept_tokens == 0) return;
  for (const SequenceId old : kept_.add(done.sequence, std::move(tokens))) close(old, {}, nullptr, false);
}

void Scheduler::close(SequenceId sequence, const SequenceClose& how, JobPtr job, bool done) {
  account_.close(sequence);
  pipeline_.close(sequence, how);
  closing_.push_back({sequence, std::move(job), done});
  no_room_ = false;
}

// Answers end in the order in which their sequences were closed.
void Scheduler::end_closed(bool wait) {
  while (!closing_.empty() && (wait || pipeline_.is_closed(closing_.front().sequence))) {
    wait = false;
    const Closing c = std::move(closing_.front());
    closing_.pop_front();
    const SequenceEnd end = pipeline_.closed(c.sequence);
    if (!c.job) continue;
    Generated& out = c.job->out;
    out.draft += end.draft;
    if (!c.done) continue;
    out.logits_digest = end.logits_digest;
    if (!is_plain(c.job->request)) out.steps = out.draft.steps;
    if (c.job->request.on_done) c.job->request.on_done(std::move(out));
  }
}

}  // namespace jupiter

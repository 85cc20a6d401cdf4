// Who gets blocks of the KV cache: requests that wait, rows that come next, and who gives way for them.
#include <algorithm>

#include "parallel/pipeline/scheduler.hpp"

namespace jupiter {

namespace {

// Tokens of an answer for which there must be room when its request starts, beside as many of every other one's: a
// request that is set back at once was started for nothing.
constexpr std::int64_t kGrowth = 64;
constexpr std::size_t kMostKept = 256;  // sequences

std::int64_t blocks_of(std::int64_t tokens) {
  return (tokens + kKvBlock - 1) / kKvBlock;
}

}  // namespace

// Positions that a request holds soon: its prompt, its answer so far, and the next tokens.
std::int64_t Scheduler::positions_soon(const Job& job) {
  const std::int64_t tokens = std::ssize(job.request.prompt) + std::ssize(job.out.tokens);
  return std::max(tokens, std::min(job.end_position, tokens + kGrowth));
}

// Beside those that it shares. A block of which only the first positions are shared is copied.
std::int64_t Scheduler::blocks_to_start(const Job& job, const PrefixCache::Match& match) const {
  return blocks_of(positions_soon(job)) - match.tokens / kKvBlock + tree_blocks(job.request);
}

// What running requests will take soon.
std::int64_t Scheduler::blocks_to_come() const {
  std::int64_t blocks = 0;
  for (const Active& a : active_) {
    const std::int64_t end = positions_soon(*a.job);
    blocks += account_.needed(a.sequence, std::min(account_.length(a.sequence), end), end);
  }
  return blocks;
}

// The one used longest ago, of those first whose end frees blocks: two kept sequences may hold the same blocks, and
// then neither frees any by itself. false: none is left but the spared one.
bool Scheduler::drop_kept(SequenceId spared) {
  const auto others = [&](SequenceId s) { return s != spared; };
  auto dropped = kept_.drop([&](SequenceId s) { return others(s) && account_.frees_blocks(s); });
  if (!dropped) dropped = kept_.drop(others);
  if (dropped) close(*dropped, {}, nullptr, false);
  return dropped.has_value();
}

// Room for a sequence that starts, beside what is to come of others; kept sequences but the spared one go for it, as
// far as that helps.
bool Scheduler::make_room(std::int64_t blocks, SequenceId spared) {
  const std::int64_t wanted = blocks + blocks_to_come();
  if (account_.free() >= wanted) return true;
  if (account_.free_for_open() < wanted) return false;
  while (account_.free() < wanted) {
    if (!drop_kept(spared)) return false;
  }
  return true;
}

void Scheduler::admit() {
  const auto another = [&] { return options_.most_at_once == 0 || std::ssize(active_) < options_.most_at_once; };
  while (!waiting_.empty() && another() && !no_room_) {
    const JobPtr job = waiting_.front();
    // At least one row of the prompt must be computed, and all whose logits count.
    PrefixCache::Match match = kept_.find(job->request.prompt, std::ssize(job->request.prompt) - 1);
    if (match.tokens > 0) kept_.touch(match.sequence);
    bool fits = make_room(blocks_to_start(*job, match), match.sequence);
    if (!fits && match.tokens > 0 && active_.empty()) {
      match = {};
      fits = make_room(blocks_to_start(*job, match), 0);
    }
    if (!fits) {
      no_room_ = true;
      return;
    }
    waiting_.pop_front();
    start(job, match);
  }
}

void Scheduler::start(const JobPtr& job, const PrefixCache::Match& match) {
  const Request& r = job->request;
  SequenceOptions o{r.sampling,   r.decode,     match.sequence, match.tokens,
                    r.end_tokens, r.logit_bias, r.grammar,      std::ssize(r.prompt)};
  o.decode.end_position = job->end_position;
  Active a;
  a.job = job;
  a.prompt = r.prompt;
  a.prompt.insert(a.prompt.end(), job->out.tokens.begin(), job->out.tokens.end());
  a.sequence = pipeline_.open(o);
  a.sent = match.tokens;
  if (job->out.set_back == 0) job->out.prefilled_tokens = std::ssize(r.prompt) - match.tokens;
  set_chunks(a);
  account_.open(a.sequence, tree_blocks(r));
  active_.push_back(std::move(a));
}

std::int64_t Scheduler::blocks_of_next_rows(const Active& a) const {
  if (!a.chunks.empty()) {
    const std::int64_t rows = std::min(a.chunks.front(), pipeline_.limits().max_rows);
    return account_.needed(a.sequence, a.sent, a.sent + rows);
  }
  if (a.next) {
    const std::int64_t position = std::ssize(a.job->request.prompt) + std::ssize(a.job->out.tokens) - 1;
    return account_.needed(a.sequence, position, position + 1);
  }
  if (a.segments.empty()) return 0;
  return account_.needed_for_tree(a.sequence, std::ssize(a.segments.front().tokens), a.job->end_position);
}

// Room for the rows that every running request sends next. What is kept goes first, then the youngest request.
void Scheduler::secure_next_rows() {
  while (kept_.size() > kMostKept && drop_kept(0)) continue;
  for (;;) {
    std::int64_t wanted = 0;
    for (const Active& a : active_) wanted += blocks_of_next_rows(a);
    if (wanted <= account_.free()) return;
    if (wanted <= account_.free_for_open() && drop_kept(0)) continue;
    if (active_.size() < 2) {
      throw RunError("scheduler: expected " + std::to_string(wanted) + " free blocks of the KV cache, found " +
                     std::to_string(account_.free()) + " with one request running (a defect of this program)");
    }
    set_back(std::max_element(active_.begin(), active_.end(),
                              [](const Active& x, const Active& y) { return x.job->number < y.job->number; }));
  }
}

void Scheduler::set_back(Place a) {
  const JobPtr job = a->job;
  const SequenceId sequence = a->sequence;
  active_.erase(a);
  ++job->out.set_back;
  close(sequence, {}, job, false);
  waiting_.push_front(job);
}

}  // namespace jupiter

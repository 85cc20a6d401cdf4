// One frame at a time: what is ready, in groups that leave work for every stage.
#include "parallel/scheduler.hpp"

#include <algorithm>

namespace jupiter {

namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

constexpr std::int64_t kRowsBesideDecoding = 32;  // of prompts, in a frame in which others decode

}  // namespace

Scheduler::Scheduler(Pipeline& pipeline, int stages, Options options)
    : pipeline_(pipeline),
      stages_(stages),
      options_(std::move(options)),
      free_blocks_(options_.cache_tokens / kKvBlock) {}

// Tokens at this position and later are not computed.
std::int64_t Scheduler::end_position(const Request& r) const {
  const auto prompt = static_cast<std::int64_t>(r.prompt.size());
  return r.max_new_tokens > 0 ? std::min(options_.context_tokens, prompt + r.max_new_tokens - 1)
                              : options_.context_tokens;
}

std::int64_t Scheduler::blocks_of(const Request& r) const {
  const std::int64_t end = std::max(end_position(r), static_cast<std::int64_t>(r.prompt.size()));
  const std::int64_t tree = r.decode.mode == DecodeMode::plain ? 0 : spare_tree_blocks(stages_, r.decode.draft_max);
  return (end + kKvBlock - 1) / kKvBlock - r.shared_tokens / kKvBlock + tree;
}

void Scheduler::add(Request&& request) {
  const std::int64_t most = options_.cache_tokens / kKvBlock;
  if (blocks_of(request) > most) {
    throw UsageError("request: expected at most " + std::to_string(most * kKvBlock) +
                     " tokens in the KV cache, found " + std::to_string(blocks_of(request) * kKvBlock));
  }
  waiting_.push_back(std::move(request));
  added_.push_back(Clock::now());
}

Generated Scheduler::complete(Request&& request) {
  Generated made;
  request.on_done = [&](Generated&& g) { made = std::move(g); };
  add(std::move(request));
  run();
  return made;
}

SequenceId Scheduler::keep_prefix(std::vector<TokenId> prefix) {
  const auto tokens = static_cast<std::int64_t>(prefix.size());
  const std::int64_t blocks = (tokens + kKvBlock - 1) / kKvBlock;
  if (tokens == 0 || blocks > free_blocks_) return 0;
  free_blocks_ -= blocks;
  const SequenceId sequence = pipeline_.open({});
  std::int64_t at = 0;
  for (const std::int64_t rows : options_.chunks(tokens)) {
    Frame f;
    f.runs.push_back({sequence, static_cast<std::int32_t>(at), static_cast<std::int32_t>(rows), 0, 0, {}});
    f.tokens.assign(prefix.begin() + at, prefix.begin() + at + rows);
    at += rows;
    decode_frames_.push_back(false);
    pipeline_.submit(std::move(f));
  }
  kept_.emplace(sequence, Kept{std::move(prefix), blocks, {}});
  return sequence;
}

// Starts requests in their order as far as the cache reaches.
void Scheduler::admit() {
  const auto room = [&] {
    const auto running = static_cast<std::int64_t>(active_.size() + closing_.size());
    return options_.most_at_once == 0 || running < options_.most_at_once;
  };
  while (!waiting_.empty() && room() && blocks_of(waiting_.front()) <= free_blocks_) {
    Active a;
    a.request = std::move(waiting_.front());
    a.start = added_.front();
    waiting_.pop_front();
    added_.pop_front();
    Request& r = a.request;
    a.blocks = blocks_of(r);
    free_blocks_ -= a.blocks;
    r.decode.end_position = end_position(r);
    SequenceOptions o{r.sampling, r.decode, r.parent, r.shared_tokens, {}, r.end_tokens};
    if (r.parent != 0) o.parent_verdict = kept_.at(r.parent).verdict;
    a.sequence = pipeline_.open(o);
    a.sent = r.shared_tokens;
    a.out.prefilled_tokens = static_cast<std::int64_t>(r.prompt.size()) - r.shared_tokens;
    const auto lengths = options_.chunks(a.out.prefilled_tokens);
    a.chunks.assign(lengths.begin(), lengths.end());
    active_.push_back(std::move(a));
  }
}

void Scheduler::add_segment(Frame& f, Active& a) {
  const Segment s = std::move(a.segments.front());
  a.segments.pop_front();
  f.runs.push_back({a.sequence, 0, static_cast<std::int32_t>(s.tokens.size()), FrameRun::tree, s.epoch, a.verdict});
  f.tokens.insert(f.tokens.end(), s.tokens.begin(), s.tokens.end());
  f.links.insert(f.links.end(), s.links.begin(), s.links.end());
}

// Rows of sequences that decode: a group's share of them, those that waited longest first.
std::int64_t Scheduler::add_decodes(Frame& f) {
  if (decodes_in_flight_ >= 2 * stages_ + 1) return 0;
  const auto decoding = std::count_if(active_.begin(), active_.end(), [](const Active& a) { return a.decoding; });
  if (decoding > 1 && decodes_in_flight_ >= stages_) return 0;
  std::int64_t room = std::max<std::int64_t>(1, (decoding + stages_ - 1) / stages_);
  const std::int64_t max_rows = pipeline_.limits().max_rows;
  // Whoever had a turn goes to the end, where it must not get another one: a frame has one run of a sequence at most.
  Place a = active_.begin();
  for (std::size_t left = active_.size(); left > 0 && room > 0; --left) {
    const Place here = a++;
    if (!has_work(*here)) continue;
    const auto rows = here->next ? 1 : static_cast<std::int64_t>(here->segments.front().tokens.size());
    if (f.rows() + rows > max_rows) break;
    if (here->next) {
      const auto position = here->request.prompt.size() + here->out.tokens.size() - 1;
      f.runs.push_back({here->sequence, static_cast<std::int32_t>(position), 1, FrameRun::sample, 0, {}});
      f.tokens.push_back(*here->next);
      here->next.reset();
      ++here->out.steps;
    } else {
      add_segment(f, *here);
    }
    --room;
    active_.splice(active_.end(), active_, here);
  }
  return f.rows();
}

void Scheduler::add_chunk(Frame& f, Active& a, std::int64_t rows) {
  const auto first = a.request.prompt.begin() + a.sent;
  const bool last = a.sent + rows == static_cast<std::int64_t>(a.request.prompt.size());
  std::uint32_t flags = last ? std::uint32_t{FrameRun::sample} : 0;
  if (last && a.request.decode.mode != DecodeMode::plain) flags |= FrameRun::draft;
  f.runs.push_back({a.sequence, static_cast<std::int32_t>(a.sent), static_cast<std::int32_t>(rows), flags, 0, {}});
  f.tokens.insert(f.tokens.end(), first, first + rows);
  a.sent += rows;
  a.decoding = last;
}

// Chunks of prompts, of several requests where they are short.
void Scheduler::add_prompts(Frame& f, std::int64_t decoding_rows) {
  const bool others = decodes_in_flight_ > 0 || decoding_rows > 0;
  const std::int64_t max_rows = pipeline_.limits().max_rows;
  std::int64_t longest = others ? kRowsBesideDecoding : max_rows;
  for (Active& a : active_) {
    if (a.chunks.empty()) continue;
    const std::int64_t room = std::min(longest, max_rows - f.rows());
    if (room < 1) return;
    const std::int64_t rows = std::min(a.chunks.front(), room);
    // The first chunk sets the length of the frame; a prompt is not cut to fill it up.
    if (rows < a.chunks.front() && !f.tokens.empty() && !others) return;
    if (!others && f.tokens.empty()) longest = std::max<std::int64_t>(rows, kRowsBesideDecoding);
    a.chunks.front() -= rows;
    if (a.chunks.front() == 0) a.chunks.pop_front();
    add_chunk(f, a, rows);
    longest -= rows;
  }
}

std::optional<Frame> Scheduler::next_frame() {
  Frame f;
  const std::int64_t decoding_rows = add_decodes(f);
  const bool full = decodes_in_flight_ > 0 && pipeline_.in_flight() > stages_;
  if (!full) add_prompts(f, decoding_rows);
  if (f.tokens.empty()) return std::nullopt;
  decode_frames_.push_back(decoding_rows > 0);
  if (decoding_rows > 0) ++decodes_in_flight_;
  return f;
}

void Scheduler::run() {
  while (!active_.empty() || !waiting_.empty() || !closing_.empty()) {
    if (interrupted_by() != ExitCode::ok) {
      waiting_.clear();
      added_.clear();
      while (!active_.empty()) finish(active_.begin());
    }
    while (pipeline_.has_result()) take(pipeline_.next_result());
    end_closed(false);
    admit();
    if (pipeline_.in_flight() < 2 * stages_ + 2) {
      if (auto frame = next_frame()) {
        pipeline_.submit(std::move(*frame));
        continue;
      }
    }
    if (pipeline_.pending_results() > 0) {
      take(pipeline_.next_result());
    } else if (!closing_.empty()) {
      end_closed(true);
    } else if (active_.empty() && !waiting_.empty()) {
      throw MemoryError("request: expected room for " + std::to_string(blocks_of(waiting_.front()) * kKvBlock) +
                        " tokens in the KV cache beside kept sequences, found " +
                        std::to_string(free_blocks_ * kKvBlock));
    }
  }
}

void Scheduler::take(FrameResult&& result) {
  if (!result.late) {
    if (decode_frames_.front()) --decodes_in_flight_;
    decode_frames_.pop_front();
  }
  for (SequenceResult& r : result.sequences) {
    const auto a =
        std::find_if(active_.begin(), active_.end(), [&](const Active& x) { return x.sequence == r.sequence; });
    if (a != active_.end()) take(a, std::move(r));  // otherwise its answer has ended
  }
}

// Counts one token. false: the answer ends with it.
bool Scheduler::take_token(Active& a, TokenId token) {
  const auto& ends = a.request.end_tokens;
  a.out.tokens.push_back(token);
  if (a.out.tokens.size() == 1) a.out.ttft_s = seconds_since(a.start);
  if (std::find(ends.begin(), ends.end(), token) != ends.end() || (a.request.on_token && !a.request.on_token(token))) {
    a.out.stopped = true;
    return false;
  }
  const auto n = static_cast<std::int64_t>(a.out.tokens.size());
  if (n == a.request.max_new_tokens) return false;
  return static_cast<std::int64_t>(a.request.prompt.size()) + n - 1 < options_.context_tokens;
}

void Scheduler::take(Place a, SequenceResult&& r) {
  if (a->request.decode.mode != DecodeMode::plain) {
    if (r.verdict.node != 0) a->verdict = r.verdict;
    while (!a->segments.empty() && a->segments.front().epoch < r.epoch) a->segments.pop_front();
    for (Segment& s : r.segments) a->segments.push_back(std::move(s));
  } else if (!r.tokens.empty()) {
    a->next = r.tokens.back();
  }
  for (const TokenId token : r.tokens) {
    if (!take_token(*a, token)) return finish(a);
  }
}

void Scheduler::finish(Place a) {
  a->out.total_s = seconds_since(a->start);
  if (a->request.keep) {
    Kept k{a->request.prompt, a->blocks, a->verdict};
    k.tokens.insert(k.tokens.end(), a->out.tokens.begin(), a->out.tokens.end());
    if (!a->out.tokens.empty()) k.tokens.pop_back();  // the last one was not computed
    a->out.kept = a->sequence;
    kept_.emplace(a->sequence, std::move(k));
    Active done = std::move(*a);
    active_.erase(a);
    if (done.request.on_done) done.request.on_done(std::move(done.out));
    return;
  }
  pipeline_.close(a->sequence, static_cast<std::int64_t>(a->out.tokens.size()));
  closing_.splice(closing_.end(), active_, a);
}

// Answers end in the order in which their sequences were closed.
void Scheduler::end_closed(bool wait) {
  while (!closing_.empty() && (wait || pipeline_.is_closed(closing_.front().sequence))) {
    wait = false;
    Active a = std::move(closing_.front());
    closing_.pop_front();
    const SequenceEnd end = pipeline_.closed(a.sequence);
    free_blocks_ += a.blocks;
    a.out.logits_digest = end.logits_digest;
    a.out.draft = end.draft;
    if (a.request.decode.mode != DecodeMode::plain) a.out.steps = end.draft.steps;
    if (a.request.on_done) a.request.on_done(std::move(a.out));
  }
}

void Scheduler::release(SequenceId kept) {
  const auto it = kept_.find(kept);
  if (it == kept_.end()) return;
  free_blocks_ += it->second.blocks;
  kept_.erase(it);
  pipeline_.close(kept, 0);
  pipeline_.closed(kept);
}

std::int64_t Scheduler::shareable(SequenceId kept, const std::vector<TokenId>& prompt) const {
  const auto it = kept_.find(kept);
  if (it == kept_.end()) return 0;
  const std::vector<TokenId>& tokens = it->second.tokens;
  const auto end = std::mismatch(tokens.begin(), tokens.end(), prompt.begin(), prompt.end()).first;
  return std::min<std::int64_t>(end - tokens.begin(), static_cast<std::int64_t>(prompt.size()) - 1);
}

}  // namespace jupiter

// The runs of a frame pass the output head together, in rounds: each round takes the rows that their paths need next.
#include "parallel/pipeline/decoder.hpp"

#include <algorithm>
#include <numeric>
#include <utility>

#include "io/error.hpp"
#include "io/timer.hpp"

namespace jupiter {

namespace {

constexpr std::int64_t kMostCandidates = 1024;  // beyond, all logits are no more to send

bool has(const FrameRun& run, FrameRun::Flags flag) {
  return (run.flags & flag) != 0;
}

std::span<const float> row_of(MatrixView<const float> m, std::int64_t row) {
  return {m.row(row), static_cast<std::size_t>(m.cols)};
}

}  // namespace

Decoder::State& Decoder::state(SequenceId sequence) {
  const auto it = states_.find(sequence);
  if (it == states_.end()) throw PeerError("frame of sequence " + std::to_string(sequence) + ", which is not open");
  return it->second;
}

std::unique_ptr<Constraint> Decoder::constraint_of(const SequenceOptions& options) {
  if (!matchers_) {
    if (!load_vocabulary_)
      throw PeerError("sequence with a grammar: expected a rank that has the vocabulary, found none");
    matchers_.emplace(load_vocabulary_());
  }
  return std::make_unique<Constraint>(matchers_->get(options.grammar), options.answer_position, options.end_tokens);
}

void Decoder::open(SequenceId sequence, const SequenceOptions& options) {
  std::vector<TokenId> shared;
  if (options.parent != 0) {
    const std::vector<TokenId>& history = state(options.parent).history;
    const auto n = std::min<std::int64_t>(options.shared_tokens, std::ssize(history));
    shared.assign(history.begin(), history.begin() + n);
  }
  State& s = states_[sequence];
  s.options = options;
  if (!options.grammar.empty()) s.constraint = constraint_of(options);
  if (options.decode.mode != DecodeMode::plain) {
    s.speculation.emplace(options.decode, drafters_ ? drafters_() : DraftMixer{}, s.constraint.get());
    s.speculation->read(shared);
  } else {
    s.history = std::move(shared);
  }
}

SequenceEnd Decoder::close(SequenceId sequence, const SequenceClose& close) {
  State& s = state(sequence);
  SequenceEnd end;
  const auto n = std::clamp<std::int64_t>(close.new_tokens, 0, std::ssize(s.digests));
  end.logits_digest = n > 0 ? s.digests[n - 1] : Hasher().digest();
  if (s.speculation) end.draft = s.speculation->stats();
  if (close.kept_tokens == 0) {
    states_.erase(sequence);
    return end;
  }
  State kept;
  const std::vector<TokenId>& history = s.speculation ? s.speculation->history() : s.history;
  kept.history.assign(history.begin(), history.begin() + std::min(std::ssize(history), close.kept_tokens));
  s = std::move(kept);
  return end;
}

bool Decoder::ends(const State& s, TokenId token) {
  const auto& ends = s.options.end_tokens;
  return std::find(ends.begin(), ends.end(), token) != ends.end();
}

// Brings every sequence's history up to this frame, and begins a walk for each of its runs.
void Decoder::take_rows(const Frame& frame, std::vector<Walk>& walks) {
  std::int64_t row = 0;
  std::size_t link = 0;
  for (const FrameRun& run : frame.runs) {
    Walk w{&run, &state(run.sequence), row, {}, 0, false};
    State& s = *w.state;
    const auto n = static_cast<std::size_t>(run.rows);
    s.newest_frame = frames_;
    if (has(run, FrameRun::tree)) {
      if (!s.speculation) throw PeerError("tree of sequence " + std::to_string(run.sequence) + ", which has none");
      s.speculation->arrive(run, std::span(frame.links).subspan(link, n));
      link += n;
    } else {
      const std::span<const TokenId> tokens = std::span(frame.tokens).subspan(row, n);
      if (s.speculation) {
        s.speculation->read(tokens);
      } else {
        s.history.resize(run.first_position);
        s.history.insert(s.history.end(), tokens.begin(), tokens.end());
      }
    }
    row += run.rows;
    walks.push_back(std::move(w));
  }
}

// The rows of the frame that a run needs from the output head next, at most about `limit` of them.
std::vector<std::int64_t> Decoder::rows_of(const Walk& w, std::size_t limit) const {
  std::vector<std::int64_t> rows;
  if (w.done) return rows;
  if (has(*w.run, FrameRun::tree)) {
    for (const std::size_t i : w.state->speculation->next_rows(limit, output_head_cost_.least_probability())) {
      rows.push_back(w.first_row + static_cast<std::int64_t>(i));
    }
  } else if (has(*w.run, FrameRun::digest)) {
    const std::int64_t room = std::max<std::int64_t>(1, static_cast<std::int64_t>(limit));
    const std::int64_t end = std::min<std::int64_t>(w.run->rows, w.digested + room);
    for (std::int64_t i = w.digested; i < end; ++i) rows.push_back(w.first_row + i);
  } else if (has(*w.run, FrameRun::sample)) {
    rows.push_back(w.first_row + w.run->rows - 1);
  }
  return rows;
}

// Counts the row before the token at `position`.
void Decoder::digest(State& s, std::int64_t position, std::uint64_t row_digest) {
  s.invariants.row_digested(position);
  s.logits.update(&row_digest, sizeof row_digest);
  s.digests.push_back(s.logits.digest());
}

// How many of the best logits of a row decide its token; 0: all of them.
std::int64_t Decoder::candidates_for(const State& s) {
  const SamplingOptions& o = s.options.sampling;
  if (has_penalties(o) || o.top_logprobs >= 0 || !s.options.logit_bias.empty() || s.constraint ||
      s.options.decode.typical) {
    return 0;
  }
  if (o.temperature <= 0) return 1;
  return o.top_k <= kMostCandidates ? o.top_k : 0;
}

// The token after `history`, drawn from these logits.
TokenId Decoder::choose(State& s, const std::vector<TokenId>& history, std::span<const float> logits) const {
  const SamplingOptions& o = s.options.sampling;
  std::vector<float> changed;
  if (!s.options.logit_bias.empty()) changed = biased(logits, s.options.logit_bias);
  const std::span<const float> used = changed.empty() ? logits : changed;
  return s.constraint ? s.constraint->draw(kernels_, used, o, history)
                      : sample(kernels_, used, o, history, std::ssize(history));
}

// The token that follows the newest one, from the logits of the row that was computed from `row_token`.
TokenId Decoder::draw(State& s, TokenId row_token, const OutputHeadRows& passed, std::int64_t row) {
  const std::span<const float> logits = row_of(passed.logits, row);
  const std::vector<TokenId>& history = s.speculation ? s.speculation->history() : s.history;
  const std::int64_t position = std::ssize(history);
  digest(s, position, passed.digest(row));
  std::optional<TokenId> plausible;
  if (s.speculation && s.options.decode.typical) {
    const TypicalAcceptance typical(kernels_, logits);
    const Constraint::State at = s.constraint ? s.constraint->follow(history) : 0;
    const auto allows = [&](TokenId t) { return !s.constraint || s.constraint->after(at, t) != Constraint::kRefused; };
    plausible = s.speculation->plausible_child([&](TokenId t) { return typical.accepts(t) && allows(t); });
  }
  s.invariants.token_drawn(row_token, history.back(), plausible.has_value(), s.options.decode.typical);
  const SamplingOptions& o = s.options.sampling;
  const TokenId token = plausible ? *plausible : choose(s, history, logits);
  if (o.top_logprobs >= 0) {
    const auto chosen = top_logprobs(kernels_, logits, token, o.top_logprobs);
    s.logprobs.insert(s.logprobs.end(), chosen.begin(), chosen.end());
  }
  return token;
}

// Takes `rows` rows of consecutive positions. Those before known tokens are only digested; the last one may decide the
// next token. tokens: of the frame.
void Decoder::advance_linear(Walk& w, std::span<const TokenId> tokens, std::size_t rows, const OutputHeadRows& passed,
                             std::int64_t first) {
  State& s = *w.state;
  const std::int64_t count = static_cast<std::int64_t>(rows), last = first + count - 1;
  const bool digests = has(*w.run, FrameRun::digest);
  // Index in the run of the first row.
  const std::int64_t begin = digests ? w.digested : w.run->rows - 1;
  w.digested = begin + count;
  w.done = w.digested == w.run->rows;
  const bool draws = w.done && has(*w.run, FrameRun::sample);
  for (std::int64_t row = first; row < last + (draws ? 0 : 1); ++row) {
    digest(s, w.run->first_position + begin + (row - first) + 1, passed.digest(row));
  }
  if (!draws) return;
  const TokenId row_token = tokens[w.first_row + w.run->rows - 1];
  const TokenId token = draw(s, row_token, passed, last);
  if (s.speculation && has(*w.run, FrameRun::draft)) {
    s.speculation->set_hidden(row_of(passed.hidden, last));
    s.speculation->start(token, ends(s, token));
  } else {
    w.tokens.push_back(token);
  }
}

// Decides as many tokens as the rows at hand allow. Row first + i of those that passed belongs to rows[i] of the frame,
// whose tokens are `tokens`.
void Decoder::advance(Walk& w, std::span<const TokenId> tokens, std::span<const std::int64_t> rows,
                      const OutputHeadRows& passed, std::int64_t first) {
  State& s = *w.state;
  if (!has(*w.run, FrameRun::tree)) return advance_linear(w, tokens, rows.size(), passed, first);
  for (;;) {
    const auto next = s.speculation->next_row();
    if (!next) break;
    const std::int64_t frame_row = w.first_row + static_cast<std::int64_t>(*next);
    const auto at = std::find(rows.begin(), rows.end(), frame_row);
    if (at == rows.end()) return;
    const std::int64_t row = first + (at - rows.begin());
    const TokenId token = draw(s, tokens[frame_row], passed, row);
    s.speculation->set_hidden(row_of(passed.hidden, row));
    s.speculation->accept(token, ends(s, token));
  }
  w.done = true;
}

void Decoder::show_rows(const Walk& w, const OutputHeadPass& pass) const {
  for (std::int64_t at = 0; at < w.run->rows; at += kMaxDrawnRows) {
    std::vector<std::int64_t> rows;
    for (std::int64_t i = at; i < std::min<std::int64_t>(w.run->rows, at + kMaxDrawnRows); ++i) {
      rows.push_back(w.first_row + i);
    }
    const OutputHeadRows passed = pass(rows, {});
    for (std::int64_t i = 0; i < passed.logits.rows; ++i) {
      sink_(w.run->sequence, w.run->first_position + at + i, row_of(passed.logits, i));
    }
  }
}

void Decoder::show_hidden(const Walk& w, const OutputHeadPass& pass) const {
  std::vector<std::int64_t> rows(w.run->rows);
  std::iota(rows.begin(), rows.end(), w.first_row);
  const OutputHeadRows passed = pass(rows, {.logits = false});
  for (std::int64_t i = 0; i < passed.hidden.rows; ++i) {
    hidden_sink_(w.run->sequence, w.run->first_position + i, row_of(passed.hidden, i));
  }
}

// The time of a tree's root round the ring tells what a lap takes besides computing.
void Decoder::time_lap(const Walk& w, const Frame& frame, double spent_s) {
  if (!w.state->root_on_way || w.run->rows == 0) return;
  w.state->root_on_way = false;
  const std::chrono::duration<double> lap = std::chrono::steady_clock::now() - w.state->root_sent;
  cost_.observe_overhead(lap.count() - frame.cost.sum_s() - spent_s);
}

// Sequences that had rows in the newest frames. Kept prefixes and earlier turns of a conversation are open, too, but
// they take no time of the pipeline.
int Decoder::active_sequences() const {
  const std::uint64_t recent = 2 * static_cast<std::uint64_t>(cost_.stages()) + 2;  // frames that can be in flight
  return static_cast<int>(std::count_if(states_.begin(), states_.end(),
                                        [&](const auto& s) { return s.second.newest_frame + recent > frames_; }));
}

// The load as a sequence sees it that drafts in this frame.
PipelineLoad Decoder::load_of(const Frame& frame) const {
  std::int64_t drafting = 0, prompt_rows = 0;
  for (const FrameRun& run : frame.runs) {
    if (has(run, FrameRun::tree) || has(run, FrameRun::draft)) {
      ++drafting;
    } else {
      prompt_rows += run.rows;
    }
  }
  return {.sequences = active_sequences(), .others_in_frame = drafting - 1, .prompt_rows = prompt_rows};
}

FrameResult Decoder::late_drafts() {
  FrameResult result;
  result.late = true;
  const auto now = std::chrono::steady_clock::now();
  for (auto& [id, s] : states_) {
    if (!s.speculation) continue;
    // The stages take one frame a slot. Until the next slot begins, more may become known.
    const std::chrono::duration<double> since = now - s.segments_sent;
    if (since.count() < cost_.slot_s(1)) continue;
    if (auto r = s.speculation->late_result(id, cost_, {.sequences = active_sequences()})) {
      s.segments_sent = now;
      result.sequences.push_back(std::move(*r));
    }
  }
  return result;
}

FrameResult Decoder::decode(const Frame& frame, double spent_s, const OutputHeadPass& pass) {
  ++frames_;
  std::vector<Walk> walks;
  take_rows(frame, walks);
  for (const Walk& w : walks) {
    if (has(*w.run, FrameRun::tree)) time_lap(w, frame, spent_s);
    if (has(*w.run, FrameRun::every_row) && sink_) show_rows(w, pass);
    if (has(*w.run, FrameRun::hidden) && hidden_sink_) show_hidden(w, pass);
  }
  for (bool more = true; more;) {
    more = false;
    std::vector<std::int64_t> rows;
    std::vector<std::pair<Walk*, std::vector<std::int64_t>>> asked;
    OutputHeadNeed need{.candidates = 1};
    for (Walk& w : walks) {
      std::vector<std::int64_t> next = rows_of(w, static_cast<std::size_t>(kMaxDrawnRows) - rows.size());
      if (next.empty()) continue;
      more = true;
      if (rows.size() + next.size() > static_cast<std::size_t>(kMaxDrawnRows)) break;  // in the next round
      rows.insert(rows.end(), next.begin(), next.end());
      const std::int64_t candidates = candidates_for(*w.state);
      need.candidates = std::min(need.candidates, candidates) == 0 ? 0 : std::max(need.candidates, candidates);
      asked.emplace_back(&w, std::move(next));
    }
    if (rows.empty()) break;
    const auto start = std::chrono::steady_clock::now();
    const OutputHeadRows passed = pass(rows, need);
    output_head_cost_.observe(std::ssize(rows), seconds_since(start));
    std::int64_t first = 0;
    for (auto& [walk, rows_of_walk] : asked) {
      advance(*walk, frame.tokens, rows_of_walk, passed, first);
      first += std::ssize(rows_of_walk);
    }
  }
  FrameResult result;
  for (Walk& w : walks) {
    SequenceResult r;
    r.sequence = w.run->sequence;
    if (w.state->speculation && (has(*w.run, FrameRun::tree) || has(*w.run, FrameRun::draft))) {
      r = w.state->speculation->result(w.run->sequence, cost_, load_of(frame));
      if (!r.segments.empty()) w.state->segments_sent = std::chrono::steady_clock::now();
      if (!r.segments.empty() && r.segments.front().links.front().node == r.verdict.node) {
        w.state->root_sent = std::chrono::steady_clock::now();
        w.state->root_on_way = true;
      }
    } else {
      r.tokens = std::move(w.tokens);
    }
    r.logprobs = std::exchange(w.state->logprobs, {});
    result.sequences.push_back(std::move(r));
  }
  return result;
}

}  // namespace jupiter

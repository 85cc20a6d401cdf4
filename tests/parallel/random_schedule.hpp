// Several requests on a ring whose messages are delayed at random (random_ring.hpp), which may lose all of its ranks:
// another ring, of another length, then goes on behind the tokens that rank 0 has, as the server does. What is done
// next, and with what, follows from one number, so that every schedule can be run again.
#pragma once

#include <map>
#include <sstream>

#include "random_ring.hpp"

namespace jupiter {

// One request: how it is decoded, and what plain decoding answers.
struct ScheduledRequest {
  std::vector<TokenId> prompt;
  DecodeOptions decode;
  SamplingOptions sampling;
  Answer want;
};

struct Schedule {
  std::uint64_t seed = 0;
  std::vector<int> rings;  // stages of each ring: all but the last one are lost
  double hit_rate = 0;
  bool late = false;  // a drafter on another rank takes part
  std::vector<ScheduledRequest> requests;
};

// As a failure shows it.
inline std::string text_of(const Schedule& s) {
  std::ostringstream text;
  text << "schedule " << s.seed << ": rings of";
  for (const int stages : s.rings) text << ' ' << stages;
  text << " stages, hit rate " << s.hit_rate << (s.late ? ", late drafts" : "");
  for (const ScheduledRequest& r : s.requests) {
    text << "; " << r.prompt.size() << " + " << r.want.tokens.size() << " tokens, mode "
         << static_cast<int>(r.decode.mode) << ", width " << r.decode.fixed_width << ", temperature "
         << r.sampling.temperature;
  }
  return text.str();
}

inline Schedule make_schedule(std::uint64_t seed) {
  std::mt19937_64 random(seed);
  const auto below = [&](std::uint64_t n) { return static_cast<int>(random() % n); };
  Schedule s;
  s.seed = seed;
  for (int i = 1 + below(3); i > 0; --i) s.rings.push_back(1 + below(4));
  s.hit_rate = 0.3 * below(4);
  s.late = below(3) == 0;
  for (int i = 1 + below(3); i > 0; --i) {
    ScheduledRequest r;
    // The first token tells requests apart.
    r.prompt = {static_cast<TokenId>(10 + s.requests.size())};
    for (int n = below(30); n > 0; --n) r.prompt.push_back(below(200));
    const std::int64_t count = 1 + below(50);
    if (below(3) == 0) {
      r.sampling = {.temperature = 0.9f, .repeat_penalty = 1.2f, .seed = random()};
    }
    r.decode = {.mode = static_cast<DecodeMode>(below(3)),
                .draft_max = kDraftMax,
                .fixed_width = 1 + below(kDraftMax + 1),
                .end_position = std::ssize(r.prompt) + count - 1};
    r.want = plain(r.prompt, count, r.sampling);
    s.requests.push_back(std::move(r));
  }
  return s;
}

// Drafts for all requests, each recognised by its first token.
class ScheduleDrafter : public Drafter {
 public:
  explicit ScheduleDrafter(const Schedule& schedule) {
    for (const ScheduledRequest& r : schedule.requests) {
      std::vector<TokenId> all = r.prompt;
      all.insert(all.end(), r.want.tokens.begin(), r.want.tokens.end());
      by_first_.emplace(all.front(), NoisyDrafter(all, schedule.hit_rate));
    }
  }
  void propose(DraftContext context, std::vector<Proposal>& out) override {
    by_first_.at(context.front()).propose(context, out);
  }
  void observe(DraftContext, TokenId) override {}

 private:
  std::map<TokenId, NoisyDrafter> by_first_;
};

class ScheduleRun {
 public:
  explicit ScheduleRun(const Schedule& schedule) : schedule_(schedule), random_(schedule.seed + 1) {
    for (const ScheduledRequest& r : schedule.requests) answers_.push_back({.request = &r});
  }

  // Runs it to its end, and expects the bits of plain decoding. Returns the number of drafted tokens that were right.
  std::int64_t run() {
    for (std::size_t i = 0; i < schedule_.rings.size(); ++i) {
      const bool is_lost = i + 1 < schedule_.rings.size();
      start_ring(schedule_.rings[i]);
      for (std::int64_t left = is_lost ? static_cast<std::int64_t>(below(400)) : 200'000; !all_done(); --left) {
        if (left == 0 && is_lost) break;
        if (left == 0) throw std::runtime_error("no end after 200000 random steps");
        step();
      }
    }
    for (const Running& a : answers_) {
      EXPECT_EQ(a.tokens, a.request->want.tokens) << text_of(schedule_);
      EXPECT_EQ(a.digest, a.request->want.digest) << text_of(schedule_);
    }
    return accepted_;
  }

 private:
  // An answer on the present ring.
  struct Running {
    const ScheduledRequest* request = nullptr;
    std::vector<TokenId> tokens = {};  // that rank 0 has; the last one may not be computed yet
    std::vector<TokenId> known = {};   // prompt and tokens as this ring was told them
    std::int64_t sent = 0;             // of `known`
    SequenceId sequence = 0;           // 0: not open
    bool done = false;
    std::optional<TokenId> next = {};  // plain decoding: the row to compute
    SegmentQueue segments = {};
    std::uint64_t digest = 0;

    std::int64_t missing() const { return std::ssize(request->want.tokens) - std::ssize(tokens); }
    bool is_plain() const { return request->decode.mode == DecodeMode::plain; }
  };

  std::size_t below(std::size_t n) { return static_cast<std::size_t>(random_() % n); }
  bool all_done() const {
    return std::all_of(answers_.begin(), answers_.end(), [](const Running& a) { return a.done; });
  }

  void start_ring(int stages) {
    verdicts_.clear();
    in_flight_.clear();
    invariants_ = {};
    submitted_ = answered_ = 0;
    ring_ = std::make_unique<Ring>(
        stages,
        [this] {
          DraftMixer m;
          m.add(std::make_shared<ScheduleDrafter>(schedule_));
          if (schedule_.late) {
            m.set_neural(std::make_shared<DraftBlender>(std::make_unique<LateDrafter>(late_tokens()),
                                                        DraftSource::model, false));
          }
          return m;
        },
        std::ssize(answers_));
    for (Running& a : answers_) {
      if (a.done) continue;
      const ScheduledRequest& r = *a.request;
      a.tokens.resize(std::min(a.tokens.size(), r.want.tokens.size()));
      if (!a.tokens.empty()) a.tokens.pop_back();  // the last one is drawn again
      a = {.request = &r, .tokens = std::move(a.tokens)};
      a.known = r.prompt;
      a.known.insert(a.known.end(), a.tokens.begin(), a.tokens.end());
    }
  }
  const std::vector<TokenId>& late_tokens() {
    late_ = schedule_.requests.front().prompt;
    const auto& want = schedule_.requests.front().want.tokens;
    late_.insert(late_.end(), want.begin(), want.end());
    return late_;
  }

  void step() {
    const std::size_t n = ring_->stages.size(), what = below(n + 3);
    if (schedule_.late && below(6) == 0) ask_late();
    if (what < n) return compute(what);
    if (what == n && !ring_->results.empty()) return take_result();
    if (what == n + 1) return submit();
    Running& a = answers_[below(answers_.size())];
    if (a.done) return;
    if (a.sequence == 0) return open(a);
    if (a.missing() <= 0 && !is_in_flight(a.sequence)) close(a);
  }

  bool is_in_flight(SequenceId sequence) const {
    return std::any_of(in_flight_.begin(), in_flight_.end(), [&](const std::vector<SequenceId>& frame) {
      return std::find(frame.begin(), frame.end(), sequence) != frame.end();
    });
  }

  void open(Running& a) {
    a.sequence = ++newest_sequence_;
    SequenceOptions o;
    o.decode = a.request->decode;
    o.sampling = a.request->sampling;
    ring_->open(a.sequence, o);
  }
  void close(Running& a) {
    a.tokens.resize(a.request->want.tokens.size());
    const SequenceEnd end = ring_->close(a.sequence, std::ssize(a.tokens));
    a.digest = end.logits_digest;
    accepted_ += end.draft.accepted;
    a.done = true;
  }

  // A frame of what some of the answers have to send.
  void submit() {
    Frame f;
    std::vector<SequenceId> sequences;
    for (Running& a : answers_) {
      if (a.sequence == 0 || a.done || a.missing() <= 0 || below(3) == 0) continue;
      const std::size_t runs = f.runs.size();
      if (a.sent < std::ssize(a.known)) {
        add_chunk(f, a);
      } else if (a.next) {
        f.runs.push_back(FrameRun::consecutive(a.sequence, std::ssize(a.request->prompt) + std::ssize(a.tokens) - 1, 1,
                                               FrameRun::sample));
        f.tokens.push_back(*std::exchange(a.next, {}));
      } else if (!a.segments.empty()) {
        const Segment s = a.segments.pop(invariants_);
        f.runs.push_back(tree_run(a.sequence, s, a.segments.verdict()));
        f.tokens.insert(f.tokens.end(), s.tokens.begin(), s.tokens.end());
        f.links.insert(f.links.end(), s.links.begin(), s.links.end());
      }
      if (f.runs.size() > runs) sequences.push_back(a.sequence);
    }
    if (f.runs.empty()) return;
    in_flight_.push_back(std::move(sequences));
    invariants_.frame_submitted(++submitted_);
    ring_->queues[0].push_back(std::move(f));
  }

  // Rows of what is known, as Scheduler cuts them: the prompt's, then those of tokens that the answer had before.
  void add_chunk(Frame& f, Running& a) {
    const std::int64_t first_digest = std::ssize(a.request->prompt) - 1;
    const bool has_given = !a.tokens.empty();
    const std::int64_t end = has_given && a.sent < first_digest ? first_digest : std::ssize(a.known);
    const std::int64_t rows = 1 + static_cast<std::int64_t>(below(std::min<std::size_t>(end - a.sent, 16)));
    const bool last = a.sent + rows == std::ssize(a.known);
    std::uint32_t flags = last ? std::uint32_t{FrameRun::sample} : 0;
    if (last && !a.is_plain()) flags |= FrameRun::draft;
    if (has_given && a.sent >= first_digest) flags |= FrameRun::digest;
    f.runs.push_back(FrameRun::consecutive(a.sequence, a.sent, rows, flags));
    f.tokens.insert(f.tokens.end(), a.known.begin() + a.sent, a.known.begin() + a.sent + rows);
    a.sent += rows;
  }

  void ask_late() {
    std::this_thread::sleep_for(std::chrono::microseconds(300));  // a slot, before which nothing more is sent
    FrameResult late = ring_->stages.back()->late_drafts();
    if (!late.sequences.empty()) ring_->results.push_back(std::move(late));
  }

  void compute(std::size_t r) {
    if (ring_->queues[r].empty()) return;
    Frame f = std::move(ring_->queues[r].front());
    ring_->queues[r].pop_front();
    const bool last = r + 1 == ring_->stages.size();
    const auto on_layer_done = [&, r] {
      while (!verdicts_.empty() && below(3) == 0) deliver(r);
    };
    FrameResult result = ring_->stages[r]->forward(f, last ? std::function<void()>() : on_layer_done);
    if (!last) return ring_->queues[r + 1].push_back(std::move(f));
    for (const SequenceResult& s : result.sequences) {
      if (s.verdict.node != 0) verdicts_.push_back({s.sequence, s.verdict});
    }
    ring_->results.push_back(std::move(result));
  }

  // Any verdict so far to any stage, maybe again, maybe of a sequence that is closed by now.
  void deliver(std::size_t r) {
    const SequenceVerdict& v = verdicts_[below(verdicts_.size())];
    ring_->stages[r]->queue_verdict(v.sequence, v.verdict);
    if (verdicts_.size() > 40) verdicts_.erase(verdicts_.begin());
  }

  Running* running(SequenceId sequence) {
    const auto it = std::find_if(answers_.begin(), answers_.end(),
                                 [&](const Running& a) { return a.sequence == sequence && !a.done; });
    return it == answers_.end() ? nullptr : &*it;
  }

  void take_result() {
    FrameResult result = std::move(ring_->results.front());
    ring_->results.pop_front();
    invariants_.result_came(result.late ? 0 : ++answered_, result);
    if (!result.late) in_flight_.pop_front();
    for (SequenceResult& s : result.sequences) {
      Running* a = running(s.sequence);
      if (a == nullptr) continue;
      for (const TokenId t : s.tokens) {
        a->tokens.push_back(t);
        if (a->is_plain() && a->missing() > 0) a->next = t;
      }
      a->segments.take(std::move(s));
    }
  }

  const Schedule& schedule_;
  std::mt19937_64 random_;
  std::vector<Running> answers_;
  std::unique_ptr<Ring> ring_;
  RingInvariants invariants_;
  std::vector<SequenceVerdict> verdicts_;
  std::vector<TokenId> late_;
  std::deque<std::vector<SequenceId>> in_flight_;  // frames that have no answer yet: whose rows they have
  std::uint64_t submitted_ = 0, answered_ = 0;
  SequenceId newest_sequence_ = 0;
  std::int64_t accepted_ = 0;
};

}  // namespace jupiter

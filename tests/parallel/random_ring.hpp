// A ring of stages in one process whose messages are delayed at random: frames keep their order, verdicts come early,
// late, twice, or not at all. Tests compare what comes out with plain decoding, bit by bit.
#pragma once

#include <gtest/gtest.h>

#include <deque>
#include <filesystem>
#include <random>
#include <thread>

#include "io/convert/convert.hpp"
#include "io/convert/synth.hpp"
#include "parallel/draft/draft_blender.hpp"
#include "parallel/pipeline/segment_queue.hpp"
#include "parallel/pipeline/stage.hpp"

namespace jupiter {

// A random model of 4 layers, made once.
class Model {
 public:
  static const Model& get() {
    static const Model model;
    return model;
  }
  const std::filesystem::path& path() const { return path_; }
  const Manifest& manifest() const { return manifest_; }
  ~Model() { std::filesystem::remove_all(path_); }

 private:
  Model() {
    std::string pattern = (std::filesystem::temp_directory_path() / "jupiter-XXXXXX").string();
    if (::mkdtemp(pattern.data()) == nullptr) throw std::runtime_error("mkdtemp");
    path_ = pattern;
    ModelConfig config = *synth_shape("tiny");
    config.n_layers = 4;
    manifest_ = convert_model(*synth_source(config, GgufType::q4_0, 3), path_, {});
  }
  std::filesystem::path path_;
  Manifest manifest_;
};

constexpr std::int64_t kContext = 160;
constexpr std::int64_t kDraftMax = 6;

// The stages of a ring in one process, with room for so many sequences.
struct Ring {
  Ring(int n, const DrafterFactory& drafters, std::int64_t sequences = 1) : pool({.threads = 1, .share_cores = true}) {
    const Manifest& m = Model::get().manifest();
    for (int r = 0; r < n; ++r) {
      const ModelPart part{m.config.n_layers * r / n, m.config.n_layers * (r + 1) / n, r == 0, r + 1 == n};
      const StageOptions options{
          .context_tokens = kContext,
          .cache_tokens = sequences * (kContext + 2 * (1 + spare_tree_blocks(n, kDraftMax)) * kKvBlock),
          .max_rows = 64};
      stages.push_back(
          std::make_unique<Stage>(m.config, ModelFiles(Model::get().path(), m, part, false), options, pool, n));
    }
    stages.back()->set_drafters(drafters);
    queues.resize(static_cast<std::size_t>(n));
  }
  void open(SequenceId id, const SequenceOptions& o) {
    for (auto& s : stages) s->open(id, o);
  }
  SequenceEnd close(SequenceId id, std::int64_t tokens) {
    SequenceEnd end;
    for (auto& s : stages) end = s->close(id, {tokens, 0, {}});
    return end;
  }
  ThreadPool pool;
  std::vector<std::unique_ptr<Stage>> stages;
  std::vector<std::deque<Frame>> queues;  // before each stage
  std::deque<FrameResult> results;
};

inline Frame prompt_frame(const std::vector<TokenId>& prompt, std::uint32_t flags) {
  Frame f;
  f.runs = {FrameRun::consecutive(1, 0, std::ssize(prompt), flags)};
  f.tokens = prompt;
  return f;
}

struct Answer {
  std::vector<TokenId> tokens;
  std::uint64_t digest = 0;
  std::int64_t steps = 0;
  DraftStats draft;
};

inline Answer plain(const std::vector<TokenId>& prompt, std::int64_t count, const SamplingOptions& sampling) {
  Ring ring(1, {});
  SequenceOptions o;
  o.sampling = sampling;
  ring.open(1, o);
  Answer a;
  Frame f = prompt_frame(prompt, FrameRun::sample);
  while (static_cast<std::int64_t>(a.tokens.size()) < count) {
    const FrameResult r = ring.stages[0]->forward(f);
    a.tokens.push_back(r.sequences.at(0).tokens.at(0));
    f = Frame{};
    f.runs = {FrameRun::consecutive(1, std::ssize(prompt) + std::ssize(a.tokens) - 1, 1, FrameRun::sample)};
    f.tokens = {a.tokens.back()};
  }
  a.digest = ring.close(1, count).logits_digest;
  return a;
}

// Right with some probability, otherwise wrong, and several children a node.
class NoisyDrafter : public Drafter {
 public:
  NoisyDrafter(std::vector<TokenId> tokens, double rate) : tokens_(std::move(tokens)), rate_(rate) {}
  void propose(DraftContext context, std::vector<Proposal>& out) override {
    const auto at = static_cast<std::int64_t>(context.size());
    for (std::uint32_t i = 0; i < 3; ++i) {
      TokenId t = static_cast<TokenId>(uniform(7, at, i) * 200);
      const bool right = context.size() < tokens_.size() && uniform(9, at, 0) < rate_ && i == at % 3;
      if (right) t = tokens_[context.size()];
      out.push_back({t, 0.3f - 0.05f * static_cast<float>(i), DraftSource::lookup});
    }
  }
  void observe(DraftContext, TokenId) override {}

 private:
  std::vector<TokenId> tokens_;
  double rate_;
};

// Rank 0 and the network, at random.
class RandomRun {
 public:
  // late: the last rank is asked now and then for what a drafter on another rank found.
  RandomRun(Ring& ring, std::uint64_t seed, bool late = false) : ring_(ring), random_(seed), late_(late) {}

  Answer run(const std::vector<TokenId>& prompt, std::int64_t count, const SequenceOptions& options) {
    ring_.open(1, options);
    submit(prompt_frame(prompt, FrameRun::sample | FrameRun::draft));
    count_ = count;
    while (static_cast<std::int64_t>(answer_.tokens.size()) < count_) {
      if (answer_.steps > 200000) throw std::runtime_error("no end after 200000 random steps");
      step();
    }
    drain();
    answer_.tokens.resize(static_cast<std::size_t>(count_));
    const SequenceEnd end = ring_.close(1, count_);
    answer_.digest = end.logits_digest;
    answer_.draft = end.draft;
    return answer_;
  }
  std::int64_t late_results() const { return late_results_; }

 private:
  std::size_t below(std::size_t n) { return static_cast<std::size_t>(random_() % n); }

  void step() {
    ++answer_.steps;
    const std::size_t n = ring_.stages.size(), what = below(n + 2);
    if (late_ && below(4) == 0) ask_late();
    if (what < n) return compute(what);
    if (what == n && !ring_.results.empty()) return take_result();
    if (!segments_.empty()) submit();
  }
  void drain() {
    for (std::size_t r = 0; r < ring_.stages.size(); ++r) {
      while (!ring_.queues[r].empty()) compute(r);
    }
    while (!ring_.results.empty()) take_result();
  }

  void ask_late() {
    std::this_thread::sleep_for(std::chrono::microseconds(300));  // a slot, before which nothing more is sent
    FrameResult late = ring_.stages.back()->late_drafts();
    if (late.sequences.empty()) return;
    ++late_results_;
    ring_.results.push_back(std::move(late));
  }

  void compute(std::size_t r) {
    if (ring_.queues[r].empty()) return;
    Frame f = std::move(ring_.queues[r].front());
    ring_.queues[r].pop_front();
    const bool last = r + 1 == ring_.stages.size();
    const auto on_layer_done = [&, r] {
      while (!verdicts_.empty() && below(3) == 0) deliver(r);
    };
    FrameResult result = ring_.stages[r]->forward(f, last ? std::function<void()>() : on_layer_done);
    if (!last) return ring_.queues[r + 1].push_back(std::move(f));
    for (const SequenceResult& s : result.sequences) {
      if (s.verdict.node != 0) verdicts_.push_back(s.verdict);
    }
    ring_.results.push_back(std::move(result));
  }

  // An early verdict to one stage; it stays in the list, so that others, or the same one, may get it later.
  void deliver(std::size_t r) {
    ring_.stages[r]->queue_verdict(1, verdicts_[below(verdicts_.size())]);
    ring_.stages[r]->queue_verdict(static_cast<SequenceId>(2 + below(5)), verdicts_[0]);  // of no open sequence
    if (verdicts_.size() > 20) verdicts_.erase(verdicts_.begin());
  }

  void take_result() {
    FrameResult result = std::move(ring_.results.front());
    ring_.results.pop_front();
    invariants_.result_came(result.late ? 0 : ++answered_, result);
    for (SequenceResult& s : result.sequences) {
      answer_.tokens.insert(answer_.tokens.end(), s.tokens.begin(), s.tokens.end());
      segments_.take(std::move(s));
    }
  }

  void submit() {
    const Segment s = segments_.pop(invariants_);
    Frame f;
    f.runs = {tree_run(1, s, segments_.verdict())};
    f.tokens = s.tokens;
    f.links = s.links;
    submit(std::move(f));
  }
  void submit(Frame&& f) {
    invariants_.frame_submitted(++submitted_);
    ring_.queues[0].push_back(std::move(f));
  }

  Ring& ring_;
  std::mt19937_64 random_;
  bool late_;
  SegmentQueue segments_;
  RingInvariants invariants_;
  std::uint64_t submitted_ = 0, answered_ = 0;
  std::int64_t late_results_ = 0;
  std::vector<Verdict> verdicts_;
  Answer answer_;
  std::int64_t count_ = 0;
};

inline const std::vector<TokenId> kPrompt = {5, 9, 2, 77, 5, 9, 2, 31, 8, 8, 40, 5, 9};

// Segments of a fixed width: what is chosen by measured times would differ from run to run.
inline SequenceOptions spec_options(DecodeMode mode, std::int64_t count, const SamplingOptions& sampling) {
  SequenceOptions o;
  o.sampling = sampling;
  o.decode = {mode, false, kDraftMax, 5, static_cast<std::int64_t>(kPrompt.size()) + count - 1};
  return o;
}

// What a comparison of random runs with plain decoding met on its way.
struct Compared {
  std::int64_t steps = 0;
  std::int64_t late_results = 0;
};

struct Comparison {
  double hit_rate = 0.7;  // of the drafts
  int stages = 4;
  DecodeMode mode = DecodeMode::continuous;
  SamplingOptions sampling = {};
  std::uint64_t seeds = 3;
  bool late = false;  // a drafter on another rank takes part
};

// A drafter on another rank: what it says about a context is there a while after it was asked.
class LateDrafter : public NeuralDrafter {
 public:
  explicit LateDrafter(std::vector<TokenId> tokens) : tokens_(std::move(tokens)) {}
  void begin(std::span<const float>) override { known_ = false; }
  std::vector<DraftGuess> guess(DraftContext context, std::size_t) override {
    if (!known_ || context.size() >= tokens_.size()) return {};
    return {{tokens_[context.size()], 0.6f}};
  }
  bool has_news() override { return known_ = true; }

 private:
  std::vector<TokenId> tokens_;
  bool known_ = false;
};

inline Compared compare_with_plain(const Comparison& c) {
  constexpr std::int64_t count = 100;
  const Answer want = plain(kPrompt, count, c.sampling);
  std::vector<TokenId> all = kPrompt;
  all.insert(all.end(), want.tokens.begin(), want.tokens.end());
  Compared met;
  Ring ring(c.stages, [&] {
    DraftMixer m;
    m.add(std::make_shared<NoisyDrafter>(all, c.hit_rate));
    if (c.late) {
      m.set_neural(std::make_shared<DraftBlender>(std::make_unique<LateDrafter>(all), DraftSource::model, false));
    }
    return m;
  });
  for (std::uint64_t seed = 0; seed < c.seeds; ++seed) {
    RandomRun run(ring, seed, c.late);
    const Answer got = run.run(kPrompt, count, spec_options(c.mode, count, c.sampling));
    EXPECT_EQ(got.tokens, want.tokens) << "stages " << c.stages << " seed " << seed;
    EXPECT_EQ(got.digest, want.digest) << "stages " << c.stages << " seed " << seed;
    EXPECT_GE(got.draft.accepted, c.hit_rate > 0.5 ? 15 : 0);  // it did speculate
    met.steps += got.steps;
    met.late_results += run.late_results();
  }
  return met;
}

}  // namespace jupiter

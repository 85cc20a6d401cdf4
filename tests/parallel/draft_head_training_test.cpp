// Training of draft heads: gradients against finite differences, and that it learns.
#include "parallel/train/draft_head_training.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "parallel/train/draft_head_data.hpp"

namespace jupiter {
namespace {

constexpr std::int64_t kTrainedDim = 32, kTrainedUnits = 24, kTrainedVocab = 20;

// A language in which each token decides the next one; hidden rows say which was decided, with some noise.
struct Language {
  Language() {
    std::normal_distribution<float> normal;
    for (float& x : output) x = normal(random);
  }
  DraftHeadBatch batch(std::int64_t spans, std::int64_t starts) {
    std::normal_distribution<float> normal;
    DraftHeadBatch b;
    b.dim = kTrainedDim;
    std::int64_t number = 0;
    for (std::int64_t s = 0; s < spans; ++s) {
      b.spans.push_back({static_cast<std::int64_t>(b.decided.size()), starts, number});
      number += starts;
      auto token = static_cast<std::int32_t>(random() % kTrainedVocab);
      for (std::int64_t i = 0; i < starts + kDraftHeadDepths; ++i) {
        token = (token * 7 + 3) % kTrainedVocab;
        b.decided.push_back(token);
        for (std::int64_t k = 0; k < kTrainedDim; ++k) {
          const float row = output[static_cast<std::size_t>(token * kTrainedDim + k)];
          b.embedded.push_back(row);
          b.hidden.push_back(row + 0.1f * normal(random));
        }
      }
    }
    return b;
  }
  std::mt19937 random{7};
  std::vector<float> output = std::vector<float>(kTrainedVocab * kTrainedDim);
};

struct Training {
  explicit Training(const Language& language, double dropout, int threads = 1)
      : pool({.threads = threads, .share_cores = true}),
        trainer({kernels(), pool}, {kTrainedDim, kTrainedUnits}, language.output,
                {.rate = 1e-2, .warm_up = 5, .dropout = dropout, .decay = 0.01, .steps = 200, .seed = 3}) {
    state.weights = initial_draft_head({kTrainedDim, kTrainedUnits}, 1.1f, 5);
    // Where w2 is zero, so is the gradient of w1.
    std::mt19937 random(11);
    std::normal_distribution<float> normal(0, 0.2f);
    for (float& w : state.weights) w += normal(random);
    state.first.resize(state.weights.size());
    state.second.resize(state.weights.size());
  }
  ThreadPool pool;
  DraftHeadTrainer trainer;
  DraftHeadTraining state;
};

TEST(DraftHeadTraining, GradientsAreThoseOfFiniteDifferences) {
  Language language;
  DraftHeadBatch batch = language.batch(3, 5);
  batch.decided[7] = -1;  // one that the draft vocabulary does not have
  Training t(language, 0);
  t.trainer.learn(batch, t.state.weights, 0);
  const std::vector<float> gradient = t.trainer.gradient();
  const DraftHeadShape shape{kTrainedDim, kTrainedUnits};
  const std::vector<std::pair<const char*, std::pair<std::int64_t, std::int64_t>>> parts = {
      {"w1", {0, shape.b1_at()}},
      {"b1", {shape.b1_at(), shape.w2_at()}},
      {"w2", {shape.w2_at(), shape.gain_at()}},
      {"gain", {shape.gain_at(), shape.size()}}};
  std::mt19937 random(2);
  std::normal_distribution<float> normal;
  for (const auto& [name, range] : parts) {
    for (int round = 0; round < 3; ++round) {
      std::vector<float> up = t.state.weights, down = up;
      double expected = 0;
      for (std::int64_t i = range.first; i < range.second; ++i) {
        const auto at = static_cast<std::size_t>(i);
        const float move = normal(random);
        expected += static_cast<double>(gradient[at]) * static_cast<double>(move);
        up[at] += 1e-3f * move;
        down[at] -= 1e-3f * move;
      }
      const double found = (t.trainer.score(batch, up).loss - t.trainer.score(batch, down).loss) / 2e-3;
      EXPECT_NEAR(found, expected, 0.02 * std::abs(expected) + 0.02) << name;
    }
  }
}

TEST(DraftHeadTraining, LearnsWhatFollows) {
  Language language;
  Training t(language, 0.1);
  const DraftHeadBatch validation = language.batch(4, 10);
  const DraftHeadScore before = t.trainer.score(validation, t.state.weights);
  for (std::int64_t step = 0; step < 200; ++step) {
    const DraftHeadScore s = t.trainer.learn(language.batch(4, 8), t.state.weights, step);
    t.trainer.update(t.state, s.counted);
  }
  const DraftHeadScore after = t.trainer.score(validation, t.state.weights);
  EXPECT_LT(after.loss, 0.5 * before.loss);
  for (std::size_t d = 0; d < kDraftHeadDepths; ++d) {
    EXPECT_GT(after.right[d], 0.8 * after.tried[d]) << d;  // by chance: 0.05
  }
}

TEST(DraftHeadTraining, TheSameGradientOnAnyNumberOfThreadsAndInAnyParts) {
  Language language;
  const DraftHeadBatch batch = language.batch(4, 9);
  Training one(language, 0.1, 1), three(language, 0.1, 3), parts(language, 0.1);
  one.trainer.learn(batch, one.state.weights, 4);
  three.trainer.learn(batch, three.state.weights, 4);
  for (const std::size_t first : {0u, 2u}) {  // as two ranks would
    DraftHeadBatch half = batch;
    half.spans = {batch.spans.begin() + static_cast<std::ptrdiff_t>(first),
                  batch.spans.begin() + static_cast<std::ptrdiff_t>(first + 2)};
    parts.trainer.learn(half, parts.state.weights, 4);
  }
  for (std::size_t i = 0; i < one.trainer.gradient().size(); ++i) {
    EXPECT_NEAR(one.trainer.gradient()[i], parts.trainer.gradient()[i], 1e-4f) << i;
    EXPECT_NEAR(one.trainer.gradient()[i], three.trainer.gradient()[i], 1e-4f) << i;
  }
}

TEST(DraftHeadData, VocabularyAndScheduleCoverTheAnswers) {
  TrainingAnswers answers;
  std::int64_t starts = 0;
  for (int a = 0; a < 120; ++a) {
    std::vector<TokenId> sequence(static_cast<std::size_t>(20 + a), 9);
    sequence.back() = static_cast<TokenId>(a % 4 == 0 ? 3 : 5);
    answers.add(sequence, 4);
    if (a % 50 != 0) starts += 20 + a - 4 - kDraftHeadDepths;
  }
  EXPECT_EQ(draft_vocabulary(answers, 2, 100), (std::vector<TokenId>{5, 9}));
  EXPECT_EQ(draft_vocabulary(answers, 10, 100), (std::vector<TokenId>{3, 5, 9}));
  DraftHeadSchedule schedule(answers, 512, 1), again(answers, 512, 1);
  std::vector<std::int64_t> rows;
  for (std::int64_t step = 0; step < schedule.steps_of_epoch(); ++step) {
    for (const auto& s : schedule.batch(step)) {
      for (std::int64_t i = 0; i < s.starts; ++i) rows.push_back(s.row + i);
    }
  }
  EXPECT_EQ(static_cast<std::int64_t>(rows.size()), starts);
  std::sort(rows.begin(), rows.end());
  EXPECT_EQ(std::adjacent_find(rows.begin(), rows.end()), rows.end());
  EXPECT_LE(rows.back() + kDraftHeadDepths, answers.rows());
  const std::int64_t step = schedule.steps_of_epoch() + 1;  // a run that goes on there has the same order
  EXPECT_EQ(schedule.batch(step).front().row, again.batch(step).front().row);
}

}  // namespace
}  // namespace jupiter

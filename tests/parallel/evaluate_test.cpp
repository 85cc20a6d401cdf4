// Evaluation: which tokens windows score, what is said about one token, and windows on a pipeline whatever its chunks.
#include "parallel/pipeline/evaluate.hpp"

#include <gtest/gtest.h>

#include <cmath>

#include "kernels/softmax.hpp"
#include "parallel/comm/mpi.hpp"
#include "random_ring.hpp"

namespace jupiter {
namespace {

TEST(EvalWindows, EachTokenIsScoredOnce) {
  for (const std::int64_t stride : {3, 5, 8}) {
    const std::vector<EvalWindow> windows = eval_windows(29, 8, stride);
    std::vector<int> scored(29);
    for (const EvalWindow& w : windows) {
      EXPECT_EQ(w.length, 8);
      for (std::int64_t i = w.scored_from; i < w.length; ++i) ++scored[w.first + i];
    }
    // Windows that do not overlap begin with a token that nothing stands before.
    for (std::int64_t t = 1; t < windows.back().first + 8; ++t) EXPECT_EQ(scored[t], stride == 8 && t % 8 == 0 ? 0 : 1);
    EXPECT_EQ(scored[0], 0);
  }
  const std::vector<EvalWindow> only = eval_windows(5, 8, 8);
  ASSERT_EQ(only.size(), 1u);
  EXPECT_EQ(only[0].length, 5);
  EXPECT_EQ(only[0].scored(), 4);
}

TEST(EvalWindows, ChoicesOfOneQuestionShareIt) {
  const std::vector<TokenId> tokens = {1, 2, 3, 4, 5, /**/ 1, 2, 3, 9, 9, /**/ 1, 2, 3, 4, 7};
  std::vector<EvalWindow> windows = {{0, 5, 3, 0}, {5, 5, 3, 0}, {10, 5, 4, 0}};
  share_prefixes(tokens, windows);
  EXPECT_EQ(windows[0].begin, 0);
  EXPECT_EQ(windows[1].begin, 2);  // not 3: the row before the first scored token is the first whose logits count
  EXPECT_EQ(windows[2].begin, 3);
}

TEST(EvalWindows, ThoseOutsideTheirTokensAreRefused) {
  const auto refused = [](const EvalWindow& w) {
    EXPECT_THROW(check_windows(std::vector{w}, 10), PeerError) << w.first;
  };
  EXPECT_NO_THROW(check_windows(eval_windows(10, 4, 3), 10));
  EXPECT_NO_THROW(check_windows(eval_windows(0, 4, 3), 0));
  refused({-1, 3, 1, 0});
  refused({8, 3, 1, 0});
  refused({INT64_MAX, 3, 1, 0});
  refused({0, INT64_MAX, 1, 0});
  refused({0, -1, 1, 0});
  refused({0, 3, 0, 0});
  refused({0, 3, 4, 0});
  refused({0, 3, 1, 4});
}

TEST(EvalStatistics, AreThoseOfTheDefinition) {
  const Distribution d = distribution_of({4, 1, 2, 3, 10});
  EXPECT_EQ(d.mean, 4);
  EXPECT_EQ(d.median, 3);
  EXPECT_EQ(d.max, 10);
  const MeanError e = mean_error({1, 2, 3, 4});
  EXPECT_EQ(e.mean, 2.5);
  EXPECT_NEAR(e.error, std::sqrt(5.0 / 3 / 4), 1e-12);
  EXPECT_EQ(mean_error({7}).error, 0);
}

class EvaluatorTest : public testing::Test {
 protected:
  static constexpr std::int64_t kVocab = 50;
  EvaluatorTest() {
    std::string pattern = (std::filesystem::temp_directory_path() / "jupiter-XXXXXX").string();
    if (::mkdtemp(pattern.data()) == nullptr) throw std::runtime_error("mkdtemp");
    folder_ = pattern;
    std::mt19937 random(3);
    std::normal_distribution<float> normal(0, 3);
    for (std::size_t t = 0; t < tokens_.size(); ++t) {
      rows_.emplace_back();
      for (std::int64_t v = 0; v < kVocab; ++v) rows_.back().push_back(normal(random));
    }
  }
  ~EvaluatorTest() override { std::filesystem::remove_all(folder_); }

  // Rows of windows as the last stage sees them: those before scored tokens.
  void feed(const LogitsSink& sink, float shift = 0) const {
    for (const EvalWindow& w : windows_) {
      for (std::int64_t p = w.scored_from - 1; p + 1 < w.length; ++p) {
        std::vector<float> row = rows_[w.first + p];
        for (float& x : row) x = x * (1 + shift);
        sink(1, p, row);
      }
    }
  }
  std::vector<double> log_probabilities(std::int64_t row, double factor = 1) const {
    double sum = 0;
    for (const float l : rows_[row]) sum += std::exp(factor * l);
    std::vector<double> p;
    for (const float l : rows_[row]) p.push_back(factor * l - std::log(sum));
    return p;
  }
  std::vector<std::int64_t> scored_tokens() const {
    std::vector<std::int64_t> all;
    for (const EvalWindow& w : windows_) {
      for (std::int64_t i = w.scored_from; i < w.length; ++i) all.push_back(w.first + i);
    }
    return all;
  }

  std::filesystem::path folder_;
  const std::vector<TokenId> tokens_ = {4, 8, 15, 16, 23, 42, 7, 7, 30, 31, 1, 2};
  const std::vector<EvalWindow> windows_ = {{0, 6, 1, 0}, {6, 6, 3, 0}};
  std::vector<std::vector<float>> rows_;  // logits after each token
};

TEST_F(EvaluatorTest, SaysWhatTheModelThinksOfEachScoredToken) {
  Evaluator evaluator(kernels(), tokens_, windows_, 12, nullptr, nullptr);
  feed(evaluator.sink());
  const std::vector<std::int64_t> scored = scored_tokens();
  ASSERT_EQ(evaluator.scores().size(), scored.size());
  for (std::size_t i = 0; i < scored.size(); ++i) {
    const TokenScore& s = evaluator.scores()[i];
    const std::vector<float>& row = rows_[scored[i] - 1];
    const auto best = std::max_element(row.begin(), row.end());
    const TokenId token = tokens_[scored[i]];
    EXPECT_NEAR(s.nll, -log_probabilities(scored[i] - 1)[token], 1e-5);
    EXPECT_EQ(s.best, best - row.begin());
    EXPECT_EQ(s.margin, double{*best} - double{row[token]});
    EXPECT_EQ(s.kl, 0);
  }
}

TEST_F(EvaluatorTest, MeasuresTheDivergenceFromAReference) {
  const auto path = folder_ / "reference.h5";
  {
    ReferenceWriter writer(path, {tokens_, 6, kVocab, "0123456789abcdef"});
    Evaluator evaluator(kernels(), tokens_, windows_, 12, nullptr, &writer);
    feed(evaluator.sink());
    writer.finish();
  }
  const ReferenceFile reference(path);
  Evaluator same(kernels(), tokens_, windows_, 12, &reference, nullptr);
  feed(same.sink());
  Evaluator other(kernels(), tokens_, windows_, 12, &reference, nullptr);
  feed(other.sink(), 0.5f);
  const std::vector<std::int64_t> scored = scored_tokens();
  for (std::size_t i = 0; i < scored.size(); ++i) {
    EXPECT_NEAR(same.scores()[i].kl, 0, 1e-5);  // what rounding to f16 leaves
    EXPECT_EQ(same.scores()[i].reference_best, same.scores()[i].best);
    const auto p = log_probabilities(scored[i] - 1), q = log_probabilities(scored[i] - 1, 1.5);
    double kl = 0;
    for (std::size_t v = 0; v < p.size(); ++v) kl += std::exp(p[v]) * (p[v] - q[v]);
    EXPECT_NEAR(other.scores()[i].kl, kl, 0.01 * kl + 1e-4);
  }
  Evaluator beyond(kernels(), tokens_, windows_, 3, &reference, nullptr);  // the reference has a row for 3 tokens only
  feed(beyond.sink(), 0.5f);
  EXPECT_GT(beyond.scores()[2].kl, 0);
  EXPECT_EQ(beyond.scores()[3].kl, 0);
}

TEST_F(EvaluatorTest, RefusesWhatIsNoNumber) {
  Evaluator evaluator(kernels(), tokens_, windows_, 12, nullptr, nullptr);
  std::vector<float> row(kVocab, std::nanf(""));
  EXPECT_THROW(evaluator.sink()(1, 0, row), RunError);
  const auto path = folder_ / "damaged.h5";
  {
    ReferenceWriter writer(path, {tokens_, 6, kVocab, "0123456789abcdef"});
    const std::vector<f16_t> nothing(kVocab, f16_t{0x7e00});  // NaN
    for (std::int64_t t = 0; t < 12; ++t) writer.write(t, nothing);
    writer.finish();
  }
  const ReferenceFile reference(path);
  Evaluator compared(kernels(), tokens_, windows_, 12, &reference, nullptr);
  EXPECT_THROW(feed(compared.sink()), FormatError);
}

// Scores of windows on the tiny model, one rank.
std::vector<TokenScore> evaluate(const std::vector<TokenId>& tokens, const std::vector<EvalWindow>& windows,
                                 std::int64_t chunk) {
  MpiSession mpi;
  Ring ring(1, {});
  Stage& stage = *ring.stages[0];
  Evaluator evaluator(stage.runtime().kernels, tokens, windows, std::ssize(tokens), nullptr, nullptr);
  stage.set_logits_sink(evaluator.sink());
  Trace trace(false);
  Pipeline pipeline(mpi, stage, ring.pool, trace, {});
  std::size_t done = 0;
  const auto chunks = [&](std::int64_t n) {
    std::vector<std::int64_t> lengths(n / chunk, chunk);
    if (n % chunk != 0) lengths.push_back(n % chunk);
    return lengths;
  };
  submit_windows(pipeline, tokens, windows, chunks, [&](std::size_t n) { done = n; });
  EXPECT_EQ(done, windows.size());
  return evaluator.scores();
}

TEST(Evaluate, ScoresDependNeitherOnChunksNorOnWhatWindowsShare) {
  std::vector<TokenId> tokens;
  for (int choice = 0; choice < 3; ++choice) {
    for (int i = 0; i < 40; ++i) tokens.push_back(static_cast<TokenId>(i < 30 ? 7 * i % 200 : 3 * i + choice));
  }
  std::vector<EvalWindow> windows = {{0, 40, 30, 0}, {40, 40, 30, 0}, {80, 40, 30, 0}};
  const std::vector<TokenScore> whole = evaluate(tokens, windows, 64);
  ASSERT_EQ(whole.size(), 30u);
  const auto expect_same = [&](const std::vector<TokenScore>& scores) {
    ASSERT_EQ(scores.size(), whole.size());
    for (std::size_t i = 0; i < whole.size(); ++i) {
      EXPECT_EQ(scores[i].nll, whole[i].nll) << i;
      EXPECT_EQ(scores[i].best, whole[i].best) << i;
    }
  };
  expect_same(evaluate(tokens, windows, 7));
  share_prefixes(tokens, windows);
  EXPECT_EQ(windows[1].begin, 29);
  expect_same(evaluate(tokens, windows, 64));
  expect_same(evaluate(tokens, windows, 5));
}

}  // namespace
}  // namespace jupiter

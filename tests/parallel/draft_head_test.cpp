// Heads at work: what they guess is what their weights say, and the mixture follows who was right.
#include "parallel/draft/draft_head.hpp"

#include "parallel/draft/draft_blender.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "parallel/train/draft_head_training.hpp"

namespace jupiter {
namespace {

constexpr std::int64_t kDim = 32, kUnits = 64, kVocab = 40;

std::vector<float> random_values(std::size_t n, float size, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, size);
  std::vector<float> values(n);
  for (float& v : values) v = normal(random);
  return values;
}

class Heads : public testing::Test {
 protected:
  ThreadPool pool{{.threads = 1, .share_cores = true}};
  Runtime rt{kernels(), pool};
  std::vector<float> output = random_values(kVocab * kDim, 1, 1);
  PackedRows packed{kVocab, kDim, [this](std::int64_t r, float* out) { std::copy_n(&output[r * kDim], kDim, out); }};
};

TEST_F(Heads, ASequentialHeadGuessesWhatTrainingComputes) {
  SequentialHead head;
  head.shape = {kDim, kUnits};
  for (TokenId t = 0; t < kVocab; ++t) head.tokens.push_back(t);
  head.weights = random_values(static_cast<std::size_t>(head.shape.size()), 0.15f, 2);
  for (auto i = head.shape.gain_at(); i < head.shape.size(); ++i) head.weights[static_cast<std::size_t>(i)] += 1;
  const auto draft = sequential_head_drafters(rt, head, packed.matrix())->make();
  const std::vector<float> hidden = random_values(kDim, 2, 3);
  const std::vector<TokenId> path = {4, 17, 9};
  draft->begin(hidden);
  const auto deep = draft->guess(path, 0);  // states in between are made on the way
  // The same by training's pass: a batch whose decided tokens are the path, then each guess; one of them is right.
  std::vector<float> embedded;
  for (const TokenId t : path) embedded.insert(embedded.end(), &output[t * kDim], &output[(t + 1) * kDim]);
  embedded.resize(4 * kDim);
  DraftHeadBatch batch{{{0, 1, 0}}, kDim, hidden, embedded, {4, 17, 9, 0}};
  batch.hidden.resize(4 * kDim);
  DraftHeadTrainer trainer(rt, head.shape, output, {.dropout = 0, .steps = 1});
  std::int32_t best = -1;
  for (std::int32_t t = 0; t < kVocab; ++t) {
    batch.decided[3] = t;
    if (trainer.score(batch, head.weights).right[2] > 0) best = t;
  }
  ASSERT_FALSE(deep.empty());
  EXPECT_EQ(deep.front().token, best);
  double sum = 0;
  for (std::size_t i = 0; i < deep.size(); ++i) {
    sum += static_cast<double>(deep[i].probability);
    EXPECT_LE(deep[i].probability, deep[i > 0 ? i - 1 : 0].probability);
  }
  EXPECT_LE(sum, 1 + 1e-5);
}

TEST_F(Heads, MedusaHeadsGuessTheirPlace) {
  MedusaHeads medusa;
  for (unsigned h = 0; h < 2; ++h) {
    MedusaHeads::Head head;
    std::vector<f16_t> weight, bias, out;
    for (const float x : random_values(kDim * kDim, 0.2f, 5 + h)) weight.push_back(f32_to_f16(x));
    for (const float x : random_values(kDim, 0.2f, 7 + h)) bias.push_back(f32_to_f16(x));
    for (const float x : random_values(kVocab * kDim, 1, 9 + h)) out.push_back(f32_to_f16(x));
    head.layers.push_back({weight, bias});
    head.output = out;
    medusa.heads.push_back(head);
  }
  const auto draft = medusa_head_drafters(rt, medusa, kDim)->make();
  const std::vector<float> hidden = random_values(kDim, 1, 12);
  draft->begin(hidden);
  for (std::size_t h = 0; h < 2; ++h) {
    std::vector<double> x(hidden.begin(), hidden.end()), y = x;
    for (std::size_t r = 0; r < kDim; ++r) {
      double z = static_cast<double>(f16_to_f32(medusa.heads[h].layers[0].bias[r]));
      for (std::size_t k = 0; k < kDim; ++k) {
        z += static_cast<double>(f16_to_f32(medusa.heads[h].layers[0].weight[r * kDim + k])) * x[k];
      }
      y[r] = x[r] + z / (1 + std::exp(-z));
    }
    std::vector<double> logits(kVocab);
    for (std::size_t v = 0; v < kVocab; ++v) {
      for (std::size_t k = 0; k < kDim; ++k) {
        logits[v] += static_cast<double>(f16_to_f32(medusa.heads[h].output[v * kDim + k])) * y[k];
      }
    }
    const auto best = std::max_element(logits.begin(), logits.end()) - logits.begin();
    const std::vector<TokenId> path(h + 1, 3);
    ASSERT_FALSE(draft->guess(path, 0).empty());
    EXPECT_EQ(draft->guess(path, 0).front().token, best) << h;
  }
  EXPECT_TRUE(draft->guess(std::vector<TokenId>{1, 2, 3}, 0).empty());  // there is no third head
}

// Says the same token whatever comes.
class Constant : public NeuralDrafter {
 public:
  explicit Constant(TokenId token) : token_(token) {}
  void begin(std::span<const float>) override {}
  std::vector<DraftGuess> guess(DraftContext, std::size_t) override { return {{token_, 0.6f}}; }

 private:
  TokenId token_;
};

double probability(const std::vector<Proposal>& proposals, TokenId token) {
  for (const Proposal& p : proposals) {
    if (p.token == token) return static_cast<double>(p.probability);
  }
  return 0;
}

// 40 tokens after which `right` comes; the others say 1, the head says 2. The mixture after them.
std::vector<Proposal> after(TokenId right, bool thrifty, NeuralUse* use = nullptr, double token_s = 1) {
  DraftBlender drafter(std::make_unique<Constant>(2), DraftSource::heads, thrifty);
  std::vector<TokenId> context = {0};
  std::vector<Proposal> proposals;
  const std::vector<float> hidden(4);
  drafter.observe({}, 0);
  for (int i = 0; i <= 40; ++i) {
    drafter.set_hidden(hidden);
    proposals = {{1, 0.5f, DraftSource::table}};
    drafter.blend(context, {1, token_s}, proposals);
    drafter.observe(context, right);
    context.push_back(right);
  }
  if (use != nullptr) *use = drafter.use();
  return proposals;
}

TEST(DraftBlender, TheMixtureFollowsWhoWasRight) {
  const auto head_right = after(2, false), others_right = after(1, false);
  EXPECT_LT(probability(head_right, 1), 0.1);  // of 0.5
  EXPECT_GT(probability(others_right, 1), 0.4);
  EXPECT_GT(probability(head_right, 2), 2 * probability(head_right, 1));
  EXPECT_GT(probability(others_right, 1), 2 * probability(others_right, 2));
  double sum = 0;
  for (const Proposal& p : head_right) sum += static_cast<double>(p.probability);
  EXPECT_LE(sum, 1 + 1e-5);
}

TEST(DraftBlender, AThriftyOneIsNotAskedWhereItDoesNotPay) {
  NeuralUse right, wrong, free;
  after(2, true, &right);
  after(1, true, &wrong);
  after(2, true, &free, 0);  // time costs nothing: nothing is gained
  EXPECT_EQ(right.asked, 41);
  EXPECT_LT(wrong.asked, 41);
  EXPECT_EQ(free.asked, 4);  // what it takes to know the time
}

}  // namespace
}  // namespace jupiter

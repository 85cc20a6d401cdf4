// Messages of a draft model on another rank, a model whose passes are given up, and the board that the planner finds.
#include "parallel/draft_model/remote_draft.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>

#include "io/convert/convert.hpp"
#include "io/convert/synth.hpp"

namespace jupiter {
namespace {

namespace fs = std::filesystem;

constexpr FrameLimits kLimits{.max_rows = 64, .max_position = 100, .vocab_size = 50, .residual_row_bytes = 0};

template <typename Decode>
void expect_cuts_refused(const Message& whole, const Decode& decode) {
  for (std::size_t n = 0; n < whole.payload.size(); ++n) {
    Message cut = whole;
    cut.payload.resize(n);
    EXPECT_THROW(decode(cut, kLimits), PeerError) << n;
  }
}

TEST(DraftContextMessage, ComesBackAndNonsenseIsRefused) {
  const Message whole = encode_context(3, {7, {1, 49}});
  const ContextChange c = decode_context(whole, kLimits);
  EXPECT_EQ(c.kept, 7u);
  EXPECT_EQ(c.tokens, (std::vector<TokenId>{1, 49}));
  expect_cuts_refused(whole, decode_context);
  Message other = whole;
  other.kind = MessageKind::guesses;
  EXPECT_THROW(decode_context(other, kLimits), PeerError);
  EXPECT_THROW(decode_context(encode_context(3, {0, {50}}), kLimits), PeerError);
  EXPECT_THROW(decode_context(encode_context(3, {0, {-1}}), kLimits), PeerError);
  EXPECT_THROW(decode_context(encode_context(3, {0, std::vector<TokenId>(102, 1)}), kLimits), PeerError);
}

TEST(DraftGuessesMessage, ComesBackAndNonsenseIsRefused) {
  const Message whole = encode_guesses(3, {99, {{4, 0.5f}, {5, 0.25f}}});
  const ContextGuesses g = decode_guesses(whole, kLimits);
  EXPECT_EQ(g.context_hash, 99u);
  ASSERT_EQ(g.guesses.size(), 2u);
  EXPECT_EQ(g.guesses[1].token, 5);
  EXPECT_EQ(g.guesses[1].probability, 0.25f);
  expect_cuts_refused(whole, decode_guesses);
  Message other = whole;
  other.kind = MessageKind::context;
  EXPECT_THROW(decode_guesses(other, kLimits), PeerError);
  EXPECT_THROW(decode_guesses(encode_guesses(3, {99, {{50, 0.5f}}}), kLimits), PeerError);
  EXPECT_THROW(decode_guesses(encode_guesses(3, {99, {{4, 1.5f}}}), kLimits), PeerError);
  EXPECT_THROW(decode_guesses(encode_guesses(3, {99, {{4, std::nanf("")}}}), kLimits), PeerError);
  EXPECT_THROW(decode_guesses(encode_guesses(3, {99, std::vector<DraftGuess>(17, {1, 0.01f})}), kLimits), PeerError);
}

class DraftModelTest : public testing::Test {
 protected:
  DraftModelTest() {
    std::string pattern = (fs::temp_directory_path() / "jupiter-XXXXXX").string();
    if (::mkdtemp(pattern.data()) == nullptr) throw std::runtime_error("mkdtemp");
    folder_ = pattern;
    manifest_ = convert_model(*synth_source(*synth_shape("tiny"), GgufType::q8_0, 3), folder_, {});
  }
  ~DraftModelTest() override { fs::remove_all(folder_); }

  fs::path folder_;
  Manifest manifest_;
  ThreadPool pool_{{.threads = 1, .share_cores = true}};
};

TEST_F(DraftModelTest, PassesThatAreGivenUpChangeNoGuess) {
  DraftModel calm(folder_, manifest_, manifest_, pool_, 256), disturbed(folder_, manifest_, manifest_, pool_, 256);
  std::vector<TokenId> context;
  int asked = 0, steps = 0;
  for (TokenId t = 0; t < 60; ++t) {
    context.push_back((7 * t) % 300);
    if (t % 9 == 4) context.resize(context.size() - 3);  // another path than the one that it went on with
    if (t % 5 != 0) continue;
    const std::vector<DraftGuess> expected = calm.guess(context);
    std::optional<std::vector<DraftGuess>> found;
    for (; !found; ++steps) found = disturbed.step(context, 4, [&] { return ++asked % 4 == 0; });
    ASSERT_EQ(found->size(), expected.size());
    for (std::size_t i = 0; i < expected.size(); ++i) {
      EXPECT_EQ((*found)[i].token, expected[i].token);
      EXPECT_EQ((*found)[i].probability, expected[i].probability);
    }
  }
  EXPECT_GT(asked, 20);
  EXPECT_GT(steps, 30) << "some passes were given up";
}

TEST_F(DraftModelTest, ARankThatIsAlwaysWantedDraftsNevertheless) {
  DraftModel model(folder_, manifest_, manifest_, pool_, 256);
  const std::vector<TokenId> context = {1, 2, 3};
  int steps = 1;
  while (!model.step(context, 8, [] { return true; })) ++steps;
  EXPECT_EQ(steps, 6);  // two passes (the context, its last token), each given up twice before
}

TEST_F(DraftModelTest, IsSilentBeyondItsContext) {
  DraftModel model(folder_, manifest_, manifest_, pool_, 32);
  EXPECT_FALSE(model.guess(std::vector<TokenId>(32, 1)).empty());
  EXPECT_TRUE(model.guess(std::vector<TokenId>(33, 1)).empty());
}

}  // namespace
}  // namespace jupiter

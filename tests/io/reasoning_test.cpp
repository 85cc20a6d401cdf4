// Answers with thinking in them, token by token.
#include "io/tokenizer/reasoning.hpp"

#include <gtest/gtest.h>

namespace jupiter {
namespace {

// A vocabulary of whole pieces; those of the form <|...|> are control tokens.
class Pieces {
 public:
  explicit Pieces(std::vector<std::string> pieces) : tokenizer_(data_of(std::move(pieces))) {}
  const Tokenizer& tokenizer() const { return tokenizer_; }

  struct Parts {
    std::string reasoning, content;
    std::int64_t reasoning_tokens = 0;
    bool operator==(const Parts&) const = default;
  };
  // All pieces, one after the other.
  Parts read(const std::vector<std::string>& answer, bool inside = false) const {
    ReasoningReader reader(tokenizer_, reasoning_form(tokenizer_), inside);
    Parts parts;
    const auto add = [&](const ReasoningReader::Piece& p) {
      parts.reasoning += p.reasoning;
      parts.content += p.content;
    };
    for (const std::string& piece : answer) add(reader.push(id_of(piece)));
    add(reader.finish());
    parts.reasoning_tokens = reader.reasoning_tokens();
    return parts;
  }

 private:
  static TokenizerData data_of(std::vector<std::string> pieces) {
    TokenizerData data;
    data.kind = TokenizerKind::sentencepiece;
    for (const std::string& piece : pieces) {
      data.types.push_back(piece.starts_with("<|") ? TokenType::control : TokenType::user_defined);
    }
    data.scores.assign(pieces.size(), 0);
    data.tokens = std::move(pieces);
    return data;
  }
  TokenId id_of(const std::string& piece) const {
    const auto& tokens = tokenizer_.data().tokens;
    return static_cast<TokenId>(std::find(tokens.begin(), tokens.end(), piece) - tokens.begin());
  }
  Tokenizer tokenizer_;
};

const Pieces kTags({"<think>", "</think>", "\n", "\n\n", "So", " it is", "4", ".", "<", "thin", "k>", "</", "think"});

TEST(Reasoning, TagsAreTakenApart) {
  using Parts = Pieces::Parts;
  EXPECT_EQ(kTags.read({"<think>", "\n", "So", "\n\n", " it is", "\n", "</think>", "\n\n", "4", "\n\n", "."}),
            (Parts{"So\n\n it is", "4\n\n.", 7}));
  EXPECT_EQ(kTags.read({"<think>", "\n\n", "</think>", "\n\n", "4"}), (Parts{"", "4", 3}));
  EXPECT_EQ(kTags.read({"So", "</think>", "4"}, true), (Parts{"So", "4", 2}));
  EXPECT_EQ(kTags.read({"4", ".", "<think>"}), (Parts{"", "4.<think>", 0}));  // only at the start
  EXPECT_EQ(kTags.read({"\n", "4"}), (Parts{"", "\n4", 0}));
}

TEST(Reasoning, MarkersInPiecesAreHeldBack) {
  using Parts = Pieces::Parts;
  EXPECT_EQ(kTags.read({"<", "thin", "k>", "So", "</", "thin", "k>", "4"}), (Parts{"So", "4", 5}));
  EXPECT_EQ(kTags.read({"<", "thin"}), (Parts{"", "<thin", 0}));
  EXPECT_EQ(kTags.read({"<think>", "So", "</", "thin"}), (Parts{"So</thin", "", 4}));
  EXPECT_EQ(kTags.read({"<", "4"}), (Parts{"", "<4", 0}));
}

TEST(Reasoning, ChannelsAreTakenApart) {
  using Parts = Pieces::Parts;
  const Pieces channels({"<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|return|>", "assistant", "analysis",
                         "final", "comment", "ary", " to=x", "So", "4", " ", "<think>", "</think>"});
  EXPECT_EQ(channels.read({"<|channel|>", "analysis", "<|message|>", "So", " ", "So", "<|end|>", "<|start|>",
                           "assistant", "<|channel|>", "final", "<|message|>", "4", "<|return|>"}),
            (Parts{"So So", "4", 5}));
  EXPECT_EQ(channels.read({"<|channel|>", "comment", "ary", "<|message|>", "So", "<|end|>", "<|start|>", "assistant",
                           "<|channel|>", "final", "<|message|>", "4"}),
            (Parts{"", "So4", 0}));
  EXPECT_EQ(channels.read({"4", "So"}), (Parts{"", "4So", 0}));  // not in its form
}

TEST(Reasoning, ModelsWithoutMarkersHaveNone) {
  const Pieces plain({"So", " it is", "\n"});
  EXPECT_EQ(reasoning_form(plain.tokenizer()), ReasoningForm::none);
  EXPECT_EQ(plain.read({"\n", "So", " it is", "\n"}), (Pieces::Parts{"", "\nSo it is\n", 0}));
}

}  // namespace
}  // namespace jupiter

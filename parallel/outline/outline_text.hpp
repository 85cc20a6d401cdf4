// Outlines as texts: the prompts that ask for them and for their points, the points that a model wrote, and where the
// text of a point ends. Everything is decided by texts alone, so that no answer depends on what came first.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "io/tokenizer/chat_template.hpp"
#include "io/tokenizer/tokenizer.hpp"
#include "kernels/sampler.hpp"

namespace jupiter {

// The texts that ask for an outline and for a point; {question}, {index} and {point} are replaced.
struct OutlinePrompts {
  struct Example {
    std::string question;
    std::string outline;  // "1. First point\n2. Second point"
  };
  std::string outline_request;
  std::string point_request;      // what stands before {index} and {point} is computed once for all points
  std::vector<Example> examples;  // turns of the conversation before the outline's own
  static OutlinePrompts standard();
  // Reads a JSON file with outline_request, point_request and perhaps examples. FormatError where a field is missing or
  // wrong.
  static OutlinePrompts read(const std::string& file);
};

struct OutlineOptions {
  OutlinePrompts prompts = OutlinePrompts::standard();
  std::int64_t points_max = 10;
  std::int64_t point_tokens = 96;  // most tokens of a point's text; after half of them it ends with the next sentence
};

// Most positions that the points of an outline with these options take in the cache, beside one context.
std::int64_t outline_cache_tokens(const OutlineOptions& options);

// The points of an outline as a model wrote it, at most points_max of them: its numbered lines, without the explanation
// after a colon. Left out are repeated texts, numbers that do not grow, empty lines, and lines without a number. So the
// points of a text's first lines are the first points of the text.
std::vector<std::string> parse_outline(const std::string& text, std::int64_t points_max);

// A point's text while it is generated: it finds where the text ends, and which part of it is shown.
class PointText {
 public:
  // Returns what can be shown by now. White space waits for what follows it, and becomes one space or one line break.
  std::string push(const std::string& piece);
  // Whether another point or a heading has begun, or a sentence has come for the second time.
  bool ended() const { return ended_; }
  bool at_end_of_sentence() const;

 private:
  enum class Start : std::uint8_t { unknown, elsewhere, text };
  static Start line_start(const std::string& text);
  bool repeats() const;
  std::string held_;  // not shown yet
  std::string shown_;
  bool ended_ = false;
};

// What is asked: the last turn of a conversation, and what stands before it.
struct OutlineQuestion {
  std::string system;                // empty means the template's own
  std::vector<ChatMessage> earlier;  // turns before the question
  std::string text;
};

// The prompts of one question. Everything must outlive it.
class OutlinePromptMaker {
 public:
  OutlinePromptMaker(const Tokenizer& tokenizer, const ChatTemplate& chat, const OutlineOptions& options,
                     const OutlineQuestion& question)
      : tokenizer_(tokenizer), chat_(chat), options_(options), question_(question) {}

  std::vector<TokenId> outline() const;
  // number: 1 and up.
  std::vector<TokenId> point(std::size_t number, const std::string& point) const;
  // What the prompts of all points begin with.
  std::vector<TokenId> common() const;
  // Most tokens of the outline itself.
  std::int64_t outline_tokens() const;
  // How the outline is sampled where answers are sampled like this.
  static SamplingOptions outline_sampling(SamplingOptions sampling);
  // Whether a context of so many tokens has room for the outline and for any point; otherwise the answer is plain.
  bool fits(std::int64_t context_tokens) const;

 private:
  std::vector<TokenId> seeded(const std::vector<ChatMessage>& turns, const std::string& start) const;
  std::vector<TokenId> point(const std::string& number, const std::string& point) const;
  const Tokenizer& tokenizer_;
  const ChatTemplate& chat_;
  const OutlineOptions& options_;
  const OutlineQuestion& question_;
};

// "1. point:", which the text of a point begins with.
std::string point_heading(std::size_t number, const std::string& point);

// An outline while a model writes it.
class OutlineReader {
 public:
  OutlineReader(const Tokenizer& tokenizer, std::int64_t points_max) : decoder_(tokenizer), points_max_(points_max) {}

  // Returns the points that are complete by now and were not returned before. One alone is no outline, and is kept
  // back.
  std::vector<std::string> push(TokenId token);
  // The rest. stopped: by the end of the turn; otherwise the last line may be cut.
  std::vector<std::string> finish(bool stopped);
  // Whether nothing more will come of it: a point stands there twice, or it has left the form of a list.
  bool is_over() const;
  const std::string& text() const { return text_; }

 private:
  std::vector<std::string> new_points(const std::string& lines);
  StreamDecoder decoder_;
  std::int64_t points_max_;
  std::string text_ = "1.";  // the prompt ends with it
  std::size_t returned_ = 0;
};

// The text of a point while a model writes it.
class PointReader {
 public:
  PointReader(const Tokenizer& tokenizer, std::int64_t point_tokens) : decoder_(tokenizer), left_(point_tokens / 2) {}

  // Returns what can be shown by now.
  std::string push(TokenId token);
  // Whether its text is complete: by itself, or with a sentence once half of its tokens are used, since all points wait
  // for the longest one.
  bool ended() const { return body_.ended() || (left_ <= 0 && body_.at_end_of_sentence()); }
  // What is left to be shown behind the last token.
  std::string finish();

 private:
  StreamDecoder decoder_;
  PointText body_;
  std::int64_t left_;
};

}  // namespace jupiter

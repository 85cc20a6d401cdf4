// Texts through tokenizers of every kind: what was encoded comes back byte for byte, segments of a text are the text,
// and a stream of tokens gives what all of them give.
#include "fuzz_target.hpp"
#include "io/convert/hf_tokenizer.hpp"
#include "io/files.hpp"
#include "io/tokenizer/pretokenizer.hpp"
#include "io/tokenizer/tokenizer.hpp"
#include "io/tokenizer/utf8.hpp"

namespace jupiter::fuzz {
namespace {

// One more than the largest id.
std::int64_t count_tokens(const JsonObject& tokenizer) {
  std::int64_t last = 0;
  const JsonObject vocab = tokenizer.object("model").object("vocab");
  for (const auto& item : vocab.value().items()) last = std::max(last, item.value().get<std::int64_t>());
  for (const auto& added : tokenizer.array_or_empty("added_tokens")) {
    last = std::max(last, added["id"].get<std::int64_t>());
  }
  return last + 1;
}

Tokenizer load(const std::string& name) {
  const std::string path = std::string(JUPITER_TEST_DATA) + "/tokenizers/" + name + "/tokenizer.json";
  const JsonObject tokenizer = parse_json_object(read_file(path), path);
  return Tokenizer(parse_hf_tokenizer({tokenizer, {}, {}, {}, {}, {}}, count_tokens(tokenizer)));
}

const std::vector<Tokenizer>& tokenizers() {
  static const std::vector<Tokenizer> all = [] {
    std::vector<Tokenizer> loaded;
    for (const char* name : {"gpt2", "smollm", "llama3", "qwen2", "llama2", "mistral", "gemma"}) {
      loaded.push_back(load(name));
    }
    return loaded;
  }();
  return all;
}

void check_words(std::string_view text, PreTokenizer pre) {
  std::size_t at = 0;
  for (const std::string_view word : split_words(text, pre)) {
    expect(!word.empty() && word.data() == text.data() + at, "words leave a gap");
    at += word.size();
  }
  expect(at == text.size(), "words end before their text");
}

void check_round_trip(const Tokenizer& tokenizer, std::string_view text, const std::vector<TokenId>& ids) {
  const TokenizerData& data = tokenizer.data();
  std::string bytes;
  for (const TokenId id : ids) {
    expect(id >= 0 && id < tokenizer.vocab_size(), "a token outside the vocabulary");
    bytes += tokenizer.piece(id);
  }
  // Qwen 2 composes characters; SentencePiece's mark of a space is one, also where a text has it.
  if (data.pre == PreTokenizer::qwen2) return;
  std::string expected(text);
  constexpr std::string_view kSpaceMark = "\u2581";
  if (data.kind == TokenizerKind::sentencepiece) {
    for (std::size_t at = 0; (at = expected.find(kSpaceMark, at)) != std::string::npos; ++at) {
      expected.replace(at, kSpaceMark.size(), " ");
    }
  }
  const bool has_one = data.space_prefix_once && expected.starts_with(' ');
  const bool added_first = text.starts_with("<user_tag>");  // no space goes before an added token
  const bool prefixed = data.add_space_prefix && !text.empty() && !has_one && !added_first;
  expect(bytes == (prefixed ? " " : "") + expected, "bytes are lost");
}

void check_stream(const Tokenizer& tokenizer, const std::vector<TokenId>& ids) {
  StreamDecoder decoder(tokenizer);
  std::string text;
  for (const TokenId id : ids) {
    const std::string piece = decoder.push(id);
    expect(to_valid_utf8(piece) == piece, "a piece of a stream is no UTF-8");
    text += piece;
  }
  text += decoder.finish();
  expect(text == tokenizer.decode(ids), "a stream gives another text");
}

// Ordinary segments are one text, wherever it is cut.
void check_segments(const Tokenizer& tokenizer, std::string_view text, std::size_t first, std::size_t second,
                    const std::vector<TokenId>& ids) {
  const std::size_t a = std::min(first, second), b = std::max(first, second);
  const std::vector<PromptSegment> plain = {{std::string(text.substr(0, a)), false},
                                            {std::string(text.substr(a, b - a)), false},
                                            {std::string(text.substr(b)), false}};
  expect(tokenizer.encode(plain) == ids, "segments of a text give other tokens");
  std::vector<PromptSegment> special = plain;
  for (PromptSegment& s : special) s.special = true;
  expect(tokenizer.encode(special) == tokenizer.encode(text, true), "special segments give other tokens");
  special[1].special = false;
  check_stream(tokenizer, tokenizer.encode(special));
}

const Target target("tokenizer", [](Input input) {
  Pieces pieces(input);
  const Tokenizer& tokenizer = tokenizers()[pieces.below(tokenizers().size())];
  const std::size_t first = pieces.below(input.size() + 1), second = pieces.below(input.size() + 1);
  const std::string_view text = as_text(pieces.rest());
  check_words(text, tokenizer.data().pre);
  const std::vector<TokenId> ids = tokenizer.encode(text, false);
  check_round_trip(tokenizer, text, ids);
  check_stream(tokenizer, ids);
  check_segments(tokenizer, text, std::min(first, text.size()), std::min(second, text.size()), ids);
  std::vector<TokenId> any;  // tokens that no text gave, and ids that are none
  for (std::size_t i = 0; i + 1 < text.size(); i += 2) {
    any.push_back(
        static_cast<TokenId>(static_cast<std::uint8_t>(text[i]) << 8 | static_cast<std::uint8_t>(text[i + 1])) - 5);
  }
  check_stream(tokenizer, any);
});

}  // namespace
}  // namespace jupiter::fuzz

// The tokenizer of a Hugging Face folder: its JSON files, one a line. What is read makes a tokenizer, or is refused.
#include "fuzz_target.hpp"
#include "io/convert/hf_tokenizer.hpp"
#include "io/tokenizer/tokenizer.hpp"

namespace jupiter::fuzz {
namespace {

constexpr std::int64_t kVocabulary = 1000;

std::optional<JsonObject> file_of(std::string_view line, const char* name) {
  if (line.empty()) return std::nullopt;
  return parse_json_object(line, name);
}

const Target target("hf_tokenizer", [](Input input) {
  Pieces lines(input);
  accepted([&] {
    HfTokenizerFiles files{parse_json_object(lines.part('\n'), "tokenizer.json"), {}, {}, {}, {}, {}};
    files.tokenizer_config = file_of(lines.part('\n'), "tokenizer_config.json");
    files.special_tokens = file_of(lines.part('\n'), "special_tokens_map.json");
    files.generation_config = file_of(lines.part('\n'), "generation_config.json");
    files.config = file_of(lines.part('\n'), "config.json");
    files.chat_template = lines.part('\n');
    const Tokenizer tokenizer(parse_hf_tokenizer(files, kVocabulary));
    const std::vector<TokenId> tokens = tokenizer.encode("<s>Hello,  w\u00f6rld! 123 \n\n\xff", true);
    for (const TokenId t : tokens) expect(t >= -1 && t < kVocabulary, "a token outside the vocabulary");
    tokenizer.decode(tokens);
  });
});

}  // namespace
}  // namespace jupiter::fuzz

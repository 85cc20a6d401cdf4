// JSON Schemas: whatever text the grammar of one leads to is JSON.
#include "fuzz_target.hpp"
#include "io/grammar/json_schema.hpp"
#include "io/grammar/matcher.hpp"
#include "io/json_fields.hpp"

namespace jupiter::fuzz {
namespace {

const std::shared_ptr<const TokenTrie>& all_bytes() {
  static const std::shared_ptr<const TokenTrie> trie = [] {
    std::vector<std::string> tokens;
    for (int byte = 0; byte < 256; ++byte) tokens.emplace_back(1, static_cast<char>(byte));
    return std::make_shared<const TokenTrie>(tokens, false);
  }();
  return trie;
}

// A text of the grammar: forced bytes, then those that `path` chooses. Empty where it comes to no end.
std::string text_of(Matcher& matcher, Pieces& path) {
  std::string text;
  Matcher::State state = matcher.start();
  for (int step = 0; step < 200; ++step) {
    if (matcher.may_end(state) && (path.empty() || path.byte() % 4 == 0)) return text;
    const TokenMask& mask = matcher.mask(state);
    std::vector<std::uint8_t> allowed;
    for (int byte = 0; byte < 256; ++byte) {
      if (mask.has(byte)) allowed.push_back(static_cast<std::uint8_t>(byte));
    }
    if (allowed.empty()) return {};
    const std::uint8_t byte = allowed[path.byte() % allowed.size()];
    text += static_cast<char>(byte);
    state = matcher.next(state, byte);
    expect(state != Matcher::kRefused, "a byte of the mask is refused");
  }
  return {};
}

const Target target("json_schema",
                    [](Input input) {
                      Pieces parts(input);
                      accepted([&] {
                        const auto schema = parse_json<nlohmann::ordered_json>(parts.part('\0'), "schema");
                        const std::string gbnf = json_schema_gbnf(schema, "schema");
                        GrammarSpec spec{gbnf};
                        expect(accepted([&] { parse_gbnf(gbnf, "schema"); }) || gbnf.size() > kMostGrammarBytes,
                               "the grammar of a schema is wrong");
                        Matcher matcher(spec, all_bytes());
                        const std::string text = text_of(matcher, parts);
                        if (!text.empty())
                          expect(accepted([&] { parse_json(text, "answer"); }), "an answer is no JSON");
                      });
                    },
                    {.times_input = 64, .floor_bytes = 8 << 20});

}  // namespace
}  // namespace jupiter::fuzz

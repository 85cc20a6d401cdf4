// Grammars in GBNF, and the bytes that may follow in a text that they describe.
#include "fuzz_target.hpp"
#include "io/grammar/matcher.hpp"

namespace jupiter::fuzz {
namespace {

// All bytes, and some longer tokens.
const std::shared_ptr<const TokenTrie>& vocabulary() {
  static const std::shared_ptr<const TokenTrie> trie = [] {
    std::vector<std::string> tokens;
    for (int byte = 0; byte < 256; ++byte) tokens.emplace_back(1, static_cast<char>(byte));
    for (const char* longer : {"{\"", "\": ", "true", "null", "ab", "abc", " a", "\n\n", "\u00e4", ""}) {
      tokens.emplace_back(longer);
    }
    return std::make_shared<const TokenTrie>(tokens, false);
  }();
  return trie;
}

// A walk through the grammar: each byte of `path` chooses one of the tokens that may follow. The mask, single bytes,
// and a second matcher must say the same.
void walk(Matcher& matcher, Matcher& second, Pieces& path) {
  Matcher::State state = matcher.start();
  for (int step = 0; step < 64 && !path.empty(); ++step) {
    const TokenMask& mask = matcher.mask(state);
    std::vector<TokenId> allowed;
    for (TokenId t = 0; t < vocabulary()->vocab_size(); ++t) {
      if (mask.has(t)) allowed.push_back(t);
    }
    expect(std::ssize(allowed) == mask.count, "a mask has another count than tokens");
    const std::string forced = matcher.forced(state, 16);
    if (!forced.empty()) expect(matcher.next(state, forced) != Matcher::kRefused, "forced bytes are refused");
    expect(second.adopt(matcher, state) >= 0, "a state is unknown to the same grammar");
    if (allowed.empty()) return;
    const TokenId token = allowed[path.byte() % allowed.size()];
    const Matcher::State next = matcher.next_token(state, token);
    expect(next != Matcher::kRefused, "a token of the mask is refused");
    expect(matcher.next(state, vocabulary()->bytes(token)) == next, "the bytes of a token lead elsewhere");
    state = next;
  }
}

const Target target("grammar",
                    [](Input input) {
                      Pieces parts(input);
                      const std::string_view text = parts.part('\0'), trigger = parts.part('\0');
                      GrammarSpec spec{std::string(text), std::string(trigger), input.size() % 2 == 0};
                      if (spec.empty()) return;
                      accepted([&] {
                        check(spec, "grammar");
                        Matcher matcher(spec, vocabulary()), second(spec, vocabulary());
                        walk(matcher, second, parts);
                      });
                    },
                    {.times_input = 64, .floor_bytes = 8 << 20});

}  // namespace
}  // namespace jupiter::fuzz

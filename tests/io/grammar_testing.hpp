// What the tests of grammars and of JSON schemas share.
#pragma once

#include <string>

#include "io/grammar/matcher.hpp"

namespace jupiter {

// Whether the whole text follows the grammar.
inline bool takes(const std::string& grammar, const std::string& text) {
  Matcher m({grammar}, nullptr);
  const Matcher::State s = m.next(m.start(), text);
  return s != Matcher::kRefused && m.may_end(s);
}

}  // namespace jupiter

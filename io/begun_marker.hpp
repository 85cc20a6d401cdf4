// Text that comes piece by piece, in which a marker may begin that a later piece ends.
#pragma once

#include <algorithm>
#include <string_view>

namespace jupiter {

// Length of the longest end of `text` that a longer `marker` begins with: what must be held back until more comes.
inline std::size_t begun_marker(std::string_view text, std::string_view marker) {
  for (std::size_t n = std::min(marker.size() - 1, text.size()); n > 0; --n) {
    if (text.ends_with(marker.substr(0, n))) return n;
  }
  return 0;
}

}  // namespace jupiter

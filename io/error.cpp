// Message layout of the errors.
#include "io/error.hpp"

namespace jupiter {

namespace {
std::string describe(std::string_view file, std::string_view thing, std::string_view expected, std::string_view found) {
  constexpr std::size_t kMost = 200;
  std::string text(file);
  text.append(": ").append(shortened(thing, kMost)).append(": expected ").append(shortened(expected, kMost));
  return text.append(", found ").append(shortened(found, kMost));
}
}  // namespace

std::string shortened(std::string_view text, std::size_t most) {
  return text.size() > most ? std::string(text.substr(0, most)) + "..." : std::string(text);
}

FormatError::FormatError(std::string_view file, std::string_view thing, std::string_view expected,
                         std::string_view found)
    : Error(ExitCode::invalid_file, describe(file, thing, expected, found)) {}

}  // namespace jupiter

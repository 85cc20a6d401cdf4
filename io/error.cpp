// Message layout of the errors.
#include "io/error.hpp"

namespace jupiter {

namespace {
std::string describe(std::string_view file, std::string_view thing, std::string_view expected, std::string_view found) {
  std::string text;
  text.append(file).append(": ").append(thing).append(": expected ").append(expected).append(", found ").append(found);
  return text;
}
}  // namespace

FormatError::FormatError(std::string_view file, std::string_view thing, std::string_view expected,
                         std::string_view found)
    : Error(ExitCode::invalid_file, describe(file, thing, expected, found)) {}

}  // namespace jupiter

// Pieces of GBNF for JSON's numbers and for formats of strings.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace jupiter {

constexpr std::int64_t kMostJsonInteger = 999'999'999'999'999;  // all of them are exact as double

// Whole numbers from low to high, |both| at most kMostJsonInteger and low <= high, without leading zeros.
std::string integer_gbnf(std::int64_t low, std::int64_t high);

struct DecimalRange {
  std::optional<std::int64_t> low, high;
  bool low_open = false, high_open = false;  // the bound itself does not belong to it
};
// Decimal numbers without exponent in a range with a bound at least; empty: there are none.
std::string decimal_gbnf(const DecimalRange& range);

// What stands between the quotes of a string of this format; empty: not known.
std::string_view format_gbnf(std::string_view format);
std::string format_names();

// Rules that others use: ws, char, string, number, integer, boolean, null, value, object, array.
extern const std::string_view kJsonRules;

}  // namespace jupiter

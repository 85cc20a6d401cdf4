// Numbers by their digits.
#include "io/grammar/json_values.hpp"

#include <array>
#include <utility>
#include <vector>

namespace jupiter {

namespace {

constexpr std::string_view kFraction = "(\".\" [0-9]{1,15})?";
constexpr std::string_view kZeroFraction = "(\".\" \"0\"{1,15})?";

std::string digit_range(char low, char high) {
  if (low == high) return std::string("\"") + low + "\"";
  return std::string("[") + low + "-" + high + "]";
}

// Numbers of as many digits as both have, from low to high.
std::string digits_gbnf(std::string_view low, std::string_view high) {
  if (low.empty()) return "";
  const std::string rest = std::to_string(low.size() - 1);
  if (low.find_first_not_of('0') == std::string_view::npos && high.find_first_not_of('9') == std::string_view::npos) {
    return "[0-9]{" + std::to_string(low.size()) + "}";
  }
  if (low[0] == high[0]) return digit_range(low[0], low[0]) + " " + digits_gbnf(low.substr(1), high.substr(1));
  const std::string zeros(low.size() - 1, '0'), nines(low.size() - 1, '9');
  std::string out = "(" + digit_range(low[0], low[0]) + " " + digits_gbnf(low.substr(1), nines);
  if (high[0] - low[0] > 1) {
    out += " | " + digit_range(static_cast<char>(low[0] + 1), static_cast<char>(high[0] - 1)) + " [0-9]{" + rest + "}";
  }
  return out + " | " + digit_range(high[0], high[0]) + " " + digits_gbnf(zeros, high.substr(1)) + ")";
}

// From 0 on.
std::string natural_gbnf(std::int64_t low, std::int64_t high) {
  std::string out;
  for (std::string from = std::to_string(low);; from = "1" + std::string(from.size(), '0')) {
    const std::string last = std::to_string(high), nines(from.size(), '9');
    const std::string to = from.size() < last.size() ? nines : last;
    out += (out.empty() ? "" : " | ") + digits_gbnf(from, to);
    if (to == last) return "(" + out + ")";
  }
}

void add_alternative(std::string& out, const std::string& alternative) {
  if (alternative.empty()) return;
  out += (out.empty() ? "" : " | ") + alternative;
}

// Decimal numbers from low >= 0 to high.
std::string positive_gbnf(std::int64_t low, std::int64_t high, bool low_open, bool high_open) {
  std::string out;
  const std::string first = natural_gbnf(low, low);
  if (low == high) return low_open || high_open ? "" : first + " " + std::string(kZeroFraction);
  add_alternative(out, low_open ? first + " \".\" \"0\"{0,14} [1-9] [0-9]{0,5}" : first + " " + std::string(kFraction));
  if (high - low > 1) add_alternative(out, natural_gbnf(low + 1, high - 1) + " " + std::string(kFraction));
  if (!high_open) add_alternative(out, natural_gbnf(high, high) + " " + std::string(kZeroFraction));
  return "(" + out + ")";
}

constexpr std::string_view kDate =
    "[1-9] [0-9]{3} \"-\" ((\"0\" [13578] | \"1\" [02]) \"-\" (\"0\" [1-9] | [12] [0-9] | \"3\" [01]) | "
    "(\"0\" [469] | \"11\") \"-\" (\"0\" [1-9] | [12] [0-9] | \"30\") | \"02-\" (\"0\" [1-9] | \"1\" [0-9] | \"2\" "
    "[0-8]))";
constexpr std::string_view kTime =
    "([01] [0-9] | \"2\" [0-3]) \":\" [0-5] [0-9] \":\" [0-5] [0-9] (\".\" [0-9]{1,6})? "
    "(\"Z\" | [+-] ([01] [0-9] | \"2\" [0-3]) \":\" [0-5] [0-9])";
constexpr std::string_view kUuid =
    "[0-9a-f]{8} \"-\" [0-9a-f]{4} \"-\" [0-9a-f]{4} \"-\" [0-9a-f]{4} \"-\" [0-9a-f]{12}";
constexpr std::string_view kIpv4 = "ipv4-byte (\".\" ipv4-byte){3}";
constexpr std::string_view kEmail =
    "[a-zA-Z0-9_+-]{1,32} (\".\" [a-zA-Z0-9_+-]{1,32}){0,3} \"@\" ([a-zA-Z0-9] [a-zA-Z0-9-]{0,30} [a-zA-Z0-9] "
    "\".\"){1,4} "
    "[a-zA-Z]{2,12}";

const std::string& date_time() {
  static const std::string text = std::string(kDate) + " \"T\" " + std::string(kTime);
  return text;
}

}  // namespace

const std::string_view kJsonRules = R"(ws ::= " "? | "\n" [ \t]{0,20}
hex ::= [0-9a-fA-F]
unicode ::= [0-9abcefABCEF] hex{3} | [dD] [0-7] hex{2} | [dD] [89abAB] hex{2} "\\u" [dD] [c-fC-F] hex{2}
char ::= [^"\\\x00-\x1f] | "\\" (["\\/bfnrt] | "u" unicode)
string ::= "\"" char* "\""
digits ::= "0" | [1-9] [0-9]{0,14}
number ::= "-"? digits ("." [0-9]{1,15})? ([eE] [-+]? [0-9]{1,2})?
integer ::= "0" | "-"? [1-9] [0-9]{0,14}
boolean ::= "true" | "false"
null ::= "null"
value ::= object | array | string | number | boolean | null
member ::= string ":" ws value
object ::= "{" ws (member ("," ws member)* ws)? "}"
array ::= "[" ws (value ("," ws value)* ws)? "]"
ipv4-byte ::= [0-9] | [1-9] [0-9] | "1" [0-9]{2} | "2" [0-4] [0-9] | "25" [0-5]
)";

std::string integer_gbnf(std::int64_t low, std::int64_t high) {
  std::string out;
  if (low < 0) add_alternative(out, "\"-\" " + natural_gbnf(high < 0 ? -high : 1, -low));
  if (high >= 0) add_alternative(out, natural_gbnf(low < 0 ? 0 : low, high));
  return "(" + out + ")";
}

std::string decimal_gbnf(const DecimalRange& r) {
  const std::int64_t low = r.low.value_or(-kMostJsonInteger), high = r.high.value_or(kMostJsonInteger);
  if (low > high) return "";
  std::string out;
  if (low < 0) {
    const std::string size = high < 0 ? positive_gbnf(-high, -low, r.high_open, r.low_open)
                                      : positive_gbnf(0, -low, high == 0 && r.high_open, r.low_open);
    if (!size.empty()) add_alternative(out, "\"-\" " + size);
  }
  if (high >= 0) {
    add_alternative(
        out, low < 0 ? positive_gbnf(0, high, false, r.high_open) : positive_gbnf(low, high, r.low_open, r.high_open));
  }
  return out.empty() ? "" : "(" + out + ")";
}

std::string_view format_gbnf(std::string_view format) {
  if (format == "date") return kDate;
  if (format == "time") return kTime;
  if (format == "date-time") return date_time();
  if (format == "uuid") return kUuid;
  if (format == "ipv4") return kIpv4;
  if (format == "email") return kEmail;
  return {};
}

std::string format_names() {
  return "date, time, date-time, uuid, ipv4 or email";
}

}  // namespace jupiter

// Typed look-ups in JSON objects. Every fault is a FormatError that names the file, the field, what was expected and
// what was found.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "io/error.hpp"

namespace jupiter {

class JsonObject {
 public:
  // `value` must be an object, else FormatError; `where` names it in messages ("FILE" or "FILE: field").
  JsonObject(nlohmann::json value, std::string where);

  const std::string& where() const { return where_; }
  const nlohmann::json& value() const& { return value_; }
  const nlohmann::json& value() && = delete;  // would dangle in a range-for
  std::vector<std::string> keys() const;
  // Absent and null are the same: nullptr.
  const nlohmann::json* find(std::string_view key) const;
  bool has(std::string_view key) const { return find(key) != nullptr; }

  // Empty where the field is absent or null. FormatError where it has another type.
  std::optional<std::int64_t> find_int(std::string_view key) const;
  // FormatError also where it is outside [low, high].
  std::optional<std::int64_t> find_int(std::string_view key, std::int64_t low, std::int64_t high) const;
  std::optional<double> find_number(std::string_view key) const;
  std::optional<bool> find_bool(std::string_view key) const;
  std::optional<std::string> find_string(std::string_view key) const;
  std::optional<JsonObject> find_object(std::string_view key) const;
  const std::vector<nlohmann::json>& array_or_empty(std::string_view key) const&;
  const std::vector<nlohmann::json>& array_or_empty(std::string_view key) && = delete;

  // FormatError also where the field is absent.
  std::int64_t integer(std::string_view key) const;
  double number(std::string_view key) const;
  std::string string(std::string_view key) const;
  JsonObject object(std::string_view key) const;
  std::vector<std::int64_t> ints(std::string_view key) const;
  std::vector<JsonObject> objects(std::string_view key) const;
  // A number within [low, high].
  template <typename T>
  T within(std::string_view key, T low, T high) const {
    if constexpr (std::is_integral_v<T>) {
      const std::int64_t value = integer(key);
      // Compared as double, so that bounds of any type may be given; the files' numbers are far below 2^53.
      check_range(key, static_cast<double>(value), static_cast<double>(low), static_cast<double>(high));
      return static_cast<T>(value);
    } else {
      const double value = number(key);
      check_range(key, value, low, high);
      return static_cast<T>(value);
    }
  }
  // A list of values of one type.
  template <typename T>
  std::vector<T> values(std::string_view key) const {
    if (!has(key)) fail(key, "a list", "nothing");
    if constexpr (std::is_integral_v<T>) {
      std::vector<T> exact;
      for (const std::int64_t n : ints(key)) {
        if (!std::in_range<T>(n)) fail(key, "a list of smaller numbers", std::to_string(n));
        exact.push_back(static_cast<T>(n));
      }
      return exact;
    } else {
      try {
        return find(key)->template get<std::vector<T>>();
      } catch (const nlohmann::json::exception&) {
        fail(key, "a list of values of one type", text_of(key));
      }
    }
  }

  [[noreturn]] void fail(std::string_view key, std::string_view expected, std::string_view found) const;

 private:
  void check_range(std::string_view key, double value, double low, double high) const;
  std::string text_of(std::string_view key) const;
  nlohmann::json value_;
  std::string where_;
};

// Limits of every JSON text. The library writes and frees values by recursion, so values that are nested very deeply
// would overflow the stack; ours never are.
constexpr std::int64_t kMaxJsonDepth = 64;
constexpr std::uint64_t kMaxJsonBytes = 64 << 20;

// The only way from a text to JSON: json, or ordered_json, which keeps the order of its fields. FormatError that names
// `file` where the text is larger than max_bytes, nested deeper than kMaxJsonDepth, or no JSON (with the parser's
// reason and place).
template <typename Json = nlohmann::json>
Json parse_json(std::string_view text, std::string_view file, std::uint64_t max_bytes = kMaxJsonBytes);
// The same of a text that must be an object.
JsonObject parse_json_object(std::string_view text, std::string_view file, std::uint64_t max_bytes = kMaxJsonBytes);

// A value for messages, shortened; safe for any bytes.
std::string json_text(const nlohmann::json& value);

}  // namespace jupiter

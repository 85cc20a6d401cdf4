// Typed look-ups in JSON objects whose faults are FormatErrors that name the file, the field, expected and found.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

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

  // Empty where absent or null; FormatError where the type is another one.
  std::optional<std::int64_t> find_int(std::string_view key) const;
  // FormatError where it is outside [low, high], too.
  std::optional<std::int64_t> find_int(std::string_view key, std::int64_t low, std::int64_t high) const;
  std::optional<double> find_number(std::string_view key) const;
  std::optional<bool> find_bool(std::string_view key) const;
  std::optional<std::string> find_string(std::string_view key) const;
  std::optional<JsonObject> find_object(std::string_view key) const;
  const std::vector<nlohmann::json>& array_or_empty(std::string_view key) const&;
  const std::vector<nlohmann::json>& array_or_empty(std::string_view key) && = delete;

  // FormatError where absent.
  std::int64_t integer(std::string_view key) const;
  double number(std::string_view key) const;
  std::string string(std::string_view key) const;
  JsonObject object(std::string_view key) const;
  std::vector<std::int64_t> ints(std::string_view key) const;

  [[noreturn]] void fail(std::string_view key, std::string_view expected, std::string_view found) const;

 private:
  nlohmann::json value_;
  std::string where_;
};

// Limits of every JSON text. Values that are nested deeper than any of ours would overflow the stack where they are
// written or freed, which the library does by recursion.
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

// JSON comes from files that others wrote: each access checks the type.
#include "io/json_fields.hpp"

#include <fmt/format.h>

#include <utility>

#include "io/error.hpp"

namespace jupiter {

using nlohmann::json;

JsonObject::JsonObject(json value, std::string where) : value_(std::move(value)), where_(std::move(where)) {
  if (!value_.is_object()) throw FormatError(where_, "content", "a JSON object", json_text(value_));
}

namespace {

// Whether the text opens more brackets at a time than kMaxJsonDepth. Exact up to the parser's first error.
bool is_too_deep(std::string_view text) {
  std::int64_t depth = 0;
  bool inside_string = false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (inside_string) {
      if (c == '\\') ++i;
      inside_string = c != '"';
    } else if (c == '"') {
      inside_string = true;
    } else if (c == '[' || c == '{') {
      if (++depth > kMaxJsonDepth) return true;
    } else if (c == ']' || c == '}') {
      --depth;
    }
  }
  return false;
}

}  // namespace

template <typename Json>
Json parse_json(std::string_view text, std::string_view file, std::uint64_t max_bytes) {
  if (text.size() > max_bytes) {
    throw FormatError(file, "JSON", "at most " + std::to_string(max_bytes) + " bytes", std::to_string(text.size()));
  }
  if (is_too_deep(text)) {
    throw FormatError(file, "JSON", "values nested at most " + std::to_string(kMaxJsonDepth) + " deep", "deeper ones");
  }
  try {
    return Json::parse(text);
  } catch (const nlohmann::json::exception& e) {
    throw FormatError(std::string(file) + ": not valid JSON: " + shortened(e.what(), 160));
  }
}
template json parse_json<json>(std::string_view, std::string_view, std::uint64_t);
template nlohmann::ordered_json parse_json<nlohmann::ordered_json>(std::string_view, std::string_view, std::uint64_t);

std::string json_text(const json& value) {
  return shortened(value.dump(-1, ' ', true, json::error_handler_t::replace));
}

void JsonObject::fail(std::string_view key, std::string_view expected, std::string_view found) const {
  throw FormatError(where_, key, expected, found);
}

std::vector<std::string> JsonObject::keys() const {
  std::vector<std::string> keys;
  for (const auto& item : value_.items()) keys.push_back(item.key());
  return keys;
}

const json* JsonObject::find(std::string_view key) const {
  const auto it = value_.find(key);
  return it == value_.end() || it->is_null() ? nullptr : &*it;
}

std::optional<std::int64_t> JsonObject::find_int(std::string_view key) const {
  const json* found = find(key);
  if (found == nullptr) return std::nullopt;
  const bool fits =
      found->is_number_integer() && (!found->is_number_unsigned() || found->get<std::uint64_t>() <= INT64_MAX);
  if (!fits) fail(key, "an integer", json_text(*found));
  return found->get<std::int64_t>();
}

std::optional<std::int64_t> JsonObject::find_int(std::string_view key, std::int64_t low, std::int64_t high) const {
  const auto found = find_int(key);
  if (found && (*found < low || *found > high)) {
    fail(key, std::to_string(low) + " to " + std::to_string(high), std::to_string(*found));
  }
  return found;
}

std::optional<double> JsonObject::find_number(std::string_view key) const {
  const json* found = find(key);
  if (found == nullptr) return std::nullopt;
  if (!found->is_number()) fail(key, "a number", json_text(*found));
  return found->get<double>();
}

std::optional<bool> JsonObject::find_bool(std::string_view key) const {
  const json* found = find(key);
  if (found == nullptr) return std::nullopt;
  if (!found->is_boolean()) fail(key, "true or false", json_text(*found));
  return found->get<bool>();
}

std::optional<std::string> JsonObject::find_string(std::string_view key) const {
  const json* found = find(key);
  if (found == nullptr) return std::nullopt;
  if (!found->is_string()) fail(key, "a string", json_text(*found));
  return found->get<std::string>();
}

std::optional<JsonObject> JsonObject::find_object(std::string_view key) const {
  const json* found = find(key);
  if (found == nullptr) return std::nullopt;
  return JsonObject(*found, where_ + ": " + std::string(key.substr(0, 80)));
}

const std::vector<json>& JsonObject::array_or_empty(std::string_view key) const& {
  static const std::vector<json> kEmpty;
  const json* found = find(key);
  if (found == nullptr) return kEmpty;
  if (!found->is_array()) fail(key, "an array", json_text(*found));
  return found->get_ref<const json::array_t&>();
}

std::int64_t JsonObject::integer(std::string_view key) const {
  const auto found = find_int(key);
  if (!found) fail(key, "an integer", "nothing");
  return *found;
}

double JsonObject::number(std::string_view key) const {
  const auto found = find_number(key);
  if (!found) fail(key, "a number", "nothing");
  return *found;
}

std::string JsonObject::string(std::string_view key) const {
  auto found = find_string(key);
  if (!found) fail(key, "a string", "nothing");
  return *std::move(found);
}

JsonObject JsonObject::object(std::string_view key) const {
  auto found = find_object(key);
  if (!found) fail(key, "an object", "nothing");
  return *std::move(found);
}

std::vector<std::int64_t> JsonObject::ints(std::string_view key) const {
  if (!has(key)) fail(key, "an array of integers", "nothing");
  std::vector<std::int64_t> out;
  for (const json& element : array_or_empty(key)) {
    const bool fits =
        element.is_number_integer() && (!element.is_number_unsigned() || element.get<std::uint64_t>() <= INT64_MAX);
    if (!fits) fail(key, "an array of integers", json_text(element));
    out.push_back(element.get<std::int64_t>());
  }
  return out;
}

std::vector<JsonObject> JsonObject::objects(std::string_view key) const {
  if (!has(key)) fail(key, "a list", "nothing");
  std::vector<JsonObject> items;
  for (const json& item : array_or_empty(key)) {
    items.emplace_back(item, where_ + ": " + std::string(key) + "[" + std::to_string(items.size()) + "]");
  }
  return items;
}

void JsonObject::check_range(std::string_view key, double value, double low, double high) const {
  if (!(value >= low && value <= high)) fail(key, fmt::format("{} to {}", low, high), text_of(key));
}

std::string JsonObject::text_of(std::string_view key) const {
  return json_text(*find(key));
}

JsonObject parse_json_object(std::string_view text, std::string_view file, std::uint64_t max_bytes) {
  return JsonObject(parse_json(text, file, max_bytes), std::string(file));
}

}  // namespace jupiter

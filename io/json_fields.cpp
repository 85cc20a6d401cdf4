// JSON comes from files that others wrote: each access checks the type.
#include "io/json_fields.hpp"

#include <utility>

#include "io/error.hpp"

namespace jupiter {

using nlohmann::json;

JsonObject::JsonObject(json value, std::string where) : value_(std::move(value)), where_(std::move(where)) {
  if (!value_.is_object()) throw FormatError(where_, "content", "a JSON object", json_text(value_));
}

std::string json_text(const json& value) {
  const std::string text = value.dump(-1, ' ', true, json::error_handler_t::replace);
  return text.size() > 80 ? text.substr(0, 80) + "..." : text;
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

JsonObject parse_json_object(std::string_view text, std::string_view file) {
  json value;
  try {
    value = json::parse(text);
  } catch (const json::exception& e) {
    throw FormatError(std::string(file) + ": not valid JSON: " + e.what());
  }
  return JsonObject(std::move(value), std::string(file));
}

}  // namespace jupiter

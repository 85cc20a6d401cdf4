// JSON objects that a person may have edited (plans, profiles): numbers within limits, lists of objects.
#pragma once

#include <fmt/format.h>

#include <string>
#include <utility>
#include <vector>

#include "io/error.hpp"
#include "io/json_fields.hpp"

namespace jupiter {

class CheckedJson : public JsonObject {
 public:
  using JsonObject::JsonObject;
  CheckedJson(const JsonObject& object) : JsonObject(object) {}  // NOLINT: the same object with more questions

  // A number within [low, high].
  template <typename T>
  T within(const char* key, T low, T high) const {
    double value = 0;
    T exact{};
    if constexpr (std::is_integral_v<T>) {
      const std::int64_t v = integer(key);
      exact = static_cast<T>(v);
      value = static_cast<double>(v);
    } else {
      exact = static_cast<T>(number(key));
      value = exact;
    }
    if (!(value >= static_cast<double>(low) && value <= static_cast<double>(high))) {
      fail(key, fmt::format("{} to {}", low, high), json_text(*find(key)));
    }
    return exact;
  }
  template <typename T>
  std::vector<T> values(const char* key) const {
    const nlohmann::json* v = find(key);
    if (v == nullptr) fail(key, "a list", "nothing");
    if constexpr (std::is_integral_v<T>) {
      std::vector<T> exact;
      for (const std::int64_t n : ints(key)) {
        if (!std::in_range<T>(n)) fail(key, "a list of smaller numbers", json_text(n));
        exact.push_back(static_cast<T>(n));
      }
      return exact;
    }
    try {
      return v->get<std::vector<T>>();
    } catch (const nlohmann::json::exception&) {
      fail(key, "a list of values of one type", json_text(*v));
    }
  }
  std::vector<CheckedJson> list(const char* key) const {
    if (!has(key)) fail(key, "a list", "nothing");
    std::vector<CheckedJson> items;
    for (const nlohmann::json& item : array_or_empty(key)) {
      items.emplace_back(item, fmt::format("{}: {}[{}]", where(), key, items.size()));
    }
    return items;
  }
};

}  // namespace jupiter

// Fields of a JSON object that a person may have edited: the right type and range, or a FormatError that names them.
#pragma once

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <string>

#include "io/error.hpp"

namespace jupiter {

class JsonObject {
 public:
  JsonObject(const nlohmann::json& object, std::string file, std::string path = "")
      : object_(object), file_(std::move(file)), path_(std::move(path)) {
    if (!object.is_object()) throw FormatError(file_, where("content"), "an object", object.type_name());
  }

  static nlohmann::json parse(const std::string& text, const std::string& file) {
    try {
      return nlohmann::json::parse(text);
    } catch (const nlohmann::json::exception& e) {
      throw FormatError(file, "content", "JSON", e.what());
    }
  }

  template <typename T>
  T get(const char* key) const {
    const nlohmann::json& v = at(key);
    try {
      return v.get<T>();
    } catch (const nlohmann::json::exception&) {
      throw FormatError(file_, where(key), "a value of another type", v.dump().substr(0, 80));
    }
  }
  // A number within [low, high].
  template <typename T>
  T number(const char* key, T low, T high) const {
    const nlohmann::json& v = at(key);
    if (!v.is_number() || (std::is_integral_v<T> && !v.is_number_integer())) {
      throw FormatError(file_, where(key), "a number", v.dump().substr(0, 80));
    }
    const T value = v.get<T>();
    if (!(value >= low && value <= high)) {
      throw FormatError(file_, where(key), fmt::format("{} to {}", low, high), v.dump());
    }
    return value;
  }
  std::vector<JsonObject> list(const char* key) const {
    const nlohmann::json& v = at(key);
    if (!v.is_array()) throw FormatError(file_, where(key), "a list", v.type_name());
    std::vector<JsonObject> items;
    for (std::size_t i = 0; i < v.size(); ++i) items.emplace_back(v[i], file_, fmt::format("{}[{}]", where(key), i));
    return items;
  }
  JsonObject object(const char* key) const { return {at(key), file_, where(key)}; }
  bool has(const char* key) const { return object_.contains(key); }
  std::string where(const std::string& key) const { return path_.empty() ? key : path_ + "." + key; }
  const std::string& file() const { return file_; }

 private:
  const nlohmann::json& at(const char* key) const {
    const auto it = object_.find(key);
    if (it == object_.end()) throw FormatError(file_, where(key), "a value", "nothing");
    return *it;
  }
  const nlohmann::json& object_;
  std::string file_;
  std::string path_;
};

}  // namespace jupiter

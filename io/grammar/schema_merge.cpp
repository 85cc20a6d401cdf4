#include "io/grammar/schema_merge.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <set>
#include <vector>

#include "io/json_fields.hpp"

namespace jupiter {

namespace {

using Json = nlohmann::ordered_json;

constexpr int kMostReferences = 32;  // that lead to each other

constexpr std::array<std::string_view, 14> kAnnotations = {
    "title", "description", "default", "examples", "$defs",      "definitions", "$schema",
    "$id",   "$comment",    "id",      "readOnly", "deprecated", "writeOnly",   "$anchor"};

constexpr std::array<const char*, 18> kUnsupported = {"not",
                                                      "if",
                                                      "then",
                                                      "else",
                                                      "pattern",
                                                      "patternProperties",
                                                      "propertyNames",
                                                      "contains",
                                                      "minContains",
                                                      "maxContains",
                                                      "minProperties",
                                                      "maxProperties",
                                                      "multipleOf",
                                                      "$dynamicRef",
                                                      "dependencies",
                                                      "dependentRequired",
                                                      "dependentSchemas",
                                                      "additionalItems"};

bool is_annotation(std::string_view key) {
  return std::find(kAnnotations.begin(), kAnnotations.end(), key) != kAnnotations.end();
}

// A part of a JSON pointer in a URI's fragment, its escapes undone.
std::string unescaped(std::string_view part) {
  std::string out;
  for (std::size_t i = 0; i < part.size(); ++i) {
    const std::string_view next = part.substr(i + 1, 2);
    const auto is_hex = [](char c) { return std::isxdigit(static_cast<unsigned char>(c)) != 0; };
    if (part[i] == '%' && next.size() == 2 && is_hex(next[0]) && is_hex(next[1])) {
      out += static_cast<char>(std::stoi(std::string(next), nullptr, 16));
      i += 2;
    } else {
      out += part[i];
    }
  }
  const auto replace = [&](std::string_view from, char to) {
    for (std::size_t at = out.find(from); at != std::string::npos; at = out.find(from, at + 1))
      out.replace(at, 2, 1, to);
  };
  replace("~1", '/');
  replace("~0", '~');
  return out;
}

std::vector<Json> list_of(const Json& value) {
  return value.is_array() ? std::vector<Json>(value.begin(), value.end()) : std::vector<Json>{value};
}

Json common(const std::vector<Json>& a, const std::vector<Json>& b) {
  Json both = Json::array();
  const std::set<Json> known(b.begin(), b.end());
  for (const Json& v : a) {
    if (known.contains(v)) both.push_back(v);
  }
  return both;
}

// Types that both lists allow; every integer is a number.
Json common_types(const Json& a, const Json& b) {
  Json both = common(list_of(a), list_of(b));
  const auto has = [](const Json& types, const char* type) {
    const auto list = list_of(types);
    return std::find(list.begin(), list.end(), type) != list.end();
  };
  const bool mixed = (has(a, "integer") && has(b, "number")) || (has(a, "number") && has(b, "integer"));
  if (mixed && !has(both, "integer") && !has(both, "number")) both.push_back("integer");
  return both;
}

// Whether `schema` lists all properties of `other`, so that what it says of further ones does not concern these.
bool lists_all(const Json& schema, const Json& other) {
  const Json mine = schema.value("properties", Json::object()), theirs = other.value("properties", Json::object());
  return std::all_of(theirs.items().begin(), theirs.items().end(),
                     [&](const auto& p) { return mine.contains(p.key()); });
}

void check_others(const Json& a, const Json& b, std::string_view where, const std::string& pointer) {
  const bool clash = (a.contains("additionalProperties") && !lists_all(a, b)) ||
                     (b.contains("additionalProperties") && !lists_all(b, a));
  if (clash) fail_schema(where, pointer, "no additionalProperties where schemas are put together", "one of them");
}

bool takes_largest(std::string_view key) {
  return key == "minimum" || key == "exclusiveMinimum" || key == "minLength" || key == "minItems";
}
bool takes_smallest(std::string_view key) {
  return key == "maximum" || key == "exclusiveMaximum" || key == "maxLength" || key == "maxItems";
}

Json both_values(const std::string& key, const Json& a, const Json& b, std::string_view where,
                 const std::string& pointer) {
  if (a == b) return a;
  if (a.is_number() && b.is_number() && takes_largest(key)) return std::max(a, b);
  if (a.is_number() && b.is_number() && takes_smallest(key)) return std::min(a, b);
  if (key == "items") return merged(a, b, where, pointer + "/items");
  Json both;
  if (key == "type") both = common_types(a, b);
  if (key == "enum" && a.is_array() && b.is_array()) both = common(list_of(a), list_of(b));
  if (key == "allOf" && a.is_array() && b.is_array()) {
    both = a;
    both.insert(both.end(), b.begin(), b.end());
  }
  if (both.empty()) fail_schema(where, pointer, key + " in one of the schemas that are put together", "different ones");
  return both;
}

}  // namespace

void fail_schema(std::string_view where, std::string_view pointer, std::string_view expected, std::string_view found) {
  throw FormatError(where, pointer.empty() ? "the schema" : pointer, expected, found);
}

void refuse_unsupported(const Json& schema, std::string_view where, const std::string& pointer) {
  const auto refuse = [&](const char* key) {
    fail_schema(where, pointer + "/" + key, "keywords that this server supports", key);
  };
  for (const char* key : kUnsupported) {
    if (schema.contains(key)) refuse(key);
  }
  for (const char* key : {"unevaluatedProperties", "unevaluatedItems"}) {
    if (schema.contains(key) && schema[key] != false) refuse(key);
  }
  if (schema.contains("uniqueItems") && schema["uniqueItems"] != false) refuse("uniqueItems");
}

Json without(const Json& schema, std::initializer_list<const char*> keys) {
  Json rest = schema;
  for (const char* key : keys) rest.erase(key);
  return rest;
}

bool has_assertions(const Json& schema) {
  return std::any_of(schema.items().begin(), schema.items().end(),
                     [](const auto& i) { return !is_annotation(i.key()); });
}

bool is_of_type(const Json& v, std::string_view type) {
  const bool whole = v.is_number_integer() || (v.is_number() && v.get<double>() == std::floor(v.get<double>()));
  return (type == "object" && v.is_object()) || (type == "array" && v.is_array()) ||
         (type == "string" && v.is_string()) || (type == "number" && v.is_number()) || (type == "integer" && whole) ||
         (type == "boolean" && v.is_boolean()) || (type == "null" && v.is_null());
}

const Json& resolve(const Json& root, const Json& ref, std::string_view where, const std::string& pointer) {
  const auto fail = [&] {
    fail_schema(where, pointer, "a reference to a part of this schema (#/...)", json_text(ref));
  };
  if (!ref.is_string() || !ref.get_ref<const std::string&>().starts_with('#')) fail();
  std::string_view path = std::string_view(ref.get_ref<const std::string&>()).substr(1);
  const Json* at = &root;
  while (!path.empty()) {
    if (path[0] != '/') fail();
    path.remove_prefix(1);
    const std::string part = unescaped(path.substr(0, path.find('/')));
    path.remove_prefix(std::min(path.size(), path.find('/')));
    if (at->is_object() && at->contains(part)) {
      at = &(*at)[part];
    } else if (at->is_array() && !part.empty() && part.size() < 6 &&
               part.find_first_not_of("0123456789") == std::string_view::npos && std::stoul(part) < at->size()) {
      at = &(*at)[std::stoul(part)];
    } else {
      fail();
    }
  }
  return *at;
}

Json resolved(const Json& root, const Json& schema, std::string_view where, const std::string& pointer) {
  Json s = schema;
  for (int i = 0; s.is_object() && s.contains("$ref"); ++i) {
    if (i == kMostReferences) fail_schema(where, pointer, "references that come to an end", "a longer chain of them");
    s = merged(resolve(root, s["$ref"], where, pointer), without(s, {"$ref"}), where, pointer);
  }
  return s;
}

Json merged(const Json& a, const Json& b, std::string_view where, const std::string& pointer) {
  for (const auto& [one, other] : {std::pair(&a, &b), std::pair(&b, &a)}) {
    if (!one->is_boolean()) continue;
    if (!one->get<bool>()) fail_schema(where, pointer, "schemas that allow some value", "false");
    return *other;
  }
  if (!a.is_object() || !b.is_object())
    fail_schema(where, pointer, "schemas (objects)", json_text(a.is_object() ? b : a));
  check_others(a, b, where, pointer);
  Json all = a;
  for (const auto& [key, value] : b.items()) {
    if (is_annotation(key)) continue;
    if (!all.contains(key)) {
      all[key] = value;
    } else if (key == "properties" && all[key].is_object() && value.is_object()) {
      for (const auto& [name, of] : value.items()) {
        Json& place = all[key][name];
        place = place.is_null() ? of : merged(place, of, where, pointer + "/properties/" + name);
      }
    } else if (key == "required" && all[key].is_array() && value.is_array()) {
      std::set<Json> known(all[key].begin(), all[key].end());
      for (const Json& name : value) {
        if (known.insert(name).second) all[key].push_back(name);
      }
    } else {
      all[key] = both_values(key, all[key], value, where, pointer);
    }
  }
  return all;
}

}  // namespace jupiter

// Parts of a JSON Schema put together: references, and schemas that must hold at the same time.
#pragma once

#include <initializer_list>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace jupiter {

// FormatError that names `where` and a JSON pointer, as everything here throws.
[[noreturn]] void fail_schema(std::string_view where, std::string_view pointer, std::string_view expected,
                              std::string_view found);

// Keywords that change what is allowed and that no grammar is made from.
void refuse_unsupported(const nlohmann::ordered_json& schema, std::string_view where, const std::string& pointer);

// The schema without some keywords.
nlohmann::ordered_json without(const nlohmann::ordered_json& schema, std::initializer_list<const char*> keys);
// Whether any keyword changes what is allowed; titles, definitions and the like do not.
bool has_assertions(const nlohmann::ordered_json& schema);
bool is_of_type(const nlohmann::ordered_json& value, std::string_view type);

// What "$ref" means: "#" or "#/..." inside `root`.
const nlohmann::ordered_json& resolve(const nlohmann::ordered_json& root, const nlohmann::ordered_json& ref,
                                      std::string_view where, const std::string& pointer);
// The schema itself, or what it refers to.
nlohmann::ordered_json resolved(const nlohmann::ordered_json& root, const nlohmann::ordered_json& schema,
                                std::string_view where, const std::string& pointer);

// A schema that allows what both allow.
nlohmann::ordered_json merged(const nlohmann::ordered_json& a, const nlohmann::ordered_json& b, std::string_view where,
                              const std::string& pointer);

}  // namespace jupiter

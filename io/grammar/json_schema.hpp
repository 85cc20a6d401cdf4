// Grammars of JSON: of any value, and of the values that a JSON Schema allows.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace jupiter {

// GBNF of an object with any contents.
std::string json_object_gbnf();

// GBNF whose texts are values that the schema allows. Properties stand in the order of the schema; those that it does
// not list are written only where additionalProperties says so. White space is a space or a new line with indentation
// at most. FormatError that names `where` and the place in the schema (a JSON pointer) where a keyword is wrong, or
// changes what is allowed and is not supported. oneOf is read as anyOf.
std::string json_schema_gbnf(const nlohmann::ordered_json& schema, std::string_view where);

}  // namespace jupiter

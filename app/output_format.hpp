// The form that a request wants its answer to have: its fields grammar, json_schema and response_format.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "io/grammar/matcher.hpp"
#include "io/json_fields.hpp"

namespace jupiter {

// Empty where the request does not say any. in_order: the request with its fields in their order, by which properties
// of a schema are ordered. FormatError or UsageError that names the field and the place in it where it is wrong, or
// where there is more than one of them.
GrammarSpec read_output_format(const JsonObject& request, const nlohmann::ordered_json& in_order);

// The values of a schema; as above. where: how messages call it.
GrammarSpec grammar_of_schema(const nlohmann::ordered_json& schema, const std::string& where);

}  // namespace jupiter

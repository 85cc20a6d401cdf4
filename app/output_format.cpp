#include "app/output_format.hpp"

#include "io/grammar/json_schema.hpp"

namespace jupiter {

namespace {

using nlohmann::ordered_json;

GrammarSpec checked(const std::string& text, const std::string& where) {
  GrammarSpec spec{text};
  check(spec, where);
  return spec;
}

GrammarSpec read_response_format(const JsonObject& request, const ordered_json& in_order) {
  const auto format = request.find_object("response_format");
  if (!format) return {};
  const std::string type = format->string("type");
  const ordered_json& ordered = in_order["response_format"];
  const std::string where = request.where() + ": response_format";
  if (type == "text") return {};
  if (type == "json_object") {
    if (format->has("schema")) return grammar_of_schema(ordered["schema"], where + ".schema");
    return checked(json_object_gbnf(), where);
  }
  if (type != "json_schema") format->fail("type", "text, json_object or json_schema", type);
  const JsonObject schema = format->object("json_schema");
  schema.find_string("name");
  schema.find_bool("strict");  // an answer is always one of the schema's values
  if (!schema.has("schema")) schema.fail("schema", "a schema", "nothing");
  return grammar_of_schema(ordered["json_schema"]["schema"], where + ".json_schema.schema");
}

}  // namespace

GrammarSpec grammar_of_schema(const ordered_json& schema, const std::string& where) {
  return checked(json_schema_gbnf(schema, where), where);
}

GrammarSpec read_output_format(const JsonObject& request, const ordered_json& in_order) {
  GrammarSpec spec = read_response_format(request, in_order);
  if (const auto text = request.find_string("grammar"); text && !text->empty()) {
    if (!spec.empty()) request.fail("grammar", "one field that gives the answer a form", "response_format beside it");
    spec = checked(*text, request.where() + ": grammar");
  }
  if (request.has("json_schema")) {
    if (!spec.empty()) request.fail("json_schema", "one field that gives the answer a form", "another beside it");
    spec = grammar_of_schema(in_order["json_schema"], request.where() + ": json_schema");
  }
  return spec;
}

}  // namespace jupiter

// Schemas as grammars: which values they take, which schemas are refused, and that all texts of a grammar are JSON.
#include "io/grammar/json_schema.hpp"

#include <gtest/gtest.h>

#include <random>

#include "grammar_testing.hpp"
#include "io/error.hpp"
#include "io/grammar/json_values.hpp"
#include "io/json_fields.hpp"

namespace jupiter {
namespace {

using Json = nlohmann::ordered_json;

std::string grammar_of(const std::string& schema) {
  return json_schema_gbnf(parse_json<Json>(schema, "test"), "schema");
}

struct SchemaCase {
  std::string schema;
  std::vector<std::string> taken, refused;
};

const std::vector<SchemaCase>& cases() {
  static const std::vector<SchemaCase> all = {
      {"{}",
       {"1", "null", R"({"a": [1, {"b": "\u00e9\n"}]})", "-1.5e+10", "\"\\ud83d\\ude00\""},
       {"", "01", "{a: 1}", "[1,]", "\"\n\"", "\"\\ud83d\"", "1.", "nul"}},
      {"true", {"true"}, {"truth"}},
      {R"({"type": "boolean"})", {"true", "false"}, {"null", "1"}},
      {R"({"type": ["string", "null"]})", {"null", "\"x\""}, {"1"}},
      {R"({"type": "string", "minLength": 2, "maxLength": 3})",
       {R"("ab")", R"("äöü")", R"("\n\"x")"},
       {R"("a")", R"("abcd")"}},
      {R"({"const": {"a": [1, "x"]}})", {R"({"a":[1,"x"]})"}, {R"({"a":[1,"y"]})"}},
      {R"({"enum": ["red", 1, null, "a\"b"]})", {"\"red\"", "1", "null", R"("a\"b")"}, {"\"blue\"", "2"}},
      {R"({"type": "string", "enum": ["red", 1]})", {"\"red\""}, {"1"}},
      {R"({"type": "integer"})", {"0", "-1", "123456789012345"}, {"-0", "01", "1.0", "1e3", "1234567890123456"}},
      {R"({"type": "integer", "minimum": 5, "maximum": 123})",
       {"5", "9", "10", "99", "100", "123"},
       {"4", "124", "-5", "05"}},
      {R"({"type": "integer", "exclusiveMinimum": -3.5, "exclusiveMaximum": 2})", {"-3", "-1", "0", "1"}, {"-4", "2"}},
      {R"({"type": "integer", "minimum": 0})", {"0", "7", "123456789"}, {"-1"}},
      {R"({"type": "number"})", {"0", "-0", "1.5", "-12.25e-3", "1E9"}, {".5", "1.", "+1", "00"}},
      {R"({"type": "number", "minimum": 0, "maximum": 1})", {"0", "0.0", "0.25", "1", "1.0"}, {"-0.5", "1.01", "2"}},
      {R"({"type": "number", "exclusiveMinimum": 0, "maximum": 100})",
       {"0.001", "1", "99.9", "100.0"},
       {"0", "0.0", "100.5"}},
      {R"({"type": "number", "minimum": -2, "exclusiveMaximum": 2})", {"-2", "-1.5", "-0", "0", "1.99"}, {"2", "-2.1"}},
      {R"({"type": "number", "maximum": -10})", {"-10", "-10.5", "-999"}, {"-9.5", "10", "0"}},
      {R"({"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "string"}}, "required": ["a", "b"],
           "additionalProperties": false})",
       {R"({"a": 1, "b": "x"})", R"({"a":1,"b":"x"})", "{\n  \"a\": 1,\n  \"b\": \"x\"\n}"},
       {R"({"a": 1})", R"({"b": "x", "a": 1})", R"({"a": 1, "b": "x", "c": 1})", R"({"a": 1,  "b": "x"})", "{}"}},
      {R"({"properties": {"a": {"const": 1}, "b": {"const": 2}, "c": {"const": 3}}, "required": ["b"]})",
       {R"({"b": 2})", R"({"a": 1, "b": 2})", R"({"b": 2, "c": 3})", R"({"a": 1, "b": 2, "c": 3})"},
       {"{}", R"({"a": 1})", R"({"a": 1, "c": 3})", R"({"b": 2,})", R"({, "b": 2})"}},
      {R"({"properties": {"a": {"const": 1}, "b": {"const": 2}}})",
       {"{}", "{ }", R"({"a": 1})", R"({"b": 2})", R"({"a": 1, "b": 2})"},
       {R"({"b": 2, "a": 1})"}},
      {R"({"type": "object", "properties": {"ab": {"const": 1}, "ac": {"const": 2}}, "additionalProperties": {"type": "integer"}})",
       {"{}", R"({"ab": 1})", R"({"x": 5})", R"({"ac": 2, "a": 5, "abc": 6, "": 7})", R"({"b": 1, "ad": 2})"},
       {R"({"ab": 5})", R"({"x": "y"})", R"({"x": 5, "ac": 2})", R"({"\u0061b": 5})"}},
      {R"({"type": "object", "additionalProperties": {"type": "boolean"}})",
       {"{}", R"({"a": true, "b": false})"},
       {R"({"a": 1})"}},
      {R"({"type": "object", "required": ["x"]})", {R"({"x": [1]})"}, {"{}"}},
      {R"({"type": "object"})", {"{}", R"({"a": {"b": 1}})"}, {"[]"}},
      {R"({"type": "array", "items": {"type": "integer"}})",
       {"[]", "[ ]", "[1]", "[1, 2,3]"},
       {"[1,]", "[\"a\"]", "[1 2]"}},
      {R"({"type": "array", "items": {"type": "null"}, "minItems": 2, "maxItems": 3})",
       {"[null, null]", "[null,null,null]"},
       {"[]", "[null]", "[null, null, null, null]"}},
      {R"({"type": "array", "maxItems": 0})", {"[]"}, {"[1]"}},
      {R"({"items": [{"const": 1}, {"const": 2}], "maxItems": 3})", {"[]", "[1, 2]", "[1, 2, 9]"}, {"[2]", "[1, 3]"}},
      {R"({"type": "array", "prefixItems": [{"const": 1}, {"const": 2}], "items": {"const": 3}})",
       {"[]", "[1]", "[1, 2]", "[1, 2, 3, 3]"},
       {"[2]", "[1, 3]"}},
      {R"({"type": "array", "prefixItems": [{"const": 1}, {"const": 2}, {"const": 3}], "items": false, "minItems": 2})",
       {"[1, 2]", "[1, 2, 3]"},
       {"[1]", "[]", "[1, 2, 3, 4]"}},
      {R"({"type": "array", "prefixItems": [{"const": 1}, {"const": 2}], "items": {"const": 3}, "minItems": 3, "maxItems": 4})",
       {"[1, 2, 3]", "[1, 2, 3, 3]"},
       {"[1, 2]", "[1, 2, 3, 3, 3]"}},
      {R"({"anyOf": [{"type": "integer"}, {"type": "array", "items": {"$ref": "#"}}]})",
       {"1", "[1, [2, []]]"},
       {"\"x\""}},
      {R"({"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
           "anyOf": [{"required": ["a"]}, {"required": ["b"]}]})",
       {R"({"a": 1})", R"({"b": 1})", R"({"a": 1, "b": 1})"},
       {"{}"}},
      {R"({"allOf": [{"properties": {"a": {"type": "integer"}}, "required": ["a"]},
                     {"properties": {"a": {"minimum": 3}, "b": {"const": 1}}}]})",
       {R"({"a": 3})", R"({"a": 4, "b": 1})"},
       {R"({"a": 2})", R"({"b": 1})"}},
      {R"({"$defs": {"node": {"type": "object", "properties": {"v": {"type": "integer"},
            "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}}, "required": ["v", "next"]}},
           "$ref": "#/$defs/node"})",
       {R"({"v": 1, "next": null})", R"({"v": 1, "next": {"v": 2, "next": null}})"},
       {R"({"v": 1})"}},
      {R"({"definitions": {"a/b": {"const": 1}}, "properties": {"x": {"$ref": "#/definitions/a~1b", "description": "d"}},
           "required": ["x"]})",
       {R"({"x": 1})"},
       {R"({"x": 2})"}},
      {R"({"type": "string", "format": "date"})",
       {"\"2024-02-28\"", "\"1999-12-31\""},
       {"\"2024-02-30\"", "\"2024-13-01\"", "\"24-1-1\"", "\"2023-04-31\""}},
      {R"({"type": "string", "format": "time"})",
       {"\"23:59:59Z\"", "\"00:00:00.25+01:30\""},
       {"\"24:00:00Z\"", "\"1:00:00Z\""}},
      {R"({"type": "string", "format": "date-time"})", {"\"2024-02-28T12:00:00Z\""}, {"\"2024-02-28\""}},
      {R"({"type": "string", "format": "uuid"})", {"\"123e4567-e89b-12d3-a456-426614174000\""}, {"\"123\""}},
      {R"({"type": "string", "format": "ipv4"})", {"\"192.168.0.255\""}, {"\"256.1.1.1\"", "\"1.2.3\""}},
  };
  return all;
}

TEST(JsonSchema, TakesTheValuesOfASchema) {
  for (const SchemaCase& c : cases()) {
    const std::string grammar = grammar_of(c.schema);
    for (const std::string& text : c.taken)
      EXPECT_TRUE(takes(grammar, text)) << c.schema << "\n" << text << "\n" << grammar;
    for (const std::string& text : c.refused) EXPECT_FALSE(takes(grammar, text)) << c.schema << "\n" << text;
  }
  EXPECT_TRUE(takes(json_object_gbnf(), "{\"a\": 1}"));
  EXPECT_FALSE(takes(json_object_gbnf(), "[1]"));
}

// Bounds of all sizes against arithmetic.
TEST(JsonSchema, RangesOfWholeNumbersAreExact) {
  for (unsigned seed = 0; seed < 60; ++seed) {
    std::mt19937 random(seed);
    const auto span = static_cast<std::int64_t>(seed % 3 == 0 ? 30 : 3000);
    std::int64_t low = static_cast<std::int64_t>(random() % 2000) - 1000;
    const std::int64_t high = low + static_cast<std::int64_t>(random()) % span;
    Matcher m({"root ::= " + integer_gbnf(low, high)}, nullptr);
    for (std::int64_t n = low - 1200; n <= high + 1200; n += 1 + n % 3 * n % 3) {
      const Matcher::State s = m.next(m.start(), std::to_string(n));
      EXPECT_EQ(s != Matcher::kRefused && m.may_end(s), n >= low && n <= high) << low << " " << high << " " << n;
    }
  }
}

// Texts by random walks through a grammar parse, and are what the schema's own grammar takes.
TEST(JsonSchema, RandomTextsOfAGrammarAreJson) {
  for (const SchemaCase& c : cases()) {
    Matcher m({grammar_of(c.schema)}, nullptr);
    std::size_t whole = 0;
    for (unsigned seed = 0; seed < 60; ++seed) {
      std::mt19937 random(seed);
      std::string text;
      Matcher::State s = m.start();
      for (int i = 0; i < 400 && !(m.may_end(s) && random() % 4 == 0); ++i) {
        std::vector<std::pair<char, Matcher::State>> next;
        for (int b = 0; b < 256; ++b) {
          // Digits, ends of texts and brackets count more than the many letters.
          const Matcher::State to = m.next(s, static_cast<std::uint8_t>(b));
          const int weight = std::strchr("\"]}", b) != nullptr && b != 0 ? 20 : 1;
          if (to != Matcher::kRefused)
            next.insert(next.end(), static_cast<std::size_t>(weight), {static_cast<char>(b), to});
        }
        if (next.empty()) break;
        const auto& [byte, to] = next[random() % next.size()];
        text += byte;
        s = to;
      }
      if (!m.may_end(s)) continue;
      ++whole;
      EXPECT_NO_THROW(parse_json(text, "walk")) << c.schema << "\n" << text;
    }
    EXPECT_GT(whole, 10u) << c.schema;
  }
}

TEST(JsonSchema, WhatCannotBeKeptIsAnError) {
  const std::vector<std::pair<const char*, const char*>> wrong = {
      {"1", "the schema"},
      {"false", "false"},
      {R"({"type": "text"})", "/type"},
      {R"({"type": []})", "/type"},
      {R"({"properties": {"a": {"type": "string", "pattern": "^a$"}}})", "/properties/a/pattern"},
      {R"({"not": {}})", "/not"},
      {R"({"items": {"multipleOf": 3}})", "/items/multipleOf"},
      {R"({"uniqueItems": true})", "/uniqueItems"},
      {R"({"minProperties": 1})", "/minProperties"},
      {R"({"if": {}, "then": {}})", "/if"},
      {R"({"type": "string", "format": "uri"})", "/format"},
      {R"({"type": "string", "minLength": -1})", "/minLength"},
      {R"({"type": "string", "minLength": 3, "maxLength": 2})", "/maxLength"},
      {R"({"type": "string", "maxLength": 1000000})", "/maxLength"},
      {R"({"type": "integer", "minimum": "1"})", "/minimum"},
      {R"({"type": "integer", "minimum": 5, "maximum": 4})", "bounds"},
      {R"({"type": "integer", "minimum": 0.1, "maximum": 0.9})", "bounds"},
      {R"({"type": "number", "minimum": 0.5})", "/minimum"},
      {R"({"type": "number", "minimum": 1e300})", "/minimum"},
      {R"({"type": "number", "exclusiveMinimum": 1, "maximum": 1})", "bounds"},
      {R"({"enum": []})", "/enum"},
      {R"({"type": "string", "enum": [1]})", "/enum"},
      {R"({"anyOf": []})", "/anyOf"},
      {R"({"anyOf": [{"type": "integer"}, false]})", "/anyOf/1"},
      {R"({"$ref": "other.json"})", "reference"},
      {R"({"$ref": "#/$defs/x"})", "reference"},
      {R"({"$ref": 5})", "reference"},
      {R"({"required": ["a"], "properties": {}, "additionalProperties": false})", "/required"},
      {R"({"required": "a"})", "/required"},
      {R"({"properties": [1]})", "/properties"},
      {R"({"allOf": [{"type": "string"}, {"type": "integer"}]})", "type"},
      {R"({"allOf": [{"properties": {"a": {}}, "additionalProperties": false}, {"properties": {"b": {}}}]})",
       "additionalProperties"},
      {R"({"type": "array", "minItems": 3, "maxItems": 2})", "/maxItems"},
      {R"({"type": "array", "prefixItems": [{}], "items": false, "minItems": 2})", "minItems"},
      {R"({"allOf": [{"$ref": "#"}]})", "deep"},
  };
  for (const auto& [schema, message] : wrong) {
    try {
      const std::string grammar = grammar_of(schema);
      ADD_FAILURE() << schema << "\n" << grammar;
    } catch (const FormatError& e) {
      EXPECT_NE(std::string(e.what()).find(message), std::string::npos) << schema << "\n" << e.what();
    }
  }
  // References that double at every step.
  std::string doubling = R"({"$ref": "#/$defs/d0", "$defs": {)";
  for (int i = 0; i < 40; ++i) {
    const std::string next = R"({"$ref": "#/$defs/d)" + std::to_string(i + 1) + "\"}";
    doubling += "\"d" + std::to_string(i) + R"(": {"type": "object", "anyOf": [)" + next + ", " + next + "]},";
  }
  EXPECT_THROW(grammar_of(doubling + R"("d40": {"type": "object"}}})"), FormatError);
  // What only the grammar can find out.
  for (const char* schema : {R"({"$ref": "#"})", R"({"properties": {"a": {"$ref": "#"}}, "required": ["a"]})"}) {
    EXPECT_THROW(check({grammar_of(schema)}, "schema"), UsageError) << schema;
  }
}

// Schemas of some KiB or MiB that would take the stack, hours, or all memory.
TEST(JsonSchema, WhatItComesToIsBounded) {
  const auto repeated = [](std::size_t times, const std::string& text) {
    std::string all;
    for (std::size_t i = 0; i < times; ++i) all.append(i == 0 ? "" : ",").append(text);
    return all;
  };
  const std::string name(200'000, 'a');
  EXPECT_THROW(grammar_of(R"({"properties": {")" + name + R"(": {}}, "additionalProperties": true})"), FormatError);
  // A long text, put together with something else for each of its uses.
  EXPECT_THROW(grammar_of(R"({"$defs": {"long": {"const": ")" + name + R"("}}, "anyOf": [)" +
                          repeated(10'000, R"({"$ref": "#/$defs/long", "type": "string"})") + "]}"),
               FormatError);
  // Many values of two lists, each to be found in the other.
  std::string numbers;
  for (int i = 0; i < 400'000; ++i) numbers += (i == 0 ? "" : ",") + std::to_string(i);
  EXPECT_THROW(grammar_of(R"({"allOf": [{"enum": [)" + numbers + R"(]}, {"enum": [)" + numbers + "]}]}"), FormatError);
}

}  // namespace
}  // namespace jupiter

// Each schema becomes a piece of GBNF; those of objects, arrays and references become rules of their own.
#include "io/grammar/json_schema.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <set>
#include <vector>

#include "io/grammar/gbnf.hpp"
#include "io/grammar/json_values.hpp"
#include "io/grammar/schema_merge.hpp"
#include "io/json_fields.hpp"

namespace jupiter {

namespace {

using Json = nlohmann::ordered_json;

constexpr std::int64_t kMostLength = 20'000;  // of a string, in characters, where the schema says it; and of an array
constexpr int kMostVisits = 20'000;           // of schemas, where references are written out once for each use
constexpr int kMostDepth = 200;               // of schemas inside schemas, references included
constexpr std::size_t kMostValues = 50'000;   // of JSON in a schema
constexpr std::size_t kMostMerged = 20 * kMostValues;         // in schemas that are put together, all together
constexpr std::size_t kMostWritten = 32 * kMostGrammarBytes;  // of GBNF, what becomes part of others counted again
constexpr std::size_t kMostNameBytes = 1024;  // of a property: rules about other names descend it byte by byte

std::string joined(const std::vector<std::string>& parts, std::string_view with) {
  std::string out;
  for (const std::string& p : parts) out.append(out.empty() ? "" : with).append(p);
  return out;
}

std::size_t count_values(const Json& j) {
  std::size_t n = 1;
  if (j.is_structured()) {
    for (const Json& part : j) n += count_values(part);
  }
  return n;
}

std::string alternatives(const std::vector<std::string>& parts) {
  return parts.size() == 1 ? parts.front() : "(" + joined(parts, " | ") + ")";
}

class Converter {
 public:
  Converter(const Json& root, std::string_view where) : root_(root), where_(where) {}

  std::string convert() {
    const std::size_t values = count_values(root_);
    if (values > kMostValues) fail("", "at most " + std::to_string(kMostValues) + " values", std::to_string(values));
    const std::string body = visit(root_, "");
    return "root ::= " + body + "\n" + rules_ + std::string(kJsonRules);
  }

 private:
  [[noreturn]] void fail(const std::string& pointer, const std::string& expected, const std::string& found) const {
    fail_schema(where_, pointer, expected, found);
  }

  // A new rule; the name tells where in the schema it comes from.
  std::string new_name(const std::string& pointer) {
    std::string name = "s" + std::to_string(++names_);
    for (const char c : pointer.substr(0, 60)) name += std::isalnum(static_cast<unsigned char>(c)) != 0 ? c : '-';
    return name;
  }
  void define(const std::string& name, const std::string& body) {
    count_written(body);
    rules_ += name + " ::= " + body + "\n";
  }
  // Parts that are written out again and again would take memory long before the grammar is refused as too large.
  void count_written(const std::string& body) {
    written_ += body.size();
    if (written_ > kMostWritten) fail("", "a schema whose grammar is shorter", std::to_string(written_) + " bytes");
  }
  // The same of schemas that are put together.
  Json merge(const Json& a, const Json& b, const std::string& pointer) {
    merged_ += count_values(a) + count_values(b);
    if (merged_ > kMostMerged) {
      fail(pointer, "schemas put together of at most " + std::to_string(kMostMerged) + " values", "more");
    }
    return merged(a, b, where_, pointer);
  }
  std::string rule(const std::string& pointer, const std::string& body) {
    const std::string name = new_name(pointer);
    define(name, body);
    return name;
  }

  // The value of a schema, as an element of GBNF.
  std::string visit(const Json& schema, const std::string& pointer) {
    if (schema.is_boolean()) {
      if (!schema.get<bool>()) fail(pointer, "a schema that allows some value", "false");
      return "value";
    }
    if (!schema.is_object()) fail(pointer, "a schema (an object)", json_text(schema));
    if (++depth_ > kMostDepth) {
      fail(pointer, "schemas nested at most " + std::to_string(kMostDepth) + " deep", "deeper ones");
    }
    if (++visits_ > kMostVisits) {
      fail(pointer, "at most " + std::to_string(kMostVisits) + " schemas, references written out", "more");
    }
    const std::string body = visit_object(schema, pointer);
    count_written(body);
    --depth_;
    return body;
  }

  std::string visit_object(const Json& schema, const std::string& pointer) {
    refuse_unsupported(schema, where_, pointer);
    if (schema.contains("$ref")) {
      const Json rest = without(schema, {"$ref"});
      if (!has_assertions(rest)) return reference(schema["$ref"], pointer + "/$ref");
      return visit(merge(resolve(root_, schema["$ref"], where_, pointer), rest, pointer), pointer);
    }
    if (schema.contains("allOf")) return visit(all_of(schema, pointer), pointer);
    for (const char* key : {"anyOf", "oneOf"}) {
      if (schema.contains(key)) return any_of(schema, key, pointer);
    }
    if (schema.contains("const")) return literals({schema["const"]}, schema, pointer + "/const");
    if (schema.contains("enum")) {
      const Json& values = schema["enum"];
      if (!values.is_array() || values.empty()) fail(pointer + "/enum", "a list of values", json_text(values));
      return literals({values.begin(), values.end()}, schema, pointer + "/enum");
    }
    std::vector<std::string> parts;
    const std::vector<std::string> types = types_of(schema, pointer);
    if (types.empty()) return "value";
    for (const std::string& type : types) parts.push_back(of_type(type, schema, pointer));
    return alternatives(parts);
  }

  Json all_of(const Json& schema, const std::string& pointer) {
    const Json& parts = schema["allOf"];
    if (!parts.is_array() || parts.empty()) fail(pointer + "/allOf", "a list of schemas", json_text(parts));
    Json all = without(schema, {"allOf"});
    for (std::size_t i = 0; i < parts.size(); ++i) {
      const std::string at = pointer + "/allOf/" + std::to_string(i);
      all = merge(all, resolved(root_, parts[i], where_, at), at);
    }
    return all;
  }

  std::string any_of(const Json& schema, const char* key, const std::string& pointer) {
    const Json& parts = schema[key];
    const std::string at = pointer + "/" + key;
    if (!parts.is_array() || parts.empty()) fail(at, "a list of schemas", json_text(parts));
    const Json rest = without(schema, {key});
    const bool shared = has_assertions(rest);
    std::vector<std::string> choices;
    for (std::size_t i = 0; i < parts.size(); ++i) {
      const std::string of_part = at + "/" + std::to_string(i);
      choices.push_back(
          visit(shared ? merge(rest, resolved(root_, parts[i], where_, of_part), of_part) : parts[i], of_part));
    }
    return rule(pointer, joined(choices, " | "));
  }

  std::string reference(const Json& ref, const std::string& pointer) {
    const Json& target = resolve(root_, ref, where_, pointer);
    const auto key = ref.get<std::string>();
    const auto known = references_.find(key);
    if (known != references_.end()) return known->second;
    const std::string name = new_name(key);
    references_[key] = name;
    define(name, visit(target, key.substr(1)));
    return name;
  }

  std::string literals(const std::vector<Json>& values, const Json& schema, const std::string& pointer) const {
    const std::vector<std::string> types =
        schema.contains("type") ? types_of(schema, pointer) : std::vector<std::string>{};
    std::vector<std::string> texts;
    for (const Json& v : values) {
      const auto fits = [&](const std::string& type) { return is_of_type(v, type); };
      if (!types.empty() && std::none_of(types.begin(), types.end(), fits)) continue;
      texts.push_back(gbnf_literal(v.dump()));
    }
    if (texts.empty()) fail(pointer, "a value of the schema's type", "none");
    return alternatives(texts);
  }

  std::vector<std::string> types_of(const Json& schema, const std::string& pointer) const {
    static const std::set<std::string> known = {"object", "array", "string", "number", "integer", "boolean", "null"};
    std::vector<std::string> types;
    const auto add = [&](const Json& type) {
      if (!type.is_string() || !known.contains(type.get<std::string>())) {
        fail(pointer + "/type", "object, array, string, number, integer, boolean or null", json_text(type));
      }
      types.push_back(type.get<std::string>());
    };
    if (!schema.contains("type")) return implied_types(schema);
    const Json& type = schema["type"];
    if (type.is_array() && !type.empty()) {
      for (const Json& t : type) add(t);
    } else {
      add(type);
    }
    return types;
  }

  // A schema without a type that says something of values of one type is taken to mean that one.
  static std::vector<std::string> implied_types(const Json& schema) {
    const auto has = [&](std::initializer_list<const char*> keys) {
      return std::any_of(keys.begin(), keys.end(), [&](const char* k) { return schema.contains(k); });
    };
    if (has({"properties", "required", "additionalProperties"})) return {"object"};
    if (has({"items", "prefixItems", "minItems", "maxItems"})) return {"array"};
    if (has({"minLength", "maxLength", "format"})) return {"string"};
    if (has({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"})) return {"number"};
    return {};
  }

  std::string of_type(const std::string& type, const Json& schema, const std::string& pointer) {
    if (type == "object") return object(schema, pointer);
    if (type == "array") return array(schema, pointer);
    if (type == "string") return string(schema, pointer);
    if (type == "integer") return integer(schema, pointer);
    if (type == "number") return number(schema, pointer);
    return type;
  }

  // A whole number that says how long something is.
  std::int64_t length(const Json& schema, const char* key, std::int64_t otherwise, const std::string& pointer) const {
    if (!schema.contains(key)) return otherwise;
    const Json& value = schema[key];
    const double n = value.is_number() ? value.get<double>() : -1;
    if (n < 0 || n != std::floor(n)) fail(pointer + "/" + key, "a whole number from 0 on", json_text(value));
    if (n > static_cast<double>(kMostLength)) {
      fail(pointer + "/" + key, "at most " + std::to_string(kMostLength), json_text(value));
    }
    return static_cast<std::int64_t>(n);
  }

  std::string count(std::int64_t least, std::int64_t most) const {
    return "{" + std::to_string(least) + "," + (most < 0 ? "" : std::to_string(most)) + "}";
  }

  std::string string(const Json& schema, const std::string& pointer) const {
    const std::int64_t least = length(schema, "minLength", 0, pointer);
    const std::int64_t most = length(schema, "maxLength", -1, pointer);
    if (most >= 0 && most < least) fail(pointer + "/maxLength", "at least minLength", std::to_string(most));
    if (schema.contains("format")) {
      const Json& format = schema["format"];
      const std::string_view body = format.is_string() ? format_gbnf(format.get_ref<const std::string&>()) : "";
      if (body.empty()) fail(pointer + "/format", format_names(), json_text(format));
      if (least > 0 || most >= 0) fail(pointer + "/format", "no minLength or maxLength beside it", json_text(format));
      return "(\"\\\"\" " + std::string(body) + " \"\\\"\")";
    }
    return least == 0 && most < 0 ? "string" : "(\"\\\"\" char" + count(least, most) + " \"\\\"\")";
  }

  // A bound of numbers, if the schema has it.
  std::optional<double> bound(const Json& schema, const char* key, const std::string& pointer) const {
    if (!schema.contains(key)) return std::nullopt;
    const Json& value = schema[key];
    if (!value.is_number()) fail(pointer + "/" + key, "a number", json_text(value));
    const auto n = value.get<double>();
    if (std::abs(n) > static_cast<double>(kMostJsonInteger)) {
      fail(pointer + "/" + key, "a number of at most 15 digits", json_text(value));
    }
    return n;
  }

  std::string integer(const Json& schema, const std::string& pointer) const {
    auto low = -static_cast<double>(kMostJsonInteger), high = static_cast<double>(kMostJsonInteger);
    bool bounded = false;
    const auto apply = [&](const char* key, const auto& change) {
      if (const auto b = bound(schema, key, pointer)) {
        change(*b);
        bounded = true;
      }
    };
    apply("minimum", [&](double b) { low = std::max(low, std::ceil(b)); });
    apply("exclusiveMinimum", [&](double b) { low = std::max(low, std::floor(b) + 1); });
    apply("maximum", [&](double b) { high = std::min(high, std::floor(b)); });
    apply("exclusiveMaximum", [&](double b) { high = std::min(high, std::ceil(b) - 1); });
    if (!bounded) return "integer";
    if (low > high) fail(pointer, "bounds between which there is a whole number", "none");
    return integer_gbnf(static_cast<std::int64_t>(low), static_cast<std::int64_t>(high));
  }

  std::string number(const Json& schema, const std::string& pointer) const {
    DecimalRange range;
    const auto apply = [&](const char* key, std::optional<std::int64_t>& place, bool& open, bool is_open, int sign) {
      const auto b = bound(schema, key, pointer);
      if (!b) return;
      if (*b != std::floor(*b)) fail(pointer + "/" + key, "a whole number as bound", json_text(schema[key]));
      const auto n = static_cast<std::int64_t>(*b);
      if (place && sign * n < sign * *place) return;
      if (place && n == *place) is_open |= open;
      place = n;
      open = is_open;
    };
    apply("minimum", range.low, range.low_open, false, 1);
    apply("exclusiveMinimum", range.low, range.low_open, true, 1);
    apply("maximum", range.high, range.high_open, false, -1);
    apply("exclusiveMaximum", range.high, range.high_open, true, -1);
    if (!range.low && !range.high) return "number";
    const std::string body = decimal_gbnf(range);
    if (body.empty()) fail(pointer, "bounds between which there is a number", "none");
    return body;
  }

  std::string array(const Json& schema, const std::string& pointer) {
    const std::int64_t least = length(schema, "minItems", 0, pointer);
    std::int64_t most = length(schema, "maxItems", -1, pointer);
    if (most >= 0 && most < least) fail(pointer + "/maxItems", "at least minItems", std::to_string(most));
    // Schemas from before 2020 have the first items in a list of this name.
    const bool old = schema.contains("items") && schema["items"].is_array() && !schema.contains("prefixItems");
    const std::string prefix_key = old ? "items" : "prefixItems";
    const Json prefix = schema.value(prefix_key, Json::array());
    if (!prefix.is_array()) fail(pointer + "/prefixItems", "a list of schemas", json_text(prefix));
    const Json items = old ? Json(true) : schema.value("items", Json(true));
    const auto fixed = static_cast<std::int64_t>(prefix.size());
    const bool closed = items.is_boolean() && !items.get<bool>();
    if (closed) most = most < 0 ? fixed : std::min(most, fixed);
    if (most >= 0 && least > most) fail(pointer, "items enough for minItems", std::to_string(most));
    if (most == 0) return "(\"[\" ws \"]\")";
    const std::string item = closed || (most >= 0 && most <= fixed) ? "" : visit(items, pointer + "/items");
    // From the last item to the first: each may be the end where there are enough before it.
    std::string rest;
    if (!item.empty()) {
      const std::int64_t first = std::max<std::int64_t>(fixed, 1);
      rest = "(\",\" ws " + item + ")" + count(std::max<std::int64_t>(least - first, 0), most < 0 ? -1 : most - first);
    }
    if (fixed == 0) return array_of(pointer, item + " " + rest, least);
    for (std::int64_t i = std::min(fixed, most < 0 ? fixed : most) - 1; i > 0; --i) {
      const std::string of_item = pointer + "/" + prefix_key + "/" + std::to_string(i);
      const std::string tail = "\",\" ws " + visit(prefix[i], of_item) + " " + rest;
      rest = rule(of_item, i >= least ? "(" + tail + ")?" : tail);
    }
    return array_of(pointer, visit(prefix[0], pointer + "/" + prefix_key + "/0") + " " + rest, least);
  }

  std::string array_of(const std::string& pointer, const std::string& items, std::int64_t least) {
    const std::string inside = items + " ws";
    return rule(pointer, "\"[\" ws " + (least == 0 ? "(" + inside + ")?" : inside) + " \"]\"");
  }

  std::string object(const Json& schema, const std::string& pointer);
  std::string other_member(const Json& schema, const std::vector<std::string>& names, const std::string& pointer);
  std::string other_key(const std::vector<std::string>& names, std::size_t depth, const std::string& pointer);

  const Json& root_;
  std::string where_;
  std::string rules_;
  std::map<std::string, std::string> references_;  // to names of rules
  int names_ = 0;
  int depth_ = 0;
  int visits_ = 0;
  std::size_t written_ = 0, merged_ = 0;
};

// The characters of keys that a schema does not list: without escapes, so that none can spell a listed one in disguise.
constexpr std::string_view kNoKeyChars = "\\\"\\\\\\x00-\\x1f";

std::string class_char(char c) {
  const bool marks = c == ']' || c == '[' || c == '\\' || c == '^' || c == '-' || c == '"';
  return marks ? std::string("\\") + c : std::string(1, c);
}

// Keys that are none of `names`, all of which have the same first `depth` bytes; those behind them are written.
std::string Converter::other_key(const std::vector<std::string>& names, std::size_t depth, const std::string& pointer) {
  std::map<std::string, std::vector<std::string>> by_char;
  bool taken = false;
  for (const std::string& name : names) {
    if (name.size() == depth) {
      taken = true;
      continue;
    }
    std::size_t size = 1;
    while (depth + size < name.size() && (static_cast<unsigned char>(name[depth + size]) & 0xC0) == 0x80) ++size;
    by_char[name.substr(depth, size)].push_back(name);
  }
  std::string others = "[^" + std::string(kNoKeyChars);
  std::vector<std::string> parts;
  for (const auto& [c, below] : by_char) {
    others += c.size() == 1 ? class_char(c[0]) : c;
    const bool written_with_escape =
        c.size() == 1 && (c == "\"" || c == "\\" || static_cast<unsigned char>(c[0]) < 0x20);
    if (!written_with_escape) parts.push_back(gbnf_literal(c) + " " + other_key(below, depth + c.size(), pointer));
  }
  parts.push_back(others + "] [^" + std::string(kNoKeyChars) + "]*");
  if (!taken) parts.emplace_back("\"\"");
  return rule(pointer, joined(parts, " | "));
}

// A property that the schema does not list; empty: there must be none.
std::string Converter::other_member(const Json& schema, const std::vector<std::string>& names,
                                    const std::string& pointer) {
  const Json others = schema.value("additionalProperties", Json(false));
  if (others.is_boolean() && !others.get<bool>()) return "";
  const std::string at = pointer + "/additionalProperties";
  return "\"\\\"\" " + other_key(names, 0, at) + " \"\\\":\" ws " + visit(others, at);
}

std::string Converter::object(const Json& schema, const std::string& pointer) {
  const Json properties = schema.value("properties", Json::object());
  if (!properties.is_object()) fail(pointer + "/properties", "an object", json_text(properties));
  const Json required = schema.value("required", Json::array());
  if (!required.is_array()) fail(pointer + "/required", "a list of names", json_text(required));
  const bool says_others = schema.contains("additionalProperties");
  if (properties.empty() && required.empty() && !says_others) return "object";
  std::vector<std::string> names;
  std::vector<std::pair<std::string, bool>> members;  // and whether it is required
  const auto add = [&](const std::string& name, const Json& of, const std::string& at, bool must) {
    if (name.size() > kMostNameBytes) {
      fail(at.substr(0, 80), "names of at most " + std::to_string(kMostNameBytes) + " bytes",
           std::to_string(name.size()));
    }
    names.push_back(name);
    members.emplace_back(gbnf_literal(Json(name).dump() + ":") + " ws " + visit(of, at), must);
  };
  std::set<std::string> must;
  for (const Json& name : required) {
    if (!name.is_string()) fail(pointer + "/required", "names", json_text(name));
    must.insert(name.get<std::string>());
  }
  for (const auto& [name, of] : properties.items()) add(name, of, pointer + "/properties/" + name, must.contains(name));
  for (const Json& name : required) {
    if (std::find(names.begin(), names.end(), name.get<std::string>()) != names.end()) continue;
    const Json others = schema.value("additionalProperties", Json(true));
    if (others.is_boolean() && !others.get<bool>()) fail(pointer + "/required", "names of properties", json_text(name));
    add(name.get<std::string>(), others, pointer + "/additionalProperties", true);
  }
  const std::string other = other_member(schema, names, pointer);
  // What follows a member, and what begins the object, from the last member to the first.
  std::string after = other.empty() ? "\"\"" : rule(pointer, "(\",\" ws " + other + ")*");
  std::string first = other.empty() ? "\"\"" : rule(pointer, "(" + other + " " + after + ")?");
  for (auto m = members.rbegin(); m != members.rend(); ++m) {
    const auto& [member, is_required] = *m;
    const std::string one = rule(pointer, member), begun = one + " " + after;
    first = is_required ? begun : rule(pointer, begun + " | " + first);
    after = rule(pointer, is_required ? "\",\" ws " + begun : "(\",\" ws " + one + ")? " + after);
  }
  return rule(pointer, "\"{\" ws " + first + " ws \"}\"");
}

}  // namespace

std::string json_object_gbnf() {
  return "root ::= object\n" + std::string(kJsonRules);
}

std::string json_schema_gbnf(const Json& schema, std::string_view where) {
  return Converter(schema, where).convert();
}

}  // namespace jupiter

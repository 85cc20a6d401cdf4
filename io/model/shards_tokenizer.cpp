// The tokenizer inside tokenizer.h5: string tables as one blob with offsets, numbers as little-endian arrays, the few
// settings as JSON. Everything is checked on the way back.
#include <cstring>
#include <nlohmann/json.hpp>

#include "io/error.hpp"
#include "io/json_fields.hpp"
#include "io/model/shards.hpp"

namespace jupiter {

using nlohmann::json;

namespace {

template <typename T>
std::span<const std::byte> as_bytes(const std::vector<T>& values) {
  return std::as_bytes(std::span(values));
}

void write_strings(ShardWriter& writer, const std::string& name, const std::vector<std::string>& strings) {
  std::vector<std::uint32_t> ends;
  std::string blob;
  for (const std::string& s : strings) {
    blob += s;
    ends.push_back(static_cast<std::uint32_t>(blob.size()));
  }
  writer.write_bytes(name + "_text", std::as_bytes(std::span(blob)), "the strings one after the other, UTF-8");
  writer.write_bytes(name + "_ends", as_bytes(ends), "u32: end of each string in the text, bytes");
}

template <typename T>
std::vector<T> read_array(const ShardFile& file, const std::string& name) {
  const auto bytes = file.bytes(name);
  if (bytes.size() % sizeof(T) != 0) {
    throw FormatError(file.name(), "dataset " + name, "a whole number of elements", std::to_string(bytes.size()));
  }
  std::vector<T> values(bytes.size() / sizeof(T));
  if (!values.empty()) std::memcpy(values.data(), bytes.data(), bytes.size());
  return values;
}

std::vector<std::string> read_strings(const ShardFile& file, const std::string& name) {
  const auto text = file.bytes(name + "_text");
  std::vector<std::string> strings;
  std::size_t start = 0;
  for (const std::uint32_t end : read_array<std::uint32_t>(file, name + "_ends")) {
    if (end < start || end > text.size()) {
      throw FormatError(file.name(), "dataset " + name + "_ends", "ascending ends inside the text",
                        std::to_string(end));
    }
    strings.emplace_back(reinterpret_cast<const char*>(text.data()) + start, end - start);
    start = end;
  }
  return strings;
}

}  // namespace

void write_tokenizer(ShardWriter& writer, const TokenizerData& t) {
  const json settings = {{"kind", static_cast<int>(t.kind)},
                         {"pre", static_cast<int>(t.pre)},
                         {"bos", t.bos},
                         {"eos", t.eos},
                         {"unknown", t.unknown},
                         {"end_of_turn", t.end_of_turn},
                         {"add_bos", t.add_bos},
                         {"add_space_prefix", t.add_space_prefix},
                         {"space_prefix_once", t.space_prefix_once},
                         {"chat_template", t.chat_template}};
  const std::string text = settings.dump(-1, ' ', false, json::error_handler_t::replace);
  writer.write_bytes("settings", std::as_bytes(std::span(text)), "JSON: kind, pre-tokenizer, special tokens, template");
  write_strings(writer, "tokens", t.tokens);
  std::vector<std::uint8_t> types;
  for (const TokenType type : t.types) types.push_back(static_cast<std::uint8_t>(type));
  writer.write_bytes("token_types", as_bytes(types), "u8 per token, GGUF's numbers: 1 normal ... 6 byte");
  if (!t.scores.empty()) writer.write_bytes("token_scores", as_bytes(t.scores), "f32 per token");
  if (!t.merges.empty()) write_strings(writer, "merges", t.merges);
}

TokenizerData read_tokenizer(const ShardFile& file, std::int64_t vocab_size) {
  TokenizerData t;
  const auto text = file.bytes("settings");
  const JsonObject s =
      parse_json_object({reinterpret_cast<const char*>(text.data()), text.size()}, file.name() + ": dataset settings");
  const auto flag = [&](const char* key) {
    const auto found = s.find_bool(key);
    if (!found) s.fail(key, "true or false", "nothing");
    return *found;
  };
  const auto number = [&](const char* key, std::int64_t low, std::int64_t high) {
    const auto found = s.find_int(key, low, high);
    if (!found) s.fail(key, "a number", "nothing");
    return static_cast<std::int32_t>(*found);
  };
  t.kind = static_cast<TokenizerKind>(number("kind", 0, 1));
  t.pre = static_cast<PreTokenizer>(number("pre", 0, 5));
  t.bos = number("bos", -1, vocab_size - 1);
  t.eos = number("eos", -1, vocab_size - 1);
  t.unknown = number("unknown", -1, vocab_size - 1);
  for (const std::int64_t id : s.ints("end_of_turn")) {
    if (id < -1 || id >= vocab_size) s.fail("end_of_turn", "tokens of the vocabulary", std::to_string(id));
    t.end_of_turn.push_back(static_cast<TokenId>(id));
  }
  t.add_bos = flag("add_bos");
  t.add_space_prefix = flag("add_space_prefix");
  t.space_prefix_once = s.find_bool("space_prefix_once").value_or(false);
  t.chat_template = s.string("chat_template");
  t.tokens = read_strings(file, "tokens");
  if (std::ssize(t.tokens) != vocab_size) {
    throw FormatError(file.name(), "tokens", std::to_string(vocab_size), std::to_string(t.tokens.size()));
  }
  for (const std::uint8_t type : read_array<std::uint8_t>(file, "token_types")) {
    if (type < 1 || type > 6) throw FormatError(file.name(), "token type", "1 to 6", std::to_string(type));
    t.types.push_back(static_cast<TokenType>(type));
  }
  if (file.has("token_scores")) t.scores = read_array<float>(file, "token_scores");
  if (file.has("merges_text")) t.merges = read_strings(file, "merges");
  if (t.types.size() != t.tokens.size() || (!t.scores.empty() && t.scores.size() != t.tokens.size())) {
    throw FormatError(file.name(), "token tables", "one entry per token", "another number");
  }
  return t;
}

}  // namespace jupiter

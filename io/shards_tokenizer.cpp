// The tokenizer inside tokenizer.h5: string tables as one blob with offsets, numbers as little-endian arrays, the few
// settings as JSON. Everything is checked on the way back.
#include <cstring>
#include <nlohmann/json.hpp>

#include "io/error.hpp"
#include "io/shards.hpp"

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

void check_token(const ShardFile& file, TokenId id, std::size_t count, const char* what) {
  if (id >= -1 && id < static_cast<TokenId>(count)) return;
  throw FormatError(file.name(), what, "a token of the vocabulary", std::to_string(id));
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
  try {
    const json s = json::parse(reinterpret_cast<const char*>(text.data()),
                               reinterpret_cast<const char*>(text.data()) + text.size());
    const int kind = s.at("kind").get<int>(), pre = s.at("pre").get<int>();
    if (kind < 0 || kind > 1 || pre < 0 || pre > 4) {
      throw FormatError(file.name(), "tokenizer kind", "a known one", std::to_string(kind) + "/" + std::to_string(pre));
    }
    t.kind = static_cast<TokenizerKind>(kind);
    t.pre = static_cast<PreTokenizer>(pre);
    t.bos = s.at("bos").get<TokenId>();
    t.eos = s.at("eos").get<TokenId>();
    t.unknown = s.at("unknown").get<TokenId>();
    t.end_of_turn = s.at("end_of_turn").get<std::vector<TokenId>>();
    t.add_bos = s.at("add_bos").get<bool>();
    t.add_space_prefix = s.at("add_space_prefix").get<bool>();
    t.space_prefix_once = s.value("space_prefix_once", false);
    t.chat_template = s.at("chat_template").get<std::string>();
  } catch (const json::exception& e) {
    throw FormatError(file.name(), "dataset settings", "JSON of the tokenizer's settings", e.what());
  }
  t.tokens = read_strings(file, "tokens");
  if (static_cast<std::int64_t>(t.tokens.size()) != vocab_size) {
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
  check_token(file, t.bos, t.tokens.size(), "bos");
  check_token(file, t.eos, t.tokens.size(), "eos");
  check_token(file, t.unknown, t.tokens.size(), "unknown token");
  for (const TokenId id : t.end_of_turn) check_token(file, id, t.tokens.size(), "end-of-turn token");
  return t;
}

}  // namespace jupiter

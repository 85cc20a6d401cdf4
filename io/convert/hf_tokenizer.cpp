// Recognises the tokenizers that we implement by their declared steps, and refuses every other declaration.
#include "io/convert/hf_tokenizer.hpp"

#include <algorithm>
#include <array>
#include <filesystem>
#include <unordered_map>

#include "io/convert/hf_model.hpp"
#include "io/error.hpp"
#include "io/files.hpp"
#include "io/tokenizer/bpe.hpp"
#include "io/tokenizer/tokenizer_rules.hpp"
#include "io/tokenizer/utf8.hpp"

namespace jupiter {

namespace {

using nlohmann::json;

constexpr std::string_view kSpaceMark = "\u2581";

constexpr std::string_view kGpt2Regex = R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
constexpr std::string_view kLlama3Regex =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kQwen2Regex =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

constexpr std::string_view kO200kRegex =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|)"
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|)"
    R"(\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

// A step that may be a "Sequence" of steps, flattened.
std::vector<JsonObject> steps_of(const JsonObject& parent, std::string_view key, std::string_view list) {
  const auto step = parent.find_object(key);
  if (!step) return {};
  if (step->find_string("type").value_or("") != "Sequence") return {*step};
  std::vector<JsonObject> steps;
  for (const json& element : step->array_or_empty(list)) steps.emplace_back(element, step->where());
  return steps;
}

std::string type_of(const JsonObject& step) {
  return step.find_string("type").value_or("");
}

// The pre-tokenizer of a Split step's expression, if it is one of ours.
PreTokenizer pre_of_split(const JsonObject& split) {
  const auto pattern = split.find_object("pattern");
  const std::string regex = pattern ? pattern->find_string("Regex").value_or("") : "";
  const bool isolated = split.find_string("behavior").value_or("") == "Isolated";
  if (isolated && !split.find_bool("invert").value_or(false)) {
    if (regex == kGpt2Regex) return PreTokenizer::gpt2;
    if (regex == kLlama3Regex) return PreTokenizer::llama3;
    if (regex == kQwen2Regex) return PreTokenizer::qwen2;
    if (regex == kO200kRegex) return PreTokenizer::o200k;
  }
  return PreTokenizer::none;
}

PreTokenizer read_pre_tokenizer(const JsonObject& tokenizer) {
  const std::vector<JsonObject> steps = steps_of(tokenizer, "pre_tokenizer", "pretokenizers");
  PreTokenizer pre = PreTokenizer::none;
  if (!steps.empty() && type_of(steps.back()) == "ByteLevel" &&
      !steps.back().find_bool("add_prefix_space").value_or(true)) {
    const bool own_regex = steps.back().find_bool("use_regex").value_or(true);
    const bool digits =
        steps.size() == 2 && type_of(steps[0]) == "Digits" && steps[0].find_bool("individual_digits").value_or(false);
    if (steps.size() == 1 && own_regex) pre = PreTokenizer::gpt2;
    if (digits && own_regex) pre = PreTokenizer::smollm;
    if (steps.size() == 2 && type_of(steps[0]) == "Split" && !own_regex) pre = pre_of_split(steps[0]);
  }
  if (pre == PreTokenizer::none) {
    const json* found = tokenizer.find("pre_tokenizer");
    tokenizer.fail("pre_tokenizer", "that of GPT-2, SmolLM, Llama 3, Qwen 2 or GPT-4o",
                   found == nullptr ? "nothing" : json_text(*found));
  }
  return pre;
}

// Our byte-level BPE normalises nothing but Qwen's NFC (io/tokenizer/tokenizer.cpp); anything else would change the
// tokens.
void check_byte_level(const JsonObject& tokenizer, const JsonObject& model, PreTokenizer pre) {
  for (const JsonObject& step : steps_of(tokenizer, "normalizer", "normalizers")) {
    if (pre != PreTokenizer::qwen2 || type_of(step) != "NFC") {
      tokenizer.fail("normalizer", pre == PreTokenizer::qwen2 ? "NFC or nothing" : "nothing", json_text(step.value()));
    }
  }
  const bool whole_words = model.find_bool("ignore_merges").value_or(false);
  if (pre == PreTokenizer::o200k) return;  // its merges make every token from its own bytes: both find the same
  if (whole_words != (pre == PreTokenizer::llama3)) {
    model.fail("ignore_merges", whole_words ? "false" : "true (Llama 3)", whole_words ? "true" : "false");
  }
}

bool splits_at_spaces(const JsonObject& step) {
  const auto pattern = step.find_object("pattern");
  return type_of(step) == "Split" && pattern && pattern->find_string("String").value_or("") == " ";
}

// SentencePiece's spaces: spelled as a mark, and one put in front. As a normaliser's step that happens in every part
// between control tokens; as a pre-tokenizer's it may be the first part only.
void read_space_prefix(const JsonObject& tokenizer, TokenizerData& data) {
  for (const JsonObject& step : steps_of(tokenizer, "normalizer", "normalizers")) {
    const bool space_rule = type_of(step) == "Replace" && step.find_string("content").value_or("") == kSpaceMark;
    const bool prepend = type_of(step) == "Prepend" && step.find_string("prepend").value_or("") == kSpaceMark;
    if (!space_rule && !prepend) tokenizer.fail("normalizer", "Prepend and Replace of spaces", json_text(step.value()));
    data.add_space_prefix = data.add_space_prefix || prepend;
  }
  for (const JsonObject& step : steps_of(tokenizer, "pre_tokenizer", "pretokenizers")) {
    if (splits_at_spaces(step)) continue;  // Gemma: the normaliser has left none
    if (type_of(step) != "Metaspace") tokenizer.fail("pre_tokenizer", "Metaspace or nothing", json_text(step.value()));
    if (step.find_bool("split").value_or(true)) step.fail("split", "false (pieces that hold spaces)", "true");
    const std::string scheme = step.find_string("prepend_scheme").value_or("always");
    if (scheme != "first" && scheme != "never") step.fail("prepend_scheme", "first or never", scheme.substr(0, 40));
    data.space_prefix_once = scheme == "first" && !data.add_space_prefix;
    data.add_space_prefix = data.add_space_prefix || data.space_prefix_once;
  }
}

std::string merge_text(const json& merge, const JsonObject& model) {
  if (merge.is_string() && merge.get_ref<const std::string&>().find(' ') != std::string::npos) {
    return merge.get<std::string>();
  }
  if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
    return merge[0].get<std::string>() + " " + merge[1].get<std::string>();
  }
  model.fail("merges", "\"left right\" or [left, right]", json_text(merge));
}

bool is_one_character(std::string_view text) {
  return !text.empty() && first_utf8_char(text).bytes == text.size();
}

// Scored BPE takes the best-scored piece first; the rank of the first merge that makes a piece is that order. A piece
// that no merge makes must not appear: it is marked unused, which takes it out of merging.
void scores_from_merges(const std::vector<std::string>& merges, TokenizerData& data) {
  std::unordered_map<std::string, float> rank;
  for (std::size_t i = 0; i < merges.size(); ++i) {
    std::string piece = merges[i];
    piece.erase(piece.find(' '), 1);
    rank.emplace(std::move(piece), -static_cast<float>(i));
  }
  data.scores.assign(data.tokens.size(), -static_cast<float>(merges.size()));
  for (std::size_t id = 0; id < data.tokens.size(); ++id) {
    if (data.types[id] != TokenType::normal) continue;
    const auto found = rank.find(data.tokens[id]);
    if (found != rank.end()) {
      data.scores[id] = found->second;
    } else if (!is_one_character(data.tokens[id])) {
      data.types[id] = TokenType::unused;
    }
  }
}

class Reader {
 public:
  Reader(const HfTokenizerFiles& files, std::int64_t vocab_size) : files_(files), vocab_size_(vocab_size) {}

  TokenizerData read() {
    const JsonObject& tokenizer = files_.tokenizer;
    const JsonObject model = tokenizer.object("model");
    const std::string type = model.find_string("type").value_or("BPE");
    if (type != "BPE") model.fail("type", "BPE", type.substr(0, 40));
    const bool scored = model.find_bool("byte_fallback").value_or(false);
    data_.kind = scored ? TokenizerKind::sentencepiece : TokenizerKind::byte_bpe;
    read_tokens(model, scored);
    std::vector<std::string> merges;
    for (const json& merge : model.array_or_empty("merges")) merges.push_back(merge_text(merge, model));
    if (merges.empty()) model.fail("merges", "a list of merges", "nothing");
    if (scored) {
      read_space_prefix(tokenizer, data_);
      scores_from_merges(merges, data_);
    } else {
      data_.pre = read_pre_tokenizer(tokenizer);
      check_byte_level(tokenizer, model, data_.pre);
      data_.merges = std::move(merges);
    }
    read_special_ids();
    read_end_of_turn();
    read_chat_template();
    check(data_, tokenizer.where());
    complete_end_of_turn(data_);
    return std::move(data_);
  }

 private:
  void put(std::int64_t id, const std::string& token, TokenType type) {
    if (id < 0 || id >= vocab_size_) {
      files_.tokenizer.fail("id of \"" + token.substr(0, 40) + "\"", "0 to " + std::to_string(vocab_size_ - 1),
                            std::to_string(id));
    }
    data_.tokens[id] = token;
    data_.types[id] = type;
    ids_[token] = static_cast<TokenId>(id);
  }

  void read_tokens(const JsonObject& model, bool scored) {
    data_.tokens.resize(vocab_size_);
    data_.types.assign(data_.tokens.size(), TokenType::unused);
    for (std::size_t id = 0; id < data_.tokens.size(); ++id) data_.tokens[id] = "[PAD" + std::to_string(id) + "]";
    const JsonObject vocab = model.object("vocab");
    for (const auto& [token, id] : vocab.value().items()) {
      if (!id.is_number_integer()) vocab.fail(token.substr(0, 40), "an id", json_text(id));
      const bool byte = scored && byte_of_token(token) >= 0;
      put(id.get<std::int64_t>(), token, byte ? TokenType::byte : TokenType::normal);
    }
    for (const json& element : files_.tokenizer.array_or_empty("added_tokens")) {
      const JsonObject added(element, files_.tokenizer.where() + ": added_tokens");
      const bool special = added.find_bool("special").value_or(false);
      put(added.integer("id"), added.string("content"), special ? TokenType::control : TokenType::user_defined);
    }
  }

  // "bos_token": "<s>" or {"content": "<s>"}, in either of two files; else the id in config.json.
  TokenId special_id(const std::string& name) const {
    for (const auto& file : {files_.tokenizer_config, files_.special_tokens}) {
      const json* found = file ? file->find(name + "_token") : nullptr;
      if (found != nullptr && found->is_object() && found->contains("content")) found = &(*found)["content"];
      if (found == nullptr || !found->is_string()) continue;
      const auto id = ids_.find(found->get<std::string>());
      if (id != ids_.end()) return id->second;
    }
    const std::vector<TokenId> ids = config_ids(files_.config, name + "_token_id");
    return ids.empty() ? -1 : ids.front();
  }

  // An id or a list of them.
  std::vector<TokenId> config_ids(const std::optional<JsonObject>& file, const std::string& key) const {
    const json* found = file ? file->find(key) : nullptr;
    if (found == nullptr) return {};
    std::vector<TokenId> ids;
    for (const json& element : found->is_array() ? *found : json::array({*found})) {
      const bool fits =
          element.is_number_integer() && element.get<std::int64_t>() >= 0 && element.get<std::int64_t>() < vocab_size_;
      if (!fits) file->fail(key, "ids below " + std::to_string(vocab_size_), json_text(element));
      ids.push_back(element.get<TokenId>());
    }
    return ids;
  }

  // Whether tokenizer.json itself puts bos in front.
  bool template_adds_bos() const {
    for (const JsonObject& step : steps_of(files_.tokenizer, "post_processor", "processors")) {
      if (type_of(step) != "TemplateProcessing") continue;
      const auto& single = step.array_or_empty("single");
      if (single.empty() || !single[0].is_object() || !single[0].contains("SpecialToken")) continue;
      const json& token = single[0]["SpecialToken"];
      if (token.is_object() && token.contains("id") && token["id"].is_string()) {
        const auto id = ids_.find(token["id"].get<std::string>());
        if (id != ids_.end() && id->second == data_.bos) return true;
      }
    }
    return false;
  }

  void read_special_ids() {
    data_.bos = special_id("bos");
    data_.eos = special_id("eos");
    data_.unknown = special_id("unk");
    const auto asked = files_.tokenizer_config ? files_.tokenizer_config->find_bool("add_bos_token") : std::nullopt;
    data_.add_bos = data_.bos >= 0 && asked.value_or(template_adds_bos());
  }

  void read_end_of_turn() {
    for (const auto& file : {files_.config, files_.generation_config}) {
      for (const TokenId id : config_ids(file, "eos_token_id")) data_.end_of_turn.push_back(id);
    }
  }

  // A file of its own (newer), a string, or a list of named templates of which "default" counts.
  void read_chat_template() {
    data_.chat_template = files_.chat_template;
    const json* found = files_.tokenizer_config ? files_.tokenizer_config->find("chat_template") : nullptr;
    if (found == nullptr || !data_.chat_template.empty()) return;
    if (found->is_string()) data_.chat_template = found->get<std::string>();
    if (!found->is_array()) return;
    for (const json& element : *found) {
      const JsonObject named(element, files_.tokenizer_config->where() + ": chat_template");
      if (named.find_string("name") == "default") data_.chat_template = named.string("template");
    }
  }

  const HfTokenizerFiles& files_;
  std::int64_t vocab_size_;
  TokenizerData data_;
  std::unordered_map<std::string, TokenId> ids_;
};

}  // namespace

TokenizerData parse_hf_tokenizer(const HfTokenizerFiles& files, std::int64_t vocab_size) {
  return Reader(files, vocab_size).read();
}

TokenizerData HfFolder::tokenizer_data() const {
  const auto load = [this](const std::string& name) -> std::optional<JsonObject> {
    const std::string path = path_ + "/" + name;
    if (!std::filesystem::exists(path)) return std::nullopt;
    return parse_json_object(read_file(path), path);
  };
  auto tokenizer = load("tokenizer.json");
  if (!tokenizer) throw FormatError(path_, "tokenizer.json", "a file", "nothing");
  HfTokenizerFiles files{*std::move(tokenizer),          load("tokenizer_config.json"), load("special_tokens_map.json"),
                         load("generation_config.json"), load("config.json"),           {}};
  const std::string jinja = path_ + "/chat_template.jinja";
  if (std::filesystem::exists(jinja)) files.chat_template = read_file(jinja);
  return parse_hf_tokenizer(files, config().vocab_size);
}

}  // namespace jupiter

// Whole tokens are cut out first, the text between them goes through byte pair encoding.
#include "io/tokenizer/tokenizer.hpp"

#include <algorithm>
#include <utility>

#include "io/error.hpp"
#include "io/tokenizer/tokenizer_rules.hpp"
#include "io/tokenizer/utf8.hpp"

namespace jupiter {

namespace {

constexpr std::string_view kSpaceMark = "\u2581";  // how SentencePiece spells a space

// Positions inside one word are ints, and no model's context holds a fraction of this.
constexpr std::size_t kMaxTextBytes = std::size_t{1} << 30;

std::string replace_all(std::string_view text, std::string_view from, std::string_view to) {
  std::string out;
  out.reserve(text.size());
  for (std::size_t at = 0;;) {
    const std::size_t hit = text.find(from, at);
    out.append(text.substr(at, hit - at));
    if (hit == std::string_view::npos) return out;
    out.append(to);
    at = hit + from.size();
  }
}

bool is_control_type(TokenType type) {
  return type == TokenType::control || type == TokenType::unknown;
}

// The bytes that a token stands for.
std::string piece_bytes(const TokenizerData& data, std::size_t id) {
  const std::string& token = data.tokens[id];
  const TokenType type = data.types[id];
  if (is_control_type(type) || type == TokenType::user_defined) return token;
  if (data.kind == TokenizerKind::sentencepiece) {
    const int byte = type == TokenType::byte ? byte_of_token(token) : -1;
    return byte >= 0 ? std::string(1, static_cast<char>(byte)) : replace_all(token, kSpaceMark, " ");
  }
  std::string bytes;
  return bytes_from_gpt2(token, bytes) ? bytes : token;
}

TokenizerData checked(TokenizerData data, std::string_view source) {
  check(data, source);
  return data;
}

std::vector<std::string> all_pieces(const TokenizerData& data) {
  std::vector<std::string> pieces;
  pieces.reserve(data.tokens.size());
  for (std::size_t id = 0; id < data.tokens.size(); ++id) pieces.push_back(piece_bytes(data, id));
  return pieces;
}

std::variant<ByteBpe, ScoredBpe> make_bpe(const TokenizerData& data, const std::vector<std::string>& pieces,
                                          std::string_view source) {
  if (data.kind == TokenizerKind::sentencepiece) return ScoredBpe(data);
  return ByteBpe(data, pieces, source);
}

}  // namespace

WholeTokenFinder::WholeTokenFinder(const TokenizerData& data) {
  for (std::size_t id = 0; id < data.tokens.size(); ++id) {
    const std::string& token = data.tokens[id];
    const bool control = is_control_type(data.types[id]);
    if (token.empty() || (!control && data.types[id] != TokenType::user_defined)) continue;
    tokens_.emplace(token, Entry{static_cast<TokenId>(id), control});
    lengths_.push_back(token.size());
    first_bytes_[static_cast<std::uint8_t>(token[0])] = true;
  }
  std::sort(lengths_.begin(), lengths_.end(), std::greater<>());
  lengths_.erase(std::unique(lengths_.begin(), lengths_.end()), lengths_.end());
}

template <typename Allowed>
WholeTokenFinder::Match WholeTokenFinder::find(std::string_view text, std::size_t from,
                                               const Allowed& control_allowed) const {
  for (std::size_t at = from; at < text.size(); ++at) {
    if (!first_bytes_[static_cast<std::uint8_t>(text[at])]) continue;
    for (const std::size_t length : lengths_) {
      if (length > text.size() - at) continue;
      const auto it = tokens_.find(text.substr(at, length));
      if (it == tokens_.end() || (it->second.control && !control_allowed(at, length))) continue;
      return {at, length, it->second.id, it->second.control};
    }
  }
  return {text.size(), 0, -1, false};
}

Tokenizer::Tokenizer(TokenizerData data, std::string_view source)
    : data_(checked(std::move(data), source)),
      pieces_(all_pieces(data_)),
      whole_tokens_(data_),
      bpe_(make_bpe(data_, pieces_, source)) {}

template <typename Allowed>
std::vector<TokenId> Tokenizer::encode_text(std::string_view text, const Allowed& control_allowed) const {
  if (text.size() > kMaxTextBytes) throw UsageError("prompt: longer than 1 GiB");
  std::vector<TokenId> out;
  bool after_whole_token = false;
  for (std::size_t at = 0; at < text.size();) {
    const WholeTokenFinder::Match match = whole_tokens_.find(text, at, control_allowed);
    if (match.begin > at) {
      const bool prefix = at == 0 || (after_whole_token && !data_.space_prefix_once);
      encode_fragment(text.substr(at, match.begin - at), prefix, out);
      after_whole_token = false;
    }
    if (match.size > 0) {
      out.push_back(match.id);
      after_whole_token = true;
    }
    at = match.begin + match.size;
  }
  return out;
}

void Tokenizer::encode_fragment(std::string_view text, bool space_prefix, std::vector<TokenId>& out) const {
  if (const auto* bytes = std::get_if<ByteBpe>(&bpe_)) {
    // Qwen 2 was trained on composed characters, and its own tokenizer composes them.
    return data_.pre == PreTokenizer::qwen2 ? bytes->encode(to_nfc(text), out) : bytes->encode(text, out);
  }
  std::string marked = replace_all(text, " ", kSpaceMark);
  const bool has_one = data_.space_prefix_once && marked.starts_with(kSpaceMark);
  if (data_.add_space_prefix && space_prefix && !has_one) marked.insert(0, kSpaceMark);
  std::get<ScoredBpe>(bpe_).encode(marked, out);
}

std::vector<TokenId> Tokenizer::encode(std::string_view text, bool parse_special) const {
  return encode_text(text, [parse_special](std::size_t, std::size_t) { return parse_special; });
}

std::vector<TokenId> Tokenizer::encode(std::span<const PromptSegment> segments) const {
  std::string text;
  std::vector<std::pair<std::size_t, std::size_t>> special;  // [begin, end) of the text
  for (const PromptSegment& segment : segments) {
    const std::size_t begin = text.size();
    text += segment.text;
    if (!segment.special) continue;
    if (!special.empty() && special.back().second == begin) {
      special.back().second = text.size();
    } else {
      special.emplace_back(begin, text.size());
    }
  }
  return encode_text(text, [&special](std::size_t begin, std::size_t size) {
    const auto after = std::upper_bound(special.begin(), special.end(), begin,
                                        [](std::size_t at, const auto& range) { return at < range.first; });
    return after != special.begin() && begin + size <= std::prev(after)->second;
  });
}

std::string_view Tokenizer::piece(TokenId id) const {
  return id >= 0 && id < vocab_size() ? std::string_view(pieces_[id]) : std::string_view();
}

bool Tokenizer::is_control(TokenId id) const {
  return id >= 0 && id < vocab_size() && is_control_type(data_.types[id]);
}

bool Tokenizer::is_end(TokenId id) const {
  return std::find(data_.end_of_turn.begin(), data_.end_of_turn.end(), id) != data_.end_of_turn.end();
}

std::string Tokenizer::decode(std::span<const TokenId> ids) const {
  StreamDecoder decoder(*this);
  std::string text;
  for (const TokenId id : ids) text += decoder.push(id);
  return text + decoder.finish();
}

StreamDecoder::StreamDecoder(const Tokenizer& tokenizer)
    : tokenizer_(&tokenizer), strip_space_(tokenizer.data().add_space_prefix) {}

std::string StreamDecoder::push(TokenId id) {
  if (tokenizer_->is_control(id)) return {};
  std::string_view piece = tokenizer_->piece(id);
  if (strip_space_ && !piece.empty()) {
    if (piece.front() == ' ') piece.remove_prefix(1);
    strip_space_ = false;
  }
  pending_ += piece;
  std::string text;
  std::string_view rest = pending_;
  while (!rest.empty()) {
    const Utf8Char c = first_utf8_char(rest);
    if (c.state == Utf8State::incomplete) break;
    append_utf8(c.code, text);
    rest.remove_prefix(c.bytes);
  }
  pending_.erase(0, pending_.size() - rest.size());
  return text;
}

std::string StreamDecoder::finish() {
  std::string text = to_valid_utf8(pending_);
  *this = StreamDecoder(*tokenizer_);
  return text;
}

}  // namespace jupiter

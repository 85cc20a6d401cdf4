// Merging by priority queue over a linked list of symbols: never quadratic, whatever the text.
#include "io/tokenizer/bpe.hpp"

#include <algorithm>
#include <queue>

#include "io/error.hpp"
#include "io/tokenizer/pretokenizer.hpp"
#include "io/tokenizer/utf8.hpp"

namespace jupiter {

namespace {

// The printable bytes stand for themselves, the others for 256, 257, ... in order.
bool stands_for_itself(unsigned byte) {
  return (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
}

struct Gpt2Alphabet {
  std::array<char32_t, 256> code{};  // of each byte
  std::array<int, 512> byte{};       // of each code; -1: none
  Gpt2Alphabet() {
    byte.fill(-1);
    char32_t next = 256;
    for (unsigned b = 0; b < 256; ++b) {
      code[b] = stands_for_itself(b) ? b : next++;
      byte[code[b]] = static_cast<int>(b);
    }
  }
};

const Gpt2Alphabet& gpt2_alphabet() {
  static const Gpt2Alphabet alphabet;
  return alphabet;
}

// Symbols of one word: a doubly linked list in an array. A merge grows the left symbol and unlinks the right one.
struct Symbol {
  int previous;
  int next;
  TokenId id;         // ByteBpe
  std::size_t begin;  // ScoredBpe: bytes of the text
  std::size_t size;   // 0: unlinked
};

class SymbolList {
 public:
  explicit SymbolList(std::size_t capacity) { symbols_.reserve(capacity); }
  void append(TokenId id, std::size_t begin, std::size_t size) {
    const int i = static_cast<int>(symbols_.size());
    if (i > 0) symbols_.back().next = i;
    symbols_.push_back({i - 1, -1, id, begin, size});
  }
  // Symbol i swallows its right neighbour.
  void merge(int i, TokenId id) {
    Symbol& left = symbols_[i];
    Symbol& right = symbols_[left.next];
    left.id = id;
    left.size += right.size;
    right.size = 0;
    left.next = right.next;
    if (left.next >= 0) symbols_[left.next].previous = i;
  }
  int size() const { return static_cast<int>(symbols_.size()); }
  const Symbol& operator[](int i) const { return symbols_[i]; }

 private:
  std::vector<Symbol> symbols_;
};

// A pair that may be merged; stale once either symbol changed, which its sizes tell.
template <typename Priority>
struct Candidate {
  Priority priority;  // smaller is better
  int left;
  std::size_t left_size;
  std::size_t right_size;
  TokenId result;
  bool operator<(const Candidate& other) const {  // std::priority_queue takes the largest first
    return priority != other.priority ? priority > other.priority : left > other.left;
  }
};

// Merges the best pair until none is left. find(left, right, candidate) fills priority and result, or returns false.
template <typename Priority, typename Find>
void merge_all(SymbolList& list, const Find& find) {
  std::vector<Candidate<Priority>> storage;
  storage.reserve(list.size());
  std::priority_queue<Candidate<Priority>> queue({}, std::move(storage));
  const auto consider = [&](int left) {
    if (left < 0 || list[left].next < 0) return;
    const Symbol& a = list[left];
    const Symbol& b = list[a.next];
    Candidate<Priority> candidate{{}, left, a.size, b.size, -1};
    if (find(a, b, candidate)) queue.push(candidate);
  };
  for (int i = 0; i + 1 < list.size(); ++i) consider(i);
  while (!queue.empty()) {
    const Candidate<Priority> best = queue.top();
    queue.pop();
    const Symbol& left = list[best.left];
    if (left.size != best.left_size || left.next < 0 || list[left.next].size != best.right_size) continue;
    list.merge(best.left, best.result);
    consider(left.previous);
    consider(best.left);
  }
}

}  // namespace

bool bytes_from_gpt2(std::string_view token, std::string& out) {
  out.clear();
  while (!token.empty()) {
    const Utf8Char c = first_utf8_char(token);
    if (c.state != Utf8State::valid || c.code >= 512 || gpt2_alphabet().byte[c.code] < 0) return false;
    out += static_cast<char>(gpt2_alphabet().byte[c.code]);
    token.remove_prefix(c.bytes);
  }
  return true;
}

std::string gpt2_from_bytes(std::string_view bytes) {
  std::string out;
  for (const char b : bytes) append_utf8(gpt2_alphabet().code[static_cast<std::uint8_t>(b)], out);
  return out;
}

int byte_of_token(std::string_view token) {
  if (token.size() != 6 || token.substr(0, 3) != "<0x" || token[5] != '>') return -1;
  int value = 0;
  for (const char c : token.substr(3, 2)) {
    const int digit = c >= '0' && c <= '9'   ? c - '0'
                      : c >= 'A' && c <= 'F' ? c - 'A' + 10
                      : c >= 'a' && c <= 'f' ? c - 'a' + 10
                                             : -1;
    if (digit < 0) return -1;
    value = value * 16 + digit;
  }
  return value;
}

ByteBpe::ByteBpe(const TokenizerData& data, const std::vector<std::string>& pieces, std::string_view source)
    : pre_(data.pre), whole_words_first_(data.pre == PreTokenizer::llama3 || data.pre == PreTokenizer::o200k) {
  byte_tokens_.fill(-1);
  for (std::size_t id = 0; id < pieces.size(); ++id) {
    if (data.types[id] != TokenType::normal || pieces[id].empty()) continue;
    const bool first = ids_.emplace(pieces[id], static_cast<TokenId>(id)).second;
    if (first && pieces[id].size() == 1) {
      byte_tokens_[static_cast<std::uint8_t>(pieces[id][0])] = static_cast<TokenId>(id);
    }
  }
  merges_.reserve(data.merges.size());
  for (std::size_t rank = 0; rank < data.merges.size(); ++rank) {
    const std::string_view text = data.merges[rank];
    const std::size_t space = text.find(' ', 1);
    const bool two = space != std::string_view::npos;
    const TokenId left = two ? token_of_merge_part(text.substr(0, space)) : -1;
    const TokenId right = two ? token_of_merge_part(text.substr(space + 1)) : -1;
    const auto result = left < 0 || right < 0 ? ids_.end() : ids_.find(pieces[left] + pieces[right]);
    if (result == ids_.end()) {
      throw FormatError(source, "tokenizer merge " + std::to_string(rank), "two tokens that make a third",
                        "\"" + to_valid_utf8(text.substr(0, 80)) + "\"");
    }
    merges_.emplace(pair_key(left, right), Merge{static_cast<std::uint32_t>(rank), result->second});
  }
}

std::uint64_t ByteBpe::pair_key(TokenId left, TokenId right) {
  return static_cast<std::uint64_t>(static_cast<std::uint32_t>(left)) << 32 | static_cast<std::uint32_t>(right);
}

TokenId ByteBpe::token_of_merge_part(std::string_view spelled) const {
  std::string bytes;
  if (!bytes_from_gpt2(spelled, bytes)) return -1;
  const auto it = ids_.find(bytes);
  return it == ids_.end() ? -1 : it->second;
}

void ByteBpe::encode(std::string_view text, std::vector<TokenId>& out) const {
  for (const std::string_view word : split_words(text, pre_)) {
    const auto whole = whole_words_first_ ? ids_.find(word) : ids_.end();
    if (whole != ids_.end()) {
      out.push_back(whole->second);
    } else {
      encode_word(word, out);
    }
  }
}

void ByteBpe::encode_word(std::string_view word, std::vector<TokenId>& out) const {
  SymbolList list(word.size());
  for (std::size_t i = 0; i < word.size(); ++i) list.append(byte_tokens_[static_cast<std::uint8_t>(word[i])], i, 1);
  merge_all<std::uint32_t>(list, [this](const Symbol& a, const Symbol& b, auto& candidate) {
    if (a.id < 0 || b.id < 0) return false;
    const auto it = merges_.find(pair_key(a.id, b.id));
    if (it == merges_.end()) return false;
    candidate.priority = it->second.rank;
    candidate.result = it->second.result;
    return true;
  });
  // A byte without a token is left out, as the models' own tokenizers do: there is nothing that could stand for it.
  for (int i = 0; i >= 0; i = list[i].next) {
    if (list[i].id >= 0) out.push_back(list[i].id);
  }
}

ScoredBpe::ScoredBpe(const TokenizerData& data) : unknown_(data.unknown) {
  byte_tokens_.fill(-1);
  for (std::size_t id = 0; id < data.tokens.size(); ++id) {
    const std::string& token = data.tokens[id];
    const int byte = data.types[id] == TokenType::byte ? byte_of_token(token) : -1;
    if (byte >= 0) byte_tokens_[byte] = static_cast<TokenId>(id);
    if (data.types[id] != TokenType::normal || token.empty()) continue;
    pieces_.emplace(token, Piece{static_cast<TokenId>(id), data.scores[id]});
    longest_ = std::max(longest_, token.size());
  }
}

const ScoredBpe::Piece* ScoredBpe::find(std::string_view text) const {
  if (text.size() > longest_) return nullptr;
  const auto it = pieces_.find(text);
  return it == pieces_.end() ? nullptr : &it->second;
}

void ScoredBpe::encode(std::string_view text, std::vector<TokenId>& out) const {
  if (text.empty()) return;
  SymbolList list(text.size());
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t size = first_utf8_char(text.substr(at)).bytes;
    list.append(-1, at, size);
    at += size;
  }
  merge_all<float>(list, [&](const Symbol& a, const Symbol& b, auto& candidate) {
    const Piece* piece = find(text.substr(a.begin, a.size + b.size));
    if (piece == nullptr) return false;
    candidate.priority = -piece->score;
    return true;
  });
  for (int i = 0; i >= 0; i = list[i].next) emit(text.substr(list[i].begin, list[i].size), out);
}

void ScoredBpe::emit(std::string_view symbol, std::vector<TokenId>& out) const {
  if (const Piece* piece = find(symbol)) return out.push_back(piece->id);
  for (const char c : symbol) {
    const TokenId byte = byte_tokens_[static_cast<std::uint8_t>(c)];
    if (byte >= 0) {
      out.push_back(byte);
    } else if (unknown_ >= 0) {
      return out.push_back(unknown_);  // one for the whole character
    }
  }
}

}  // namespace jupiter

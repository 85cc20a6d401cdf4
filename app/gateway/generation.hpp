// What gateway and ranks tell each other about an answer, each as a line of JSON.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "io/grammar/matcher.hpp"
#include "io/tokenizer/tokenizer_data.hpp"
#include "kernels/sampler.hpp"

namespace jupiter {

// One token of an answer.
struct GivenToken {
  TokenId token = 0;
  float logprob = 0;              // where log probabilities are wanted
  std::vector<TokenLogprob> top;  // the most likely ones, as many as are wanted
};

// An answer to compute. `given` are the tokens that it has already: after a failure the answer goes on behind them.
struct GenerationSpec {
  std::uint64_t id = 0;
  std::vector<TokenId> prompt;
  std::vector<TokenId> given;
  std::vector<TokenId> end_tokens;
  std::int64_t max_new_tokens = 0;  // `given` included; 0: to the end of the turn or of the context
  SamplingOptions sampling;
  std::vector<LogitBias> logit_bias;
  GrammarSpec grammar;
};

struct GenerationTimes {
  std::int64_t prompt_tokens = 0;  // computed for the first token
  std::int64_t shared_tokens = 0;  // of the prompt, found in the cache
  double first_token_s = 0;
  double total_s = 0;
  std::int64_t steps = 0;
  std::int64_t drafted = 0, accepted = 0;
};

// How an answer ended.
struct GenerationEnd {
  std::uint64_t id = 0;
  bool stopped = false;     // by an end token; otherwise the length ran out
  std::string error;        // not empty: it could not be computed
  std::string logits_hash;  // of the rows of all tokens
  GenerationTimes times;
};

// What one rank did lately.
struct RankLoad {
  int rank = 0;
  std::string host;
  std::int64_t first_layer = 0, last_layer = 0;  // [first, last); equal: it only waits
  double busy = 0;                               // share of the time since the last status in which it computed
  template <typename Self, typename Visit>
  static void fields(Self& s, Visit&& visit) {
    visit(s.rank, s.host, s.first_layer, s.last_layer, s.busy);
  }
};

// What the ranks do: told every second while they work, and when they become idle.
struct RanksStatus {
  std::size_t running = 0, waiting = 0;  // answers
  std::int64_t frames_in_flight = 0;
  std::vector<RankLoad> ranks;
};

// Kinds of lines: the field "type".
constexpr const char* kLineRequest = "request";  // gateway: GenerationSpec
constexpr const char* kLineCancel = "cancel";    // gateway: id
constexpr const char* kLineStop = "stop";        // gateway: the ranks end
constexpr const char* kLineHello = "hello";      // ranks: the first line, before they load
constexpr const char* kLineReady = "ready";      // ranks: what they are
constexpr const char* kLineToken = "token";      // ranks: id, GivenToken
constexpr const char* kLineEnd = "end";          // ranks: GenerationEnd
constexpr const char* kLineStatus = "status";    // ranks: RanksStatus
constexpr const char* kLineBoards = "boards";    // whoever starts the ranks: which boards there are
constexpr const char* kLineAnswers = "answers";  // gateway to it: open, quiet_s, stalled_s, loaded, starts, gone

nlohmann::json to_line(const GenerationSpec& spec);
nlohmann::json to_line(std::uint64_t id, const GivenToken& token);
nlohmann::json to_line(const GenerationEnd& end);
nlohmann::json to_line(const RanksStatus& status);
// FormatError where a field is missing or of another type.
GenerationSpec spec_of(const nlohmann::json& line);
std::pair<std::uint64_t, GivenToken> token_of(const nlohmann::json& line);
GenerationEnd end_of(const nlohmann::json& line);

}  // namespace jupiter

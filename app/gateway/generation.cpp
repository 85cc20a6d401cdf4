// Lines of JSON.
#include "app/gateway/generation.hpp"

#include "app/prompt.hpp"
#include "io/json_fields.hpp"
#include "parallel/pipeline/frame.hpp"

namespace jupiter {

namespace {

std::vector<TokenId> tokens_of(const JsonObject& o, const char* key) {
  std::vector<TokenId> tokens;
  for (const std::int64_t t : o.ints(key)) {
    if (t < 0 || t > INT32_MAX) o.fail(key, "token ids", std::to_string(t));
    tokens.push_back(static_cast<TokenId>(t));
  }
  return tokens;
}

std::uint64_t id_of(const JsonObject& o) {
  return static_cast<std::uint64_t>(o.integer("id"));
}

// [[token, number], ...] as biases or log probabilities.
template <typename T>
std::vector<T> pairs_of(const JsonObject& o, const char* key) {
  std::vector<T> pairs;
  for (const auto& pair : o.array_or_empty(key)) {
    const bool fits = pair.is_array() && pair.size() == 2 && pair[0].is_number_integer() && pair[0] >= 0 &&
                      pair[0] <= INT32_MAX && pair[1].is_number();
    if (!fits) o.fail(key, "pairs of a token and a number", json_text(pair));
    pairs.push_back({pair[0].get<TokenId>(), pair[1].get<float>()});
  }
  return pairs;
}

}  // namespace

nlohmann::json to_line(const GenerationSpec& spec) {
  nlohmann::json sampling;
  SamplingOptions s = spec.sampling;
  visit_sampling(
      s, [&](const char*, const char* key, auto& value, auto, const char*, const char*) { sampling[key] = value; });
  nlohmann::json biases = nlohmann::json::array();
  for (const LogitBias& b : spec.logit_bias) biases.push_back({b.token, b.bias});
  nlohmann::json line = {{"type", kLineRequest},          {"id", spec.id},
                         {"prompt", spec.prompt},         {"given", spec.given},
                         {"end_tokens", spec.end_tokens}, {"max_new_tokens", spec.max_new_tokens},
                         {"sampling", sampling},          {"top_logprobs", spec.sampling.top_logprobs},
                         {"logit_bias", biases}};
  const GrammarSpec& g = spec.grammar;
  if (!g.empty()) line["grammar"] = {{"text", g.text}, {"trigger", g.trigger}, {"at_start", g.at_start}};
  return line;
}

nlohmann::json to_line(std::uint64_t id, const GivenToken& t) {
  nlohmann::json line = {{"type", kLineToken}, {"id", id}, {"token", t.token}};
  if (t.top.empty() && t.logprob == 0) return line;
  line["logprob"] = t.logprob;
  for (const TokenLogprob& c : t.top) line["top"].push_back({c.token, c.logprob});
  return line;
}

nlohmann::json to_line(const GenerationEnd& e) {
  const GenerationTimes& t = e.times;
  return {{"type", kLineEnd},
          {"id", e.id},
          {"stopped", e.stopped},
          {"error", e.error},
          {"logits_hash", e.logits_hash},
          {"prompt_tokens", t.prompt_tokens},
          {"shared_tokens", t.shared_tokens},
          {"first_token_s", t.first_token_s},
          {"total_s", t.total_s},
          {"steps", t.steps},
          {"drafted", t.drafted},
          {"accepted", t.accepted}};
}

nlohmann::json to_line(const RanksStatus& s) {
  nlohmann::json ranks = nlohmann::json::array();
  for (const RankLoad& r : s.ranks) {
    ranks.push_back({{"rank", r.rank},
                     {"host", r.host},
                     {"first_layer", r.first_layer},
                     {"last_layer", r.last_layer},
                     {"busy", r.busy}});
  }
  return {{"type", kLineStatus},
          {"running", s.running},
          {"waiting", s.waiting},
          {"frames_in_flight", s.frames_in_flight},
          {"ranks", ranks}};
}

GenerationSpec spec_of(const nlohmann::json& line) {
  const JsonObject o(line, "request");
  GenerationSpec spec;
  spec.sampling.top_logprobs = static_cast<std::int32_t>(o.find_int("top_logprobs", -1, kMostTopLogprobs).value_or(-1));
  spec.logit_bias = pairs_of<LogitBias>(o, "logit_bias");
  spec.id = id_of(o);
  spec.prompt = tokens_of(o, "prompt");
  spec.given = tokens_of(o, "given");
  spec.end_tokens = tokens_of(o, "end_tokens");
  spec.max_new_tokens = o.integer("max_new_tokens");
  read_sampling(o.object("sampling"), spec.sampling);
  if (const auto g = o.find_object("grammar")) {
    spec.grammar = {g->string("text"), g->string("trigger"), g->find_bool("at_start").value_or(false)};
  }
  return spec;
}

std::pair<std::uint64_t, GivenToken> token_of(const nlohmann::json& line) {
  const JsonObject o(line, "token");
  GivenToken t;
  t.token = static_cast<TokenId>(o.find_int("token", 0, INT32_MAX).value_or(-1));
  if (t.token < 0) o.fail("token", "a token id", "nothing");
  t.logprob = static_cast<float>(o.find_number("logprob").value_or(0));
  t.top = pairs_of<TokenLogprob>(o, "top");
  return {id_of(o), std::move(t)};
}

GenerationEnd end_of(const nlohmann::json& line) {
  const JsonObject o(line, "end");
  GenerationEnd e;
  e.id = id_of(o);
  e.stopped = o.find_bool("stopped").value_or(false);
  e.error = o.find_string("error").value_or("");
  e.logits_hash = o.find_string("logits_hash").value_or("");
  e.times = {o.integer("prompt_tokens"), o.integer("shared_tokens"), o.number("first_token_s"), o.number("total_s"),
             o.integer("steps"),         o.integer("drafted"),       o.integer("accepted")};
  return e;
}

}  // namespace jupiter

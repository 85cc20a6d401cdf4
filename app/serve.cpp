// jupiter serve: the ranks of a server. Rank 0 takes answers to compute from the gateway's socket and gives it their
// tokens one by one. What a failure cut short comes again with the tokens that it had.
#include <fmt/format.h>

#include <iostream>
#include <map>

#include "app/engine.hpp"
#include "app/gateway/generation.hpp"
#include "app/gateway/line_socket.hpp"
#include "app/rank_json.hpp"
#include "app/result_info.hpp"
#include "io/hash.hpp"
#include "io/json_fields.hpp"
#include "io/timer.hpp"
#include "parallel/comm/collectives.hpp"

namespace jupiter {

namespace {

constexpr double kStatusEveryS = 1;

struct ServeOptions {
  void declare(OptionSet& options);
  void check(const OptionSet& options);

  EngineOptions engine;
  std::string socket;
};

void ServeOptions::declare(OptionSet& options) {
  // clang-format off
  options.group("Server");
  options.text("socket", socket, "PLACE", "The gateway's Unix socket, or tcp:HOST:PORT where it is on another machine");
  options.number("cache-tokens", engine.cache_tokens, {1, kMostTokens}, "N", "Positions in the KV cache, of all requests together; more wait (default: the plan's, else 32768 or the context, as far as memory reaches)");
  options.number("parallel", engine.most_at_once, {1, kMostTokens}, "N", "Requests at a time at most (default: the plan's, else as many as the cache holds)");
  // clang-format on
  engine.decoding.declare(options);
  engine.declare(options);
}

void ServeOptions::check(const OptionSet& options) {
  engine.check(options);
  engine.decoding.check(options);
  refuse(socket.empty(), "serve: expected --socket PATH (see --help)");
  engine.cache_wish = kBatchCacheTokens;
  engine.sequences = std::min(engine.most_at_once, kBatchRequests);
  engine.default_sequences = kBatchRequests;
}

// Rank 0's side.
class Service {
 public:
  Service(const ServeOptions& options, const Manifest& manifest)
      : options_(options), vocab_size_(manifest.config.vocab_size), gateway_(LineSocket::connect(options.socket)) {
    send({{"type", kLineHello}});
    gateway_.poll();
  }

  void say_ready(const nlohmann::json& ready) { send(ready); }

  // Until the gateway says stop or is gone, or a signal came. ranks: in their order; `busy` is filled in here.
  ExitCode run(const Pipeline& pipeline, Scheduler& scheduler, std::vector<RankLoad> ranks) {
    pipeline_ = &pipeline;
    scheduler_ = &scheduler;
    ranks_ = std::move(ranks);
    say_status();
    const auto ended = [&] { return stopped_ || gateway_.closed() || interrupted_by() != ExitCode::ok; };
    while (!ended()) {
      begin_status();
      listen();
      scheduler.run([&] { listen(); });
      if (ended()) break;
      say_status();
      // A second after the last answer nothing is busy any more.
      bool idle_told = false;
      wait_politely(
          [&] {
            if (!idle_told && seconds_since(status_begun_) > kStatusEveryS) {
              idle_told = true;
              say_status();
            }
            gateway_.poll();
            return take_lines() || ended();
          },
          "the gateway", std::chrono::seconds{0});
    }
    gateway_.poll();
    if (interrupted_by() != ExitCode::ok) return interrupted_by();
    if (!stopped_) throw RunError("serve: the gateway is gone");
    return ExitCode::ok;
  }

 private:
  struct Answer {
    std::int64_t number = 0;          // the scheduler's
    std::optional<TokenId> expected;  // the last token that was given, computed again
    GivenToken next = {};             // log probabilities of the token that comes
  };

  void send(const nlohmann::json& line) { gateway_.send(line.dump()); }

  void listen() {
    gateway_.poll();
    take_lines();
    if (stopped_ || gateway_.closed()) scheduler_->cancel_all();
    if (seconds_since(status_begun_) > kStatusEveryS) say_status();
  }

  // What the next status tells begins now.
  void begin_status() {
    status_begun_ = Clock::now();
    computed_s_ = pipeline_->compute_s();
  }

  void say_status() {
    const double passed_s = seconds_since(status_begun_);
    const std::vector<double>& computed_s = pipeline_->compute_s();
    for (std::size_t s = 0; s < std::min(computed_s_.size(), ranks_.size()) && passed_s > 0; ++s) {
      ranks_[s].busy = std::min((computed_s[s] - computed_s_[s]) / passed_s, 1.0);
    }
    begin_status();
    send(to_line(RanksStatus{scheduler_->running(), scheduler_->waiting(), pipeline_->in_flight(), ranks_}));
    gateway_.poll();
  }

  bool take_lines() {
    bool any = false;
    while (const auto text = gateway_.next_line()) {
      any = true;
      const JsonObject line = parse_json_object(*text, "gateway");
      const std::string type = line.string("type");
      if (type == kLineStop) stopped_ = true;
      if (type == kLineCancel) cancel(static_cast<std::uint64_t>(line.integer("id")));
      if (type == kLineRequest) start(spec_of(line.value()));
    }
    return any;
  }

  void cancel(std::uint64_t id) {
    const auto it = answers_.find(id);
    if (it == answers_.end()) return;
    const std::int64_t number = it->second.number;
    answers_.erase(it);
    scheduler_->cancel(number);
  }

  void start(GenerationSpec&& spec) {
    const std::uint64_t id = spec.id;
    try {
      Answer answer;
      Request request;
      request.prompt = std::move(spec.prompt);
      for (const TokenId t : request.prompt) check_token(t);
      for (const TokenId t : spec.given) check_token(t);
      // The last one is drawn again: the answer may end with it, and it must be the same.
      if (!spec.given.empty()) {
        answer.expected = spec.given.back();
        spec.given.pop_back();
      }
      request.given = std::move(spec.given);
      request.sampling = spec.sampling;
      request.logit_bias = std::move(spec.logit_bias);
      request.grammar = std::move(spec.grammar);
      request.on_logprobs = [this, id](std::span<const TokenLogprob> all) {
        const auto it = answers_.find(id);
        if (it != answers_.end()) it->second.next = {all[0].token, all[0].logprob, {all.begin() + 1, all.end()}};
      };
      request.decode = options_.engine.decoding.decode;
      request.end_tokens = std::move(spec.end_tokens);
      request.max_new_tokens = spec.max_new_tokens;
      request.keep_tokens = kKeepAll;
      const auto prompt_tokens = std::ssize(request.prompt);
      request.on_token = [this, id](TokenId token) { return give(id, token); };
      request.on_done = [this, id, prompt_tokens](Generated&& g) { end(id, prompt_tokens, std::move(g)); };
      answer.number = scheduler_->add(std::move(request));
      answers_[id] = answer;
    } catch (const Error& e) {
      GenerationEnd refused;
      refused.id = id;
      refused.error = e.what();
      send(to_line(refused));
    }
  }

  void check_token(TokenId t) const {
    if (t < vocab_size_) return;
    throw UsageError(fmt::format("prompt: expected tokens below {}, found {}", vocab_size_, t));
  }

  bool give(std::uint64_t id, TokenId token) {
    const auto it = answers_.find(id);
    if (it == answers_.end()) return false;
    if (const auto expected = std::exchange(it->second.expected, std::nullopt)) {
      if (*expected == token) return true;
      throw RunError(fmt::format("serve: an answer computed again: expected token {}, found {}", *expected, token));
    }
    it->second.next.token = token;
    send(to_line(id, it->second.next));
    gateway_.poll();
    return true;
  }

  void end(std::uint64_t id, std::int64_t prompt_tokens, Generated&& g) {
    // What a signal cut short goes on with the next ranks; what was cancelled nobody waits for.
    if (interrupted_by() != ExitCode::ok || gateway_.closed() || answers_.erase(id) == 0) return;
    GenerationEnd e;
    e.id = id;
    e.stopped = g.stopped;
    e.logits_hash = hex(g.logits_digest);
    e.times = {g.prefilled_tokens, prompt_tokens - g.prefilled_tokens, g.ttft_s, g.total_s, g.steps, g.draft.rows,
               g.draft.accepted};
    send(to_line(e));
    gateway_.poll();
  }

  const ServeOptions& options_;
  std::int64_t vocab_size_;
  LineSocket gateway_;
  const Pipeline* pipeline_ = nullptr;
  Scheduler* scheduler_ = nullptr;
  std::map<std::uint64_t, Answer> answers_;
  Clock::time_point status_begun_ = Clock::now();
  std::vector<double> computed_s_;  // by stage, at that time
  std::vector<RankLoad> ranks_;
  bool stopped_ = false;
};

// Where this rank is and what it holds.
RankLoad load_of(Engine& engine) {
  const MpiSession& mpi = engine.mpi();
  RankLoad load{.rank = mpi.rank(), .host = mpi.host()};
  if (!mpi.holds_layers()) return load;
  load.first_layer = engine.stage().part().first_layer;
  load.last_layer = engine.stage().part().last_layer;
  return load;
}

}  // namespace

ExitCode serve_command(const MpiSession& mpi, const Arguments& arguments) {
  ServeOptions options;
  OptionSet set("serve", "The ranks of a server: computes what `jupiter gateway` asks for. Alone or under mpirun.");
  options.declare(set);
  if (!set.parse(mpi, arguments)) return ExitCode::ok;
  options.check(set);
  std::optional<Service> service;  // rank 0's
  Engine engine(mpi, options.engine, [&](const Manifest& manifest, const MpiSession& ranks) {
    if (!ranks.is_launcher()) {
      throw UsageError(fmt::format("serve: the gateway is on mpirun's first rank: list host {} first", ranks.host()));
    }
    service.emplace(options, manifest);
  });
  std::vector<RankLoad> ranks = gather(engine.mpi(), load_of(engine));
  const DriveEnd end = engine.drive([&](Pipeline& pipeline, Scheduler& scheduler) {
    nlohmann::json ready = result_info(engine.manifest(), engine.plan());
    ready["type"] = kLineReady;
    ready["context_tokens"] = engine.context_tokens();
    ready["cache_tokens"] = engine.stage().options().cache_tokens;
    service->say_ready(ready);
    return service->run(pipeline, scheduler, std::move(ranks));
  });
  return end.code;
}

}  // namespace jupiter

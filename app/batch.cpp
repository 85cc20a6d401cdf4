// jupiter batch: many requests at once; every answer is on the disk before it counts as done.
#include <fmt/format.h>

#include <iostream>

#include "app/engine.hpp"
#include "app/request_file.hpp"
#include "app/stop_strings.hpp"
#include "io/files.hpp"
#include "io/hash.hpp"
#include "io/json_fields.hpp"
#include "io/progress.hpp"
#include "io/tokenizer/reasoning.hpp"
#include "parallel/comm/collectives.hpp"

namespace jupiter {

namespace {

constexpr std::size_t kWaiting = 64;  // requests that are tokenized ahead

struct BatchOptions {
  void declare(OptionSet& options);
  void check(const OptionSet& options);

  EngineOptions engine;
  TextOptions text;
  BatchRequest defaults;
  std::string input, output;
  std::string trace_file;
  bool stats = false;
  bool resume = false;
  bool skip_failed = false;
};

void BatchOptions::declare(OptionSet& options) {
  // clang-format off
  options.group("Requests");
  options.text("i,input", input, "FILE", "JSONL: id, prompt or messages; max_tokens, temperature, top_k, top_p, min_p, repeat_penalty, seed, stop, grammar, json_schema, response_format");
  options.text("o,output", output, "FILE", "JSONL, a line as each request ends: id, text, generated_token_ids, finish_reason, ttft_s, total_s, steps, logits_hash, model_hash; or error");
  options.flag("resume", resume, "Go on with an output file: what it answers is not done again. Requests that ended with an error are tried again; the last line of an id counts");
  options.flag("skip-failed", skip_failed, "With --resume: requests that ended with an error are not tried again");
  options.number("cache-tokens", engine.cache_tokens, {1, kMostTokens}, "N", "Positions in the KV cache, of all requests together; more wait (default: the plan's, else 32768 or the context, as far as memory reaches)");
  options.number("parallel", engine.most_at_once, {1, kMostTokens}, "N", "Requests at a time at most (default: the plan's, else as many as the cache holds)");
  options.flag("stats", stats, "Tokens and time of all answers, to standard error");
  options.text("trace", trace_file, "FILE", "Write a timeline of all ranks to this file (Chrome trace)");
  text.declare_answer(options, "New tokens at most where a line has no max_tokens (default: to the end of the turn)");
  text.declare_template(options);
  // clang-format on
  declare_sampling(options, "Sampling, where a line does not say it", defaults.sampling);
  engine.decoding.declare(options);
  engine.declare(options);
}

void BatchOptions::check(const OptionSet& options) {
  engine.check(options);
  engine.decoding.check(options);
  refuse(input.empty() || output.empty(), "batch: expected -i FILE and -o FILE (see --help)");
  refuse(skip_failed && !resume, "--skip-failed: expected --resume with it");
  defaults.max_tokens = text.most_new_tokens();
  engine.cache_wish = kBatchCacheTokens;
  engine.sequences = std::min(engine.most_at_once, kBatchRequests);
  engine.default_sequences = kBatchRequests;
  engine.trace = !trace_file.empty();
}

// Rank 0's side: lines to requests, answers to lines.
class Batch {
 public:
  // text: of the input file.
  Batch(const BatchOptions& options, const Manifest& manifest, const std::string& text)
      : options_(options),
        model_hash_(hex(manifest.hash)),
        tokenizer_(load_tokenizer(options.engine.model, manifest, options.engine.verify)),
        requests_(read_requests(text, options.input, options.defaults)),
        answers_(options.output, options.resume, model_hash_, options.input) {
    if (!options.text.raw) {
      template_ = choose_template(tokenizer_, options.text.template_name);
      reasoning_ = reasoning_form(tokenizer_);
    }
    std::erase_if(requests_, [&](const BatchRequest& r) { return !r.id.empty() && answers_.done().contains(r.id); });
    if (options.skip_failed) {
      faults_ = std::erase_if(requests_, [&](const BatchRequest& r) { return answers_.failed().contains(r.id); });
    }
    total_ = requests_.size();
  }

  ExitCode run(Scheduler& scheduler) {
    ProgressBar bar("batch", "requests");
    const auto start = std::chrono::steady_clock::now();
    compute_prefix(scheduler);
    while (next_ < requests_.size() && interrupted_by() == ExitCode::ok) {
      feed(scheduler, bar);
      scheduler.run();
    }
    const std::chrono::duration<double> spent = std::chrono::steady_clock::now() - start;
    if (options_.stats) {
      std::cerr << fmt::format("{} answers, {} tokens in {:.3f} s, {:.2f} tokens/s; {} times a request was set back\n",
                               answered_, tokens_, spent.count(), static_cast<double>(tokens_) / spent.count(),
                               set_back_);
    }
    if (interrupted_by() != ExitCode::ok) return interrupted_by();
    return faults_ > 0 ? ExitCode::failed : ExitCode::ok;
  }

 private:
  // Requests on their way: the text grows with the tokens.
  struct Growing {
    Growing(const BatchRequest& r, ReasoningReader reads) : request(r), reader(std::move(reads)), stops(r.stops) {}
    void add(const ReasoningReader::Piece& piece) {
      reasoning += piece.reasoning;
      text += stops.push(piece.content);
    }
    const BatchRequest& request;
    ReasoningReader reader;
    StopStrings stops;
    std::string text, reasoning;
  };

  void feed(Scheduler& scheduler, ProgressBar& bar) {
    for (; next_ < requests_.size() && scheduler.waiting() < kWaiting; ++next_) {
      const BatchRequest& r = requests_[next_];
      try {
        if (!r.fault.empty()) throw Error(ExitCode::invalid_file, r.fault);
        start(scheduler, bar, r, take_tokens(next_));
      } catch (const Error& e) {
        report(r, e.what());
        bar.update(++done_, total_);
      }
    }
  }

  std::vector<TokenId> tokens_of(const BatchRequest& r) const {
    std::vector<ChatMessage> messages = r.messages;
    if (messages.empty()) messages.push_back({"user", r.prompt});
    if (options_.text.raw && r.messages.empty()) return encode_segments(tokenizer_, {{r.prompt, true}});
    if (!template_) throw UsageError(fmt::format("{}: line {}: messages need a chat template", options_.input, r.line));
    return encode_segments(tokenizer_, template_->render(messages, true));
  }

  // Those of the first requests are there already.
  std::vector<TokenId> take_tokens(std::size_t i) {
    if (i < first_prompts_.size() && !first_prompts_[i].empty()) return std::move(first_prompts_[i]);
    return tokens_of(requests_[i]);
  }

  // What the first requests begin with, such as a template's system message, is computed once.
  void compute_prefix(Scheduler& scheduler) {
    first_prompts_.resize(std::min(requests_.size(), kWaiting));
    std::optional<std::vector<TokenId>> common;
    std::size_t prompts = 0;
    for (std::size_t i = 0; i < first_prompts_.size(); ++i) {
      std::vector<TokenId>& p = first_prompts_[i];
      try {
        if (!requests_[i].fault.empty()) continue;
        p = tokens_of(requests_[i]);
      } catch (const Error&) {
        continue;  // feed() says so
      }
      ++prompts;
      if (!common) common = p;
      common->erase(std::mismatch(common->begin(), common->end(), p.begin(), p.end()).first, common->end());
    }
    if (prompts < 2) return;
    prefix_ = std::move(*common);
    scheduler.compute_prefix(prefix_);
  }

  void start(Scheduler& scheduler, ProgressBar& bar, const BatchRequest& r, std::vector<TokenId> tokens) {
    Request request;
    request.prompt = std::move(tokens);
    request.sampling = r.sampling;
    request.grammar = r.grammar;
    request.decode = options_.engine.decoding.decode;
    request.max_new_tokens = r.max_tokens;
    // Where the common beginning had to go from the cache, the next request that ends leaves it there again.
    const bool begins_alike =
        prefix_.size() <= request.prompt.size() && std::equal(prefix_.begin(), prefix_.end(), request.prompt.begin());
    if (begins_alike) request.keep_tokens = std::ssize(prefix_);
    if (!options_.text.ignore_eos) request.end_tokens = tokenizer_.data().end_of_turn;
    const bool thinking = template_ && template_->opens_thinking();
    const auto growing = std::make_shared<Growing>(r, ReasoningReader(tokenizer_, reasoning_, thinking));
    request.on_token = [growing](TokenId token) {
      growing->add(growing->reader.push(token));
      return !growing->stops.found();
    };
    request.on_done = [this, growing, &scheduler, &bar](Generated&& g) {
      if (interrupted_by() != ExitCode::ok) return;  // cut short: not an answer
      write(*growing, g);
      ++answered_;
      tokens_ += g.tokens.size();
      set_back_ += g.set_back;
      bar.update(++done_, total_);
      feed(scheduler, bar);
    };
    try {
      scheduler.add(std::move(request));
    } catch (const UsageError& e) {
      throw UsageError(fmt::format("{}: line {}: {}", options_.input, r.line, e.what()));
    }
  }

  void write(Growing& g, const Generated& made) {
    StopStrings& stops = g.stops;
    if (!stops.found()) g.add(g.reader.finish());
    if (!stops.found()) g.text += stops.finish();
    nlohmann::ordered_json line = {{"id", parse_json(g.request.id, "id")},
                                   {"text", g.text},
                                   {"generated_token_ids", made.tokens},
                                   {"finish_reason", made.stopped || stops.found() ? "stop" : "length"},
                                   {"ttft_s", made.ttft_s},
                                   {"total_s", made.total_s},
                                   {"steps", made.steps},
                                   {"logits_hash", hex(made.logits_digest)},
                                   {"model_hash", model_hash_}};
    if (reasoning_ != ReasoningForm::none) {
      line.update({{"reasoning", g.reasoning}, {"reasoning_tokens", g.reader.reasoning_tokens()}});
    }
    answers_.write(line.dump());
  }

  // A request that cannot be answered: said now, and in the output where it has an id of its own.
  void report(const BatchRequest& r, const std::string& fault) {
    ++faults_;
    std::cerr << "jupiter: " << fault << std::endl;
    const auto before = answers_.failed().find(r.id);
    if (r.id.empty() || (before != answers_.failed().end() && before->second == fault)) return;
    const nlohmann::ordered_json line = {{"id", parse_json(r.id, "id")}, {"error", fault}, {"model_hash", model_hash_}};
    answers_.write(line.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
  }

  const BatchOptions& options_;
  std::string model_hash_;
  Tokenizer tokenizer_;
  std::optional<ChatTemplate> template_;
  ReasoningForm reasoning_ = ReasoningForm::none;
  std::vector<BatchRequest> requests_;
  AnswerFile answers_;
  std::vector<std::vector<TokenId>> first_prompts_;  // of requests_ in order; empty: taken, or not to be had
  std::vector<TokenId> prefix_;                      // what these begin with
  std::int64_t set_back_ = 0;
  std::size_t next_ = 0, total_ = 0, done_ = 0, faults_ = 0, answered_ = 0, tokens_ = 0;
};

// The input file lies where the user is; with a plan the first stage, which answers, may be on another board.
std::string share_requests(const MpiSession& mpi, const BatchOptions& o) {
  const bool travels = !o.engine.plan.empty();
  std::string text;
  together(mpi, [&] {
    if (mpi.is_launcher()) check_outputs({o.trace_file}, {o.input, o.output, o.engine.plan});
    if (mpi.is_launcher()) text = read_file(o.input, std::uint64_t{4096} << 20);
  });
  return travels ? broadcast(mpi, text) : text;
}

}  // namespace

ExitCode batch_command(const MpiSession& mpi, const Arguments& arguments) {
  BatchOptions options;
  OptionSet set("batch", "Answers the requests of a JSONL file, many at once. Alone or under mpirun.");
  options.declare(set);
  if (!set.parse(mpi, arguments)) return ExitCode::ok;
  options.check(set);
  const std::string requests = share_requests(mpi, options);
  std::optional<Batch> batch;  // rank 0's
  Engine engine(mpi, options.engine, [&](const Manifest& manifest, const MpiSession& ranks) {
    batch.emplace(options, manifest, requests);
    if (!ranks.is_launcher()) {
      std::cerr << fmt::format("batch: host {} is the plan's first stage, answers are written there\n", ranks.host());
    }
  });
  const DriveEnd end = engine.drive([&](Pipeline&, Scheduler& scheduler) {
    if (options.stats) std::cerr << fmt::format("KV cache of {} positions\n", engine.stage().options().cache_tokens);
    return batch->run(scheduler);
  });
  engine.trace().write(engine.mpi(), options.trace_file, options.engine.timeout());
  return end.code;
}

}  // namespace jupiter

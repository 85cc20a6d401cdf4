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
#include "parallel/comm/collectives.hpp"

namespace jupiter {

namespace {

constexpr std::size_t kWaiting = 64;  // requests that are tokenized ahead

struct BatchOptions {
  EngineOptions engine;
  BatchRequest defaults;
  std::string input, output, template_name;
  std::string trace_file;
  bool stats = false;
  bool resume = false;
  bool skip_failed = false;
  bool ignore_eos = false;
  bool raw = false;
};

cxxopts::Options batch_usage() {
  cxxopts::Options options("jupiter batch",
                           "Answers the requests of a JSONL file, many at once. Alone or under mpirun.");
  options.set_width(110);
  // clang-format off
  options.add_options("Requests")
    ("i,input", "JSONL: id, prompt or messages; max_tokens, temperature, top_k, top_p, min_p, repeat_penalty, seed, stop", cxxopts::value<std::string>(), "FILE")
    ("o,output", "JSONL, a line as each request ends: id, text, generated_token_ids, finish_reason, ttft_s, total_s, steps, logits_hash, model_hash; or error", cxxopts::value<std::string>(), "FILE")
    ("resume", "Go on with an output file: what it answers is not done again. Requests that ended with an error are tried again; the last line of an id counts")
    ("skip-failed", "With --resume: requests that ended with an error are not tried again")
    ("cache-tokens", "Positions in the KV cache, of all requests together; more wait (default: the plan's, else 32768 or the context, as far as memory reaches)", cxxopts::value<std::int64_t>(), "N")
    ("parallel", "Requests at a time at most (default: the plan's, else as many as the cache holds)", cxxopts::value<std::int64_t>(), "N")
    ("stats", "Tokens and time of all answers, to standard error")
    ("trace", "Write a timeline of all ranks to this file (Chrome trace)", cxxopts::value<std::string>(), "FILE")
    ("n,predict", "New tokens at most where a line has no max_tokens (default: to the end of the turn)", cxxopts::value<std::int64_t>(), "N")
    ("ignore-eos", "End-of-turn tokens do not end an answer")
    ("raw", "No chat template; special tokens in the text are parsed")
    ("chat-template", "Template to use instead of the model's: " + ChatTemplate::names(), cxxopts::value<std::string>(), "NAME");
  // clang-format on
  add_sampling_options(options.add_options("Sampling, where a line does not say it"));
  add_decoding_options(options, "spec");
  add_engine_options(options);
  return options;
}

BatchOptions read_batch_options(const cxxopts::ParseResult& args) {
  BatchOptions o;
  o.engine = read_engine_options(args);
  o.engine.decoding = read_decoding_options(args);
  o.defaults.sampling = read_sampling(args);
  const auto refuse = [](bool wrong, const std::string& message) {
    if (wrong) throw CollectiveError(ExitCode::usage, message);
  };
  refuse(args.count("input") == 0 || args.count("output") == 0, "batch: expected -i FILE and -o FILE (see --help)");
  o.input = args["input"].as<std::string>();
  o.output = args["output"].as<std::string>();
  o.resume = args.count("resume") > 0;
  o.skip_failed = args.count("skip-failed") > 0;
  refuse(o.skip_failed && !o.resume, "--skip-failed: expected --resume with it");
  o.ignore_eos = args.count("ignore-eos") > 0;
  o.raw = args.count("raw") > 0;
  if (args.count("chat-template") > 0) o.template_name = args["chat-template"].as<std::string>();
  o.defaults.max_tokens = predict_option(args);
  EngineOptions& e = o.engine;
  if (args.count("cache-tokens") > 0) e.cache_tokens = whole_option(args, "cache-tokens", 1, kMostTokens);
  e.cache_wish = kBatchCacheTokens;
  if (args.count("parallel") > 0) e.most_at_once = whole_option(args, "parallel", 1, kMostTokens);
  e.sequences = std::min(e.most_at_once, kBatchRequests);
  e.default_sequences = kBatchRequests;
  o.stats = args.count("stats") > 0;
  if (args.count("trace") > 0) o.trace_file = args["trace"].as<std::string>();
  o.engine.trace = !o.trace_file.empty();
  return o;
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
    if (!options.raw) template_ = choose_template(tokenizer_, options.template_name);
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
    Growing(const Tokenizer& tokenizer, const BatchRequest& r) : request(r), decoder(tokenizer), stops(r.stops) {}
    const BatchRequest& request;
    StreamDecoder decoder;
    StopStrings stops;
    std::string text;
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
    if (options_.raw && r.messages.empty()) return encode_segments(tokenizer_, {{r.prompt, true}});
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
    request.decode = options_.engine.decoding.decode;
    request.max_new_tokens = r.max_tokens;
    // Where the common beginning had to go from the cache, the next request that ends leaves it there again.
    const bool begins_alike =
        prefix_.size() <= request.prompt.size() && std::equal(prefix_.begin(), prefix_.end(), request.prompt.begin());
    if (begins_alike) request.keep_tokens = std::ssize(prefix_);
    if (!options_.ignore_eos) request.end_tokens = tokenizer_.data().end_of_turn;
    const auto growing = std::make_shared<Growing>(tokenizer_, r);
    request.on_token = [growing](TokenId token) {
      growing->text += growing->stops.push(growing->decoder.push(token));
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
    if (!stops.found()) g.text += stops.push(g.decoder.finish());
    if (!stops.found()) g.text += stops.finish();
    const nlohmann::ordered_json line = {{"id", parse_json(g.request.id, "id")},
                                         {"text", g.text},
                                         {"generated_token_ids", made.tokens},
                                         {"finish_reason", made.stopped || stops.found() ? "stop" : "length"},
                                         {"ttft_s", made.ttft_s},
                                         {"total_s", made.total_s},
                                         {"steps", made.steps},
                                         {"logits_hash", hex(made.logits_digest)},
                                         {"model_hash", model_hash_}};
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
  std::vector<BatchRequest> requests_;
  AnswerFile answers_;
  std::vector<std::vector<TokenId>> first_prompts_;  // of requests_ in order; empty: taken, or not to be had
  std::vector<TokenId> prefix_;                      // what these begin with
  std::int64_t set_back_ = 0;
  std::size_t next_ = 0, total_ = 0, done_ = 0, faults_ = 0, answered_ = 0, tokens_ = 0;
};

ExitCode drive(const MpiSession& mpi, const BatchOptions& o, Engine& engine, Batch& batch) {
  Pipeline pipeline(mpi, engine.stage(), engine.pool(), engine.trace(),
                    {.deadline = o.engine.timeout, .idle = engine.idle_work()});
  Scheduler scheduler(pipeline, mpi.stages(), engine.scheduling());
  if (o.stats) std::cerr << fmt::format("KV cache of {} positions\n", engine.stage().options().cache_tokens);
  const ExitCode code = batch.run(scheduler);
  pipeline.stop(code);
  return code;
}

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

ExitCode batch_command(MpiSession& mpi, const Arguments& arguments) {
  cxxopts::Options usage = batch_usage();
  const auto args = parse(mpi, usage, arguments);
  if (!args) return ExitCode::ok;
  BatchOptions options = read_batch_options(*args);
  const std::string requests = share_requests(mpi, options);
  std::optional<Batch> batch;
  Engine engine(mpi, options.engine, [&](const Manifest& manifest) {
    batch.emplace(options, manifest, requests);
    if (!mpi.is_launcher()) {
      std::cerr << fmt::format("batch: host {} is the plan's first stage, answers are written there\n", mpi.host());
    }
  });
  RankReport report;
  const ExitCode code = mpi.rank() == 0 ? drive(mpi, options, engine, *batch) : engine.serve(mpi, report);
  engine.trace().write(mpi, options.trace_file, options.engine.timeout);
  return code;
}

}  // namespace jupiter

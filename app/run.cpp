// jupiter run: an answer to a prompt, or a conversation.
#include <fmt/format.h>

#include <iostream>
#include <iterator>

#include "app/engine.hpp"
#include "app/rank_json.hpp"
#include "app/result_info.hpp"
#include "app/stop_strings.hpp"
#include "io/chat_template.hpp"
#include "io/files.hpp"
#include "io/progress.hpp"
#include "io/utf8.hpp"
#include "parallel/generate.hpp"

namespace jupiter {

namespace {

struct RunOptions {
  EngineOptions engine;
  SamplingOptions sampling;
  std::optional<std::string> prompt;
  std::optional<std::string> prompt_file;
  std::optional<std::string> system;
  std::string template_name;
  std::vector<std::string> stops;
  std::string json_file;
  std::string trace_file;
  bool stats = false;
  std::int64_t max_new_tokens = 0;
  bool ignore_eos = false;
  bool raw = false;
  bool chat = false;
};

cxxopts::Options run_usage() {
  cxxopts::Options options("jupiter run", "Answers a prompt, or keeps a conversation. Alone or under mpirun.");
  options.set_width(110);
  // clang-format off
  options.add_options("Prompt")
    ("p,prompt", "Prompt, taken literally", cxxopts::value<std::string>(), "TEXT")
    ("f,file", "File that holds the prompt, taken as it is (default: standard input)", cxxopts::value<std::string>(), "FILE")
    ("system-prompt", "-sys: replaces the template's system message", cxxopts::value<std::string>(), "TEXT")
    ("raw", "No chat template; special tokens in the text are parsed")
    ("chat-template", "Template to use instead of the model's: " + ChatTemplate::names(), cxxopts::value<std::string>(), "NAME")
    ("chat", "Conversation: one line of standard input a turn");
  options.add_options("Answer")
    ("n,predict", "New tokens at most (default: to the end of the turn)", cxxopts::value<std::int64_t>(), "N")
    ("temp", "Temperature; 0 is greedy", cxxopts::value<float>()->default_value("0"), "T")
    ("top-k", "Keep the K most likely tokens; 0: all", cxxopts::value<int>()->default_value("40"), "K")
    ("top-p", "Keep the most likely tokens up to this sum; 1: all", cxxopts::value<float>()->default_value("0.95"), "P")
    ("min-p", "Keep tokens of at least this share of the best one's probability; 0: all", cxxopts::value<float>()->default_value("0.05"), "P")
    ("repeat-penalty", "Penalty on the last 64 tokens; 1: none", cxxopts::value<float>()->default_value("1"), "X")
    ("seed", "Random numbers are keyed by it and the position", cxxopts::value<std::uint64_t>()->default_value("0"), "N")
    ("ignore-eos", "End-of-turn tokens do not end the answer")
    ("stop", "Ends the answer before this text; may be given several times", cxxopts::value<std::vector<std::string>>(), "TEXT")
    ("stats", "A table of what every rank did, to standard error")
    ("trace", "Write a timeline of all ranks to this file (Chrome trace)", cxxopts::value<std::string>(), "FILE")
    ("json", "Write tokens, times and hashes to this file", cxxopts::value<std::string>(), "FILE");
  // clang-format on
  add_engine_options(options);
  return options;
}

SamplingOptions read_sampling(const cxxopts::ParseResult& args) {
  SamplingOptions s;
  s.temperature = args["temp"].as<float>();
  s.top_k = args["top-k"].as<int>();
  s.top_p = args["top-p"].as<float>();
  s.min_p = args["min-p"].as<float>();
  s.repeat_penalty = args["repeat-penalty"].as<float>();
  s.seed = args["seed"].as<std::uint64_t>();
  const auto check = [](const char* option, float value, float low, float high) {
    if (value >= low && value <= high) return;
    throw CollectiveError(ExitCode::usage, fmt::format("--{}: expected {} to {}, found {}", option, low, high, value));
  };
  check("temp", s.temperature, 0, 100);
  check("top-k", static_cast<float>(s.top_k), 0, 1e9f);
  check("top-p", s.top_p, 0, 1);
  check("min-p", s.min_p, 0, 1);
  check("repeat-penalty", s.repeat_penalty, 0.01f, 100);
  return s;
}

std::optional<std::string> text_option(const cxxopts::ParseResult& args, const char* option) {
  if (args.count(option) == 0) return std::nullopt;
  return args[option].as<std::string>();
}

RunOptions read_run_options(const cxxopts::ParseResult& args) {
  RunOptions o;
  o.engine = read_engine_options(args);
  o.sampling = read_sampling(args);
  o.prompt = text_option(args, "prompt");
  o.prompt_file = text_option(args, "file");
  o.system = text_option(args, "system-prompt");
  o.template_name = text_option(args, "chat-template").value_or("");
  if (args.count("stop") > 0) o.stops = args["stop"].as<std::vector<std::string>>();
  o.json_file = text_option(args, "json").value_or("");
  o.trace_file = text_option(args, "trace").value_or("");
  o.engine.trace = !o.trace_file.empty();
  o.stats = args.count("stats") > 0;
  if (args.count("predict") > 0) o.max_new_tokens = args["predict"].as<std::int64_t>();
  o.ignore_eos = args.count("ignore-eos") > 0;
  o.raw = args.count("raw") > 0;
  o.chat = args.count("chat") > 0;
  const auto refuse = [](bool wrong, const char* message) {
    if (wrong) throw CollectiveError(ExitCode::usage, message);
  };
  refuse(args.count("predict") > 0 && o.max_new_tokens < 1, "-n: expected a positive number of tokens");
  refuse(o.prompt && o.prompt_file, "-p and -f: expected one of them");
  refuse(o.chat && o.raw, "--chat needs a template: it does not go with --raw");
  refuse(o.chat && o.prompt_file.has_value(), "--chat reads its turns from standard input: use -p for the first one");
  refuse(std::find(o.stops.begin(), o.stops.end(), "") != o.stops.end(), "--stop: expected a text, found nothing");
  return o;
}

void check_utf8(const std::string& text, const std::string& source, ExitCode code) {
  for (std::size_t at = 0; at < text.size();) {
    const Utf8Char c = first_utf8_char(std::string_view(text).substr(at));
    if (c.state != Utf8State::valid) {
      throw Error(code, fmt::format("{}: expected UTF-8, found byte 0x{:02x} at offset {}", source,
                                    static_cast<unsigned char>(text[at]), at));
    }
    at += c.bytes;
  }
}

std::string read_prompt(const RunOptions& o) {
  if (o.prompt) {
    check_utf8(*o.prompt, "-p", ExitCode::usage);
    return *o.prompt;
  }
  if (o.prompt_file) {
    std::string text = read_file(*o.prompt_file, 1 << 30);
    check_utf8(text, *o.prompt_file, ExitCode::invalid_file);
    return text;
  }
  if (is_terminal(Stream::in)) throw UsageError("expected a prompt: -p TEXT, -f FILE, standard input, or --chat");
  std::string text{std::istreambuf_iterator<char>(std::cin), {}};
  check_utf8(text, "standard input", ExitCode::invalid_file);
  return text;
}

// Rank 0's side of a request: prompt to tokens, tokens to text.
class Frontend {
 public:
  Frontend(const RunOptions& options, const Manifest& manifest)
      : options_(options),
        tokenizer_(load_tokenizer(options.engine.model, manifest, options.engine.verify)),
        context_tokens_(options.engine.context_tokens > 0 ? options.engine.context_tokens
                                                          : manifest.config.max_seq_len) {
    if (!options.raw) choose_template();
    if (options.system && !options.raw) messages_.push_back({"system", *options.system});
    if (!options.chat || options.prompt) add_user_turn(read_prompt(options));
  }

  const Tokenizer& tokenizer() const { return tokenizer_; }
  const std::vector<TokenId>& tokens() const { return tokens_; }

  // The tokens of the conversation with this turn; UsageError where it is empty or too long.
  void add_user_turn(const std::string& text) {
    if (text.empty()) throw UsageError("prompt: expected a text, found nothing");
    std::vector<TokenId> added;
    if (options_.raw) {
      added = encode_segments(tokenizer_, {{text, true}});
    } else {
      messages_.push_back({"user", text});
      added = tokens_.empty()
                  ? encode_segments(tokenizer_, template_->render(messages_, true))
                  : encode_segments(tokenizer_, template_->render_turn(messages_, messages_.size() - 1, reply_ended_),
                                    false);
    }
    tokens_.insert(tokens_.end(), added.begin(), added.end());
    if (static_cast<std::int64_t>(tokens_.size()) > context_tokens_) {
      throw UsageError(fmt::format("prompt: expected at most {} tokens (the context, -c), found {}", context_tokens_,
                                   tokens_.size()));
    }
  }

  void add_reply(const Generated& reply, const std::string& text) {
    tokens_.insert(tokens_.end(), reply.tokens.begin(), reply.tokens.end());
    messages_.push_back({"assistant", text});
    reply_ended_ = !reply.tokens.empty() && tokenizer_.is_end(reply.tokens.back());
  }

 private:
  void choose_template() {
    const TokenizerData& data = tokenizer_.data();
    if (!options_.template_name.empty()) {
      template_ = ChatTemplate::from_name(options_.template_name);
      if (!template_) {
        throw UsageError(fmt::format("--chat-template: expected one of {}, found '{}'", ChatTemplate::names(),
                                     options_.template_name));
      }
      return;
    }
    template_ = ChatTemplate::recognise(data.chat_template,
                                        data.eos >= 0 ? tokenizer_.piece(data.eos) : std::string_view("</s>"));
    if (template_) return;
    throw UsageError(fmt::format("the model's chat template is {}: use --chat-template NAME ({}) or --raw",
                                 data.chat_template.empty() ? "missing" : "unknown", ChatTemplate::names()));
  }

  const RunOptions& options_;
  Tokenizer tokenizer_;
  std::int64_t context_tokens_;
  std::optional<ChatTemplate> template_;
  std::vector<ChatMessage> messages_;
  std::vector<TokenId> tokens_;
  bool reply_ended_ = true;
};

struct Answer {
  Generated generated;
  std::string text;
  bool stop_string = false;
};

// Streams one answer to standard output.
Answer answer(const RunOptions& o, const Frontend& front, Generator& generator, const Engine& engine) {
  GenerateOptions g;
  g.max_new_tokens = o.max_new_tokens;
  g.chunks = [&](std::int64_t n) { return engine.chunks(n); };
  if (!o.ignore_eos) g.end_tokens = front.tokenizer().data().end_of_turn;
  StreamDecoder decoder(front.tokenizer());
  StopStrings stops(o.stops);
  Answer a;
  const auto show = [&](const std::string& text) {
    a.text += text;
    if (!text.empty()) print(text);
  };
  a.generated = generator.generate(front.tokens(), g, [&](TokenId token) {
    show(stops.push(decoder.push(token)));
    return !stops.found();
  });
  if (!stops.found()) show(stops.push(decoder.finish()));
  if (!stops.found()) show(stops.finish());
  a.stop_string = stops.found();
  return a;
}

nlohmann::ordered_json run_json(const Engine& engine, const std::vector<TokenId>& prompt, const Answer& a,
                                std::uint64_t digest) {
  const Generated& g = a.generated;
  const double decode_s = g.total_s - g.ttft_s;
  const auto new_tokens = static_cast<double>(g.tokens.size());
  nlohmann::ordered_json j = result_info(engine.manifest(), engine.plan());
  j.update({{"prompt_token_ids", prompt},
            {"generated_token_ids", g.tokens},
            {"text", a.text},
            {"finish_reason", g.stopped || a.stop_string ? "stop" : "length"},
            {"ttft_s", g.ttft_s},
            {"total_s", g.total_s},
            {"prefill_tokens_per_s", g.ttft_s > 0 ? static_cast<double>(g.prefilled_tokens) / g.ttft_s : 0},
            {"decode_tokens_per_s", decode_s > 0 ? (new_tokens - 1) / decode_s : 0},
            {"steps", g.steps},
            {"tokens_per_step", g.steps > 0 ? (new_tokens - 1) / static_cast<double>(g.steps) : 0},
            {"logits_hash", hex(digest)},
            {"load_s", engine.load_s()}});
  return j;
}

// Reads turns from standard input until it ends; returns the last answer's place in the exit code.
ExitCode chat(const RunOptions& o, Frontend& front, Generator& generator, Engine& engine) {
  const bool terminal = is_terminal(Stream::in) && is_terminal(Stream::out);
  bool first = o.prompt.has_value();
  for (std::string line; interrupted_by() == ExitCode::ok;) {
    if (!first) {
      if (terminal) print("> ");
      if (!std::getline(std::cin, line)) break;
      if (line.empty()) continue;
      try {
        check_utf8(line, "standard input", ExitCode::usage);
        front.add_user_turn(line);
      } catch (const Error& e) {
        std::cerr << "jupiter: " << e.what() << std::endl;
        return e.code();
      }
    }
    first = false;
    const Answer a = answer(o, front, generator, engine);
    front.add_reply(a.generated, a.text);
    print("\n");
  }
  return ExitCode::ok;
}

// Where mpirun's rank 0 is not the first stage, the prompt goes from the one (whose files and input are the user's) to
// the other. What cannot be read or written there ends all ranks now.
void share_prompt(const MpiSession& mpi, RunOptions& o) {
  RankStatus status;
  std::string text;
  const bool read_here = !o.engine.plan.empty() && !o.chat && !o.prompt;
  try {
    for (const std::string& file : {o.json_file, o.trace_file}) {
      if (mpi.is_launcher() && !file.empty()) check_writable(file);
    }
    if (mpi.is_launcher() && read_here) text = read_prompt(o);
  } catch (const Error& e) {
    status.problem = e;
  }
  agree(mpi, status);
  if (!read_here) return;
  o.prompt = broadcast_text(mpi, text);
  o.prompt_file.reset();
}

// The last exchange: rank 0's report and timeline, which the launching rank writes; nobody leaves before it came.
void finish(const MpiSession& mpi, const RunOptions& o, const Engine& engine, const std::string& json) {
  const std::string timeline = broadcast_text(mpi, engine.trace().gather(mpi));
  if (mpi.is_launcher() && !timeline.empty()) write_file_atomically(o.trace_file, timeline);
  const std::string text = broadcast_text(mpi, json);
  if (mpi.is_launcher() && !text.empty()) write_file_atomically(o.json_file, text);
}

void print_stats(const std::vector<RankReport>& reports, const Answer& a) {
  std::cerr << fmt::format("{:<5}{:<18}{:>9}{:>12}{:>11}{:>9}{:>12}{:>10}\n", "rank", "host", "layers", "weights MB",
                           "compute s", "wait s", "sent bytes", "RSS MB");
  for (const RankReport& r : reports) {
    std::cerr << fmt::format("{:<5}{:<18}{:>9}{:>12.1f}{:>11.3f}{:>9.3f}{:>12}{:>10.0f}\n", r.rank, r.host,
                             fmt::format("{}-{}", r.first_layer, r.last_layer - 1),
                             static_cast<double>(r.weight_bytes) / 1e6, r.compute_s, r.wait_s, r.sent_bytes,
                             static_cast<double>(r.peak_rss_bytes) / 1e6);
  }
  const Generated& g = a.generated;
  const double decode_s = g.total_s - g.ttft_s;
  std::cerr << fmt::format("first token after {:.3f} s, {} tokens in {:.3f} s, {:.2f} tokens/s after the first\n",
                           g.ttft_s, g.tokens.size(), g.total_s,
                           decode_s > 0 ? static_cast<double>(g.tokens.size() - 1) / decode_s : 0.0);
}

ExitCode drive(const MpiSession& mpi, const RunOptions& o, Engine& engine, Frontend& front) {
  Pipeline pipeline(mpi, engine.stage(), engine.pool(), engine.trace(), {.deadline = o.engine.timeout});
  Generator generator(pipeline, o.sampling, engine.context_tokens());
  ExitCode code = ExitCode::ok;
  Answer a;
  if (o.chat) {
    code = chat(o, front, generator, engine);
  } else {
    a = answer(o, front, generator, engine);
    print("\n");
  }
  if (interrupted_by() != ExitCode::ok) code = interrupted_by();
  const std::uint64_t digest = generator.close();
  pipeline.stop(code);
  const auto reports = gather_reports(mpi, local_report(mpi, engine.stage(), pipeline.wait_s(), pipeline.sent_bytes()));
  std::string json;
  if (!o.json_file.empty() && !o.chat) {
    nlohmann::ordered_json j = run_json(engine, front.tokens(), a, digest);
    for (const RankReport& r : reports) j["ranks"].push_back(rank_json(r));
    json = j.dump(1) + "\n";
  }
  if (o.stats && !o.chat) print_stats(reports, a);
  finish(mpi, o, engine, json);
  return code;
}

}  // namespace

ExitCode run_command(MpiSession& mpi, const Arguments& arguments) {
  cxxopts::Options usage = run_usage();
  const auto args = parse(mpi, usage, arguments);
  if (!args) return ExitCode::ok;
  RunOptions options = read_run_options(*args);
  share_prompt(mpi, options);
  std::optional<Frontend> front;
  Engine engine(mpi, options.engine, [&](const Manifest& manifest) {
    if (options.chat && !mpi.is_launcher()) {
      throw UsageError(fmt::format("--chat reads from mpirun's first rank: list host {} first (the plan's first board)",
                                   mpi.host()));
    }
    front.emplace(options, manifest);
  });
  if (mpi.rank() == 0) return drive(mpi, options, engine, *front);
  RankReport report;
  const ExitCode code = engine.serve(mpi, report);
  gather_reports(mpi, report);
  finish(mpi, options, engine, "");
  return code;
}

}  // namespace jupiter

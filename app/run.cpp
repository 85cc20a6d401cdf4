// jupiter run: an answer to a prompt, or a conversation.
#include <fmt/format.h>

#include <iostream>

#include "app/frontend.hpp"
#include "app/rank_json.hpp"
#include "app/result_info.hpp"
#include "app/stop_strings.hpp"
#include "io/files.hpp"
#include "io/progress.hpp"
#include "parallel/comm/collectives.hpp"
#include "parallel/outline/router.hpp"

namespace jupiter {

namespace {

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
    ("ignore-eos", "End-of-turn tokens do not end the answer")
    ("stop", "Ends the answer before this text; may be given several times", cxxopts::value<std::vector<std::string>>(), "TEXT")
    ("outline", "never; always: an outline first, then its points at once (another text than the plain answer); auto: where the question suits", cxxopts::value<std::string>()->default_value("never"), "WHEN")
    ("outline-prompt", "JSON file with outline_request, point_request and examples, in place of the built-in prompts", cxxopts::value<std::string>(), "FILE")
    ("points-max", "Points of an outline at most", cxxopts::value<std::int64_t>()->default_value("10"), "N")
    ("point-tokens", "New tokens of a point at most; it ends with a sentence once it has half of them", cxxopts::value<std::int64_t>()->default_value("96"), "N")
    ("cache-tokens", "Positions in the KV cache, of an outline and its points together; more points wait (default: the plan's, else room for all)", cxxopts::value<std::int64_t>(), "N")
    ("stats", "A table of what every rank did, to standard error")
    ("trace", "Write a timeline of all ranks to this file (Chrome trace)", cxxopts::value<std::string>(), "FILE")
    ("json", "Write tokens, times and hashes to this file", cxxopts::value<std::string>(), "FILE");
  // clang-format on
  add_sampling_options(options.add_options("Sampling"));
  add_decoding_options(options, "spec");
  add_engine_options(options);
  return options;
}

std::optional<std::string> text_option(const cxxopts::ParseResult& args, const char* option) {
  if (args.count(option) == 0) return std::nullopt;
  return args[option].as<std::string>();
}

RunOptions read_run_options(const cxxopts::ParseResult& args) {
  RunOptions o;
  o.engine = read_engine_options(args);
  o.engine.decoding = read_decoding_options(args);
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
  o.max_new_tokens = predict_option(args);
  o.ignore_eos = args.count("ignore-eos") > 0;
  o.raw = args.count("raw") > 0;
  o.chat = args.count("chat") > 0;
  const auto refuse = [](bool wrong, const char* message) {
    if (wrong) throw CollectiveError(ExitCode::usage, message);
  };
  const auto outline = args["outline"].as<std::string>();
  refuse(outline != "never" && outline != "auto" && outline != "always", "--outline: expected never, auto or always");
  o.outline = outline == "never"  ? OutlineUse::never
              : outline == "auto" ? OutlineUse::when_it_suits
                                  : OutlineUse::always;
  refuse(o.outline != OutlineUse::never && (o.raw || o.chat), "--outline: expected neither --raw nor --chat beside it");
  o.outline_file = text_option(args, "outline-prompt").value_or("");
  o.outline_options.points_max = args["points-max"].as<std::int64_t>();
  o.outline_options.point_tokens = args["point-tokens"].as<std::int64_t>();
  refuse(o.outline_options.points_max < 2 || o.outline_options.points_max > 50, "--points-max: expected 2 to 50");
  refuse(o.outline_options.point_tokens < 1 || o.outline_options.point_tokens > 4096,
         "--point-tokens: expected 1 to 4096");
  if (args.count("cache-tokens") > 0) {
    o.engine.cache_tokens = whole_option(args, "cache-tokens", 1, kMostTokens);
  } else if (o.outline != OutlineUse::never) {
    o.engine.sequences = o.outline_options.points_max + 1;
    o.engine.point_tokens = outline_cache_tokens(o.outline_options);
  }
  refuse(o.prompt && o.prompt_file, "-p and -f: expected one of them");
  refuse(o.chat && o.raw, "--chat needs a template: it does not go with --raw");
  refuse(o.chat && o.prompt_file.has_value(), "--chat reads its turns from standard input: use -p for the first one");
  refuse(std::find(o.stops.begin(), o.stops.end(), "") != o.stops.end(), "--stop: expected a text, found nothing");
  for (const std::string& stop : o.stops) check_utf8_option(stop, "--stop");
  check_utf8_option(o.system.value_or(""), "-sys");
  return o;
}

struct Answer {
  Generated generated;  // with an outline: the points' tokens in order
  std::optional<OutlineAnswer> outline;
  double router = 0;
  std::string text;
  bool stop_string = false;
};

Request request_of(const RunOptions& o, const Frontend& front) {
  Request r;
  r.prompt = front.tokens();
  r.sampling = o.sampling;
  r.decode = o.engine.decoding.decode;
  r.max_new_tokens = o.max_new_tokens;
  if (!o.ignore_eos) r.end_tokens = front.tokenizer().data().end_of_turn;
  return r;
}

// An outline and its points.
Answer outlined_answer(const RunOptions& o, const Frontend& front, Scheduler& scheduler) {
  Answer a;
  const OutlineRequest request{front.last_turn(), o.system.value_or(""), request_of(o, front)};
  a.outline = answer_with_outline(scheduler, front.tokenizer(), front.chat_template(), o.outline_options, request,
                                  [](const std::string& text) { print(text); });
  a.text = a.outline->text;
  Generated& g = a.generated;
  g = a.outline->plain;
  g.ttft_s = a.outline->ttft_s;
  g.total_s = a.outline->total_s;
  g.stopped |= !a.outline->points.empty();
  for (const OutlinePoint& p : a.outline->points) {
    g.tokens.insert(g.tokens.end(), p.generated.tokens.begin(), p.generated.tokens.end());
    g.steps += p.generated.steps;
    g.prefilled_tokens += p.generated.prefilled_tokens;
  }
  return a;
}

// Streams one answer to standard output. In a conversation the next turn begins with what this one computed.
Answer answer(const RunOptions& o, const Frontend& front, Scheduler& scheduler) {
  StreamDecoder decoder(front.tokenizer());
  StopStrings stops(o.stops);
  Answer a;
  const auto show = [&](const std::string& text) {
    a.text += text;
    if (!text.empty()) print(text);
  };
  Request r = request_of(o, front);
  r.keep_tokens = o.chat ? kKeepAll : 0;
  r.on_token = [&](TokenId token) {
    show(stops.push(decoder.push(token)));
    return !stops.found();
  };
  a.generated = scheduler.complete(std::move(r));
  if (!stops.found()) show(stops.push(decoder.finish()));
  if (!stops.found()) show(stops.finish());
  a.stop_string = stops.found();
  return a;
}

nlohmann::ordered_json run_json(const Engine& engine, const std::vector<TokenId>& prompt, const Answer& a) {
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
            {"draft", draft_json(g.draft)},
            {"logits_hash", hex(g.logits_digest)},
            {"load_s", engine.load_s()}});
  return j;
}

nlohmann::ordered_json outline_json(const Answer& a) {
  nlohmann::ordered_json j = {{"suits", a.router}, {"used", a.outline && !a.outline->points.empty()}};
  if (!a.outline) return j;
  j["outline"] = a.outline->outline;
  j["outline_s"] = a.outline->outline_s;
  j["points"] = nlohmann::ordered_json::array();
  for (const OutlinePoint& p : a.outline->points) {
    j["points"].push_back({{"point", p.point},
                           {"text", p.text},
                           {"generated_token_ids", p.generated.tokens},
                           {"logits_hash", hex(p.generated.logits_digest)}});
  }
  return j;
}

// Reads turns from standard input until it ends. A turn that cannot be answered (too long, not UTF-8) is said so and
// left out; the run has then failed in the end.
ExitCode chat(const RunOptions& o, Frontend& front, Scheduler& scheduler) {
  const bool terminal = is_terminal(Stream::in) && is_terminal(Stream::out);
  bool first = o.prompt.has_value(), told = false;
  ExitCode code = ExitCode::ok;
  for (std::string line; interrupted_by() == ExitCode::ok;) {
    if (!first) {
      if (terminal) print("> ");
      if (!std::getline(std::cin, line)) break;
      if (line.empty()) continue;
      try {
        check_utf8(line, "standard input", ExitCode::usage);
        front.add_user_turn(line);
      } catch (const Error& e) {
        std::cerr << "jupiter: turn left out: " << e.what() << std::endl;
        code = ExitCode::failed;
        continue;
      }
    }
    first = false;
    if (front.has_forgotten() && !std::exchange(told, true)) {
      std::cerr << "jupiter: the conversation is longer than the context (" << scheduler.context_tokens()
                << " tokens): from here on its oldest turns are left out" << std::endl;
    }
    const Answer a = answer(o, front, scheduler);
    front.add_reply(a.generated, a.text);
    print("\n");
  }
  return code;
}

// Where mpirun's rank 0 is not the first stage, the prompt goes from the one (whose files and input are the user's) to
// the other. What cannot be read or written there ends all ranks now.
void share_prompt(const MpiSession& mpi, RunOptions& o) {
  std::string text;
  const bool read_here = !o.engine.plan.empty() && !o.chat && !o.prompt;
  together(mpi, [&] {
    if (!mpi.is_launcher()) return;
    check_outputs({o.json_file, o.trace_file}, {o.prompt_file.value_or(""), o.engine.plan, o.outline_file});
    if (read_here) text = read_prompt(o);
  });
  if (!read_here) return;
  o.prompt = broadcast(mpi, text);
  o.prompt_file.reset();
}

// The last exchange: rank 0's report and the timeline, which the launching rank writes; nobody leaves before it came.
// The report comes first: it is there even where the timeline, which may be large, cannot be written.
void finish(const MpiSession& mpi, const RunOptions& o, Engine& engine, const std::string& json) {
  const std::string text = broadcast(mpi, json);
  together(mpi, [&] {
    if (mpi.is_launcher() && !text.empty()) write_file_atomically(o.json_file, text);
  });
  engine.trace().write(mpi, o.trace_file, o.engine.timeout);
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
  std::cerr << draft_text(g.draft, std::ssize(g.tokens), decode_s);
  double waiting = 0;
  for (const RankReport& r : reports)
    waiting += r.wait_s / (r.wait_s + r.compute_s) / static_cast<double>(reports.size());
  std::cerr << fmt::format("stages waited (bubbles) {:.0f} % of the time on average\n", 100 * waiting);
}

ExitCode drive(const MpiSession& mpi, const RunOptions& o, Engine& engine, Frontend& front) {
  Pipeline pipeline(mpi, engine.stage(), engine.pool(), engine.trace(),
                    {.deadline = o.engine.timeout, .idle = engine.idle_work()});
  Scheduler scheduler(pipeline, mpi.stages(), engine.scheduling());
  ExitCode code = ExitCode::ok;
  Answer a;
  if (o.chat) {
    code = chat(o, front, scheduler);
  } else {
    const double suits = o.outline != OutlineUse::never ? outline_suits(front.last_turn()) : 0;
    const bool outlined = o.outline == OutlineUse::always || (o.outline == OutlineUse::when_it_suits && suits > 0.5);
    a = outlined ? outlined_answer(o, front, scheduler) : answer(o, front, scheduler);
    a.router = suits;
    print("\n");
  }
  if (interrupted_by() != ExitCode::ok) code = interrupted_by();
  pipeline.stop(code);
  const auto reports = gather(mpi, local_report(mpi, engine.stage(), pipeline.wait_s(), pipeline.sent_bytes()));
  std::string json;
  if (!o.json_file.empty() && !o.chat) {
    nlohmann::ordered_json j = run_json(engine, front.tokens(), a);
    if (o.outline != OutlineUse::never) j["outline"] = outline_json(a);
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
    if (!options.outline_file.empty()) options.outline_options.prompts = OutlinePrompts::read(options.outline_file);
    front.emplace(options, manifest);
  });
  if (mpi.rank() == 0) return drive(mpi, options, engine, *front);
  RankReport report;
  const ExitCode code = engine.serve(mpi, report);
  gather(mpi, report);
  finish(mpi, options, engine, "");
  return code;
}

}  // namespace jupiter

// jupiter run: an answer to a prompt, or a conversation.
#include <fmt/format.h>

#include <algorithm>
#include <iostream>

#include "app/frontend.hpp"
#include "app/rank_json.hpp"
#include "app/result_info.hpp"
#include "app/stop_strings.hpp"
#include "io/files.hpp"
#include "io/progress.hpp"
#include "io/tokenizer/reasoning.hpp"
#include "parallel/comm/collectives.hpp"
#include "parallel/outline/router.hpp"

namespace jupiter {

void RunOptions::declare(OptionSet& options) {
  // clang-format off
  options.group("Prompt");
  options.text("p,prompt", prompt, "TEXT", "Prompt, taken literally");
  options.text("f,file", prompt_file, "FILE", "File that holds the prompt, taken as it is (default: standard input)");
  options.text("system-prompt", system, "TEXT", "-sys: replaces the template's system message");
  text.declare_template(options);
  options.flag("chat", chat, "Conversation: one line of standard input a turn");
  options.group("Answer");
  text.declare_answer(options, "New tokens at most (default: to the end of the turn)");
  declare_reasoning(options, reasoning, "shown, it stands before the answer");
  options.texts("stop", stops, "TEXT", "Ends the answer before this text; may be given several times");
  options.text("grammar-file", grammar_file, "FILE", "The answer follows this grammar (GBNF)");
  options.text("json-schema-file", schema_file, "FILE", "The answer is a JSON value of this JSON Schema");
  options.choice("outline", outline, {{"never", OutlineUse::never}, {"auto", OutlineUse::when_it_suits}, {"always", OutlineUse::always}}, "never; always: an outline first, then its points at once (another text than the plain answer); auto: where the question suits");
  options.text("outline-prompt", outline_file, "FILE", "JSON file with outline_request, point_request and examples, in place of the built-in prompts");
  options.number("points-max", outline_options.points_max, {2, 50}, "N", "Points of an outline at most");
  options.number("point-tokens", outline_options.point_tokens, {1, 4096}, "N", "New tokens of a point at most; it ends with a sentence once it has half of them");
  options.number("cache-tokens", engine.cache_tokens, {1, kMostTokens}, "N", "Positions in the KV cache, of an outline and its points together; more points wait (default: the plan's, else room for all)");
  options.flag("stats", stats, "A table of what every rank did, to standard error");
  options.text("trace", trace_file, "FILE", "Write a timeline of all ranks to this file (Chrome trace)");
  options.text("json", json_file, "FILE", "Write tokens, times and hashes to this file");
  // clang-format on
  declare_sampling(options, "Sampling", sampling);
  engine.decoding.declare(options);
  engine.declare(options);
}

void RunOptions::check(const OptionSet& options) {
  engine.check(options);
  engine.decoding.check(options);
  engine.trace = !trace_file.empty();
  const bool outlines = outline != OutlineUse::never;
  refuse(outlines && (text.raw || chat), "--outline: expected neither --raw nor --chat beside it");
  if (outlines && engine.cache_tokens == 0) {
    engine.sequences = outline_options.points_max + 1;
    engine.point_tokens = outline_cache_tokens(outline_options);
  }
  const bool formed = !grammar_file.empty() || !schema_file.empty();
  refuse(!grammar_file.empty() && !schema_file.empty(), "--grammar-file and --json-schema-file: expected one of them");
  refuse(formed && text.ignore_eos, "--grammar-file, --json-schema-file: expected no --ignore-eos beside them");
  refuse(formed && outlines, "--grammar-file, --json-schema-file: expected no --outline beside them");
  refuse(prompt && prompt_file, "-p and -f: expected one of them");
  refuse(chat && text.raw, "--chat needs a template: it does not go with --raw");
  refuse(chat && prompt_file.has_value(), "--chat reads its turns from standard input: use -p for the first one");
  refuse(std::find(stops.begin(), stops.end(), "") != stops.end(), "--stop: expected a text, found nothing");
  for (const std::string& stop : stops) check_utf8_option(stop, "--stop");
  check_utf8_option(system.value_or(""), "-sys");
}

namespace {

struct Answer {
  Generated generated;  // with an outline: the points' tokens in order
  std::optional<OutlineAnswer> outline;
  double router = 0;
  std::string text;
  bool stop_string = false;
  std::optional<std::int64_t> reasoning_tokens;  // none: the model has no thinking to tell apart
  std::string reasoning;
};

Request request_of(const RunOptions& o, const Frontend& front) {
  Request r;
  r.prompt = front.tokens();
  r.sampling = o.sampling;
  r.decode = o.engine.decoding.decode;
  r.grammar = o.grammar;
  r.max_new_tokens = o.text.most_new_tokens();
  if (!o.text.ignore_eos) r.end_tokens = front.tokenizer().data().end_of_turn;
  return r;
}

// An outline and its points.
Answer outlined_answer(const RunOptions& o, const Frontend& front, Scheduler& scheduler) {
  Answer a;
  const OutlineRequest request{{o.system.value_or(""), {}, front.last_turn()}, request_of(o, front)};
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
  const ReasoningForm form = o.text.raw ? ReasoningForm::none : reasoning_form(front.tokenizer());
  ReasoningReader reader(front.tokenizer(), form, !o.text.raw && front.chat_template().opens_thinking());
  StopStrings stops(o.stops);
  Answer a;
  bool thinks = false;  // what was printed last
  const auto show = [&](const std::string& text) {
    a.text += text;
    if (!text.empty()) print(std::exchange(thinks, false) ? "\n\n" + text : text);
  };
  const auto take = [&](const ReasoningReader::Piece& piece) {
    a.reasoning += piece.reasoning;
    if (o.reasoning == ReasoningUse::show && !piece.reasoning.empty()) {
      print(piece.reasoning);
      thinks = true;
    }
    show(stops.push(piece.content));
  };
  Request r = request_of(o, front);
  r.keep_tokens = o.chat ? kKeepAll : 0;
  r.on_token = [&](TokenId token) {
    take(reader.push(token));
    return !stops.found();
  };
  a.generated = scheduler.complete(std::move(r));
  if (!stops.found()) take(reader.finish());
  if (!stops.found()) show(stops.finish());
  a.stop_string = stops.found();
  if (form != ReasoningForm::none) a.reasoning_tokens = reader.reasoning_tokens();
  return a;
}

void read_grammar(RunOptions& o) {
  if (!o.grammar_file.empty()) {
    o.grammar = {read_file(o.grammar_file, kMostGrammarBytes)};
    check(o.grammar, o.grammar_file);
  } else if (!o.schema_file.empty()) {
    const std::string text = read_file(o.schema_file, kMaxJsonBytes);
    o.grammar = grammar_of_schema(parse_json<nlohmann::ordered_json>(text, o.schema_file), o.schema_file);
  }
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
  if (a.reasoning_tokens) j.update({{"reasoning", a.reasoning}, {"reasoning_tokens", *a.reasoning_tokens}});
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
void finish(const RunOptions& o, Engine& engine, const std::string& json) {
  const MpiSession& mpi = engine.mpi();
  const std::string text = broadcast(mpi, json);
  together(mpi, [&] {
    if (mpi.is_launcher() && !text.empty()) write_file_atomically(o.json_file, text);
  });
  engine.trace().write(mpi, o.trace_file, o.engine.timeout());
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
  double waiting = 0, stages = 0;
  for (const RankReport& r : reports) {
    if (r.first_layer == r.last_layer) continue;  // left out by the plan
    waiting += r.wait_s / (r.wait_s + r.compute_s);
    ++stages;
  }
  std::cerr << fmt::format("stages waited (bubbles) {:.0f} % of the time on average\n", 100 * waiting / stages);
}

// Rank 0's work; `a` is the answer where it is no conversation.
ExitCode converse(const RunOptions& o, Frontend& front, Scheduler& scheduler, Answer& a) {
  ExitCode code = ExitCode::ok;
  if (o.chat) {
    code = chat(o, front, scheduler);
  } else {
    const double suits = o.outline != OutlineUse::never ? outline_suits(front.last_turn()) : 0;
    const bool outlined = o.outline == OutlineUse::always || (o.outline == OutlineUse::when_it_suits && suits > 0.5);
    a = outlined ? outlined_answer(o, front, scheduler) : answer(o, front, scheduler);
    a.router = suits;
    print("\n");
  }
  return interrupted_by() != ExitCode::ok ? interrupted_by() : code;
}

// What rank 0 has to tell in the end: the JSON report, if one is wanted.
std::string report(const RunOptions& o, const Engine& engine, const Frontend& front, const Answer& a,
                   const std::vector<RankReport>& ranks) {
  if (o.chat) return "";
  if (o.stats) print_stats(ranks, a);
  if (o.json_file.empty()) return "";
  nlohmann::ordered_json j = run_json(engine, front.tokens(), a);
  if (o.outline != OutlineUse::never) j["outline"] = outline_json(a);
  for (const RankReport& r : ranks) j["ranks"].push_back(rank_json(r));
  return j.dump(1) + "\n";
}

}  // namespace

ExitCode run_command(const MpiSession& mpi, const Arguments& arguments) {
  RunOptions options;
  OptionSet set("run", "Answers a prompt, or keeps a conversation. Alone or under mpirun.");
  options.declare(set);
  if (!set.parse(mpi, arguments)) return ExitCode::ok;
  options.check(set);
  share_prompt(mpi, options);
  std::optional<Frontend> front;  // rank 0's
  Engine engine(mpi, options.engine, [&](const Manifest& manifest, const MpiSession& ranks) {
    if (options.chat && !ranks.is_launcher()) {
      throw UsageError(fmt::format("--chat reads from mpirun's first rank: list host {} first (the plan's first board)",
                                   ranks.host()));
    }
    if (!options.outline_file.empty()) options.outline_options.prompts = OutlinePrompts::read(options.outline_file);
    read_grammar(options);
    front.emplace(options, manifest);
  });
  Answer a;
  const DriveEnd end =
      engine.drive([&](Pipeline&, Scheduler& scheduler) { return converse(options, *front, scheduler, a); });
  finish(options, engine, front ? report(options, engine, *front, a, end.reports) : "");
  return end.code;
}

}  // namespace jupiter

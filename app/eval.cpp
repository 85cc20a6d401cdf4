// jupiter eval: how well a model predicts a text, golden tokens and right choices; how far its distributions are from
// saved ones; whether this cluster has the bits of one rank; and whether any of it moved from a baseline.
#include <fmt/format.h>

#include <cstring>
#include <filesystem>
#include <iostream>

#include "app/baseline.hpp"
#include "app/engine.hpp"
#include "app/eval_inputs.hpp"
#include "app/eval_report.hpp"
#include "app/rank_json.hpp"
#include "app/result_info.hpp"
#include "app/self_check.hpp"
#include "io/files.hpp"
#include "io/hash.hpp"
#include "io/json_fields.hpp"
#include "io/progress.hpp"
#include "io/timer.hpp"
#include "parallel/comm/collectives.hpp"

namespace jupiter {

namespace {

using nlohmann::ordered_json;

// Rows of a frame on several ranks. Windows follow each other without a gap, so filling the pipeline, for which a
// plan's chunks are made, does not matter; measured on four emulated boards, 64 rows beat 16, 32, 128 and 256.
constexpr std::int64_t kWindowRows = 64;
constexpr std::uint64_t kMaxInputBytes = 15 << 20;  // it travels to the other ranks in one text

struct EvalOptions {
  void declare(OptionSet& options);
  void check(const OptionSet& options);

  EngineOptions engine;
  EvalInputs inputs;
  std::string text_file, golden_file, choices_file;
  std::string save_reference, reference;
  std::string json_file, csv_file, junit_file;
  std::string baseline_file;
  bool update_baseline = false;
  std::optional<Baseline> baseline;
  ordered_json settings;  // that a baseline's result must share
};

void EvalOptions::declare(OptionSet& options) {
  // clang-format off
  options.group("What to evaluate (at least one)");
  options.text("text", text_file, "FILE", "Text file: perplexity");
  options.text("golden", golden_file, "FILE", "JSONL with prompt_ids and greedy_ids: is each token the most likely one?");
  options.text("choices", choices_file, "FILE", "JSONL with question, choices, answer (index): acc and acc_norm by likelihood");
  options.flag("self-check", inputs.self_check, "Answers must have the bits of one rank alone (the one that mpirun started first)");
  options.group("Text");
  options.number("window", inputs.window, {2, kMostTokens}, "N", "Tokens evaluated together; the first of a window is not scored");
  options.number("stride", inputs.stride, {1, kMostTokens}, "N", "Tokens between the beginnings of windows (default: the window)");
  options.number("tokens", inputs.max_text_tokens, {2, INT64_MAX}, "N", "Only the first N tokens of the text");
  options.text("save-reference", save_reference, "FILE", "Save the text's distributions to compare others with (HDF5, on the last stage's board)");
  options.text("reference", reference, "FILE", "Compare with saved distributions: KL divergence, top-1 agreement");
  options.group("Results");
  options.text("baseline", baseline_file, "FILE", "Compare with this baseline; exit 1 and a table where a metric moved");
  options.flag("update-baseline", update_baseline, "Write the baseline instead; tolerances in it are kept");
  options.text("json", json_file, "FILE", "Write the results to this file");
  options.text("csv", csv_file, "FILE", "Write the metrics to this file");
  options.text("junit", junit_file, "FILE", "Write the metrics as test cases (JUnit XML)");
  // clang-format on
  engine.decoding.declare(options);
  engine.declare(options);
}

void EvalOptions::check(const OptionSet& options) {
  engine.check(options);
  engine.decoding.check(options);
  if (options.given("stride")) check_range("--stride", inputs.stride, {1, inputs.window});
  if (inputs.stride == 0) inputs.stride = inputs.window;
  refuse(text_file.empty() && golden_file.empty() && choices_file.empty() && !inputs.self_check,
         "eval: expected --text FILE, --golden FILE, --choices FILE or --self-check (see --help)");
  for (const char* option : {"save-reference", "reference", "tokens", "stride"}) {
    refuse(options.given(option) && text_file.empty(), fmt::format("--{}: expected --text FILE with it", option));
  }
  refuse(update_baseline && baseline_file.empty(), "--update-baseline: expected --baseline FILE with it");
  if (!text_file.empty()) engine.needed_tokens = inputs.window;
  engine.least_rows = kWindowRows;
}

void parse_inputs(EvalOptions& o, const std::vector<std::string>& contents) {
  if (!o.text_file.empty()) o.inputs.text = InputFile{o.text_file, contents[0]};
  if (!o.golden_file.empty()) o.inputs.golden = parse_golden({o.golden_file, contents[1]});
  if (!o.choices_file.empty()) o.inputs.choices = parse_choices({o.choices_file, contents[2]});
  if (!contents[3].empty()) o.baseline.emplace(contents[3], o.baseline_file);
}

ordered_json settings_of(const EvalOptions& o, const std::vector<std::string>& contents) {
  ordered_json s = ordered_json::object();
  if (o.inputs.text) {
    s["window_tokens"] = o.inputs.window;
    s["stride_tokens"] = o.inputs.stride;
    s["max_text_tokens"] = o.inputs.max_text_tokens;
    s["text_hash"] = hex(hash_bytes(contents[0]));
  }
  if (!o.golden_file.empty()) s["golden_hash"] = hex(hash_bytes(contents[1]));
  if (!o.choices_file.empty()) s["choices_hash"] = hex(hash_bytes(contents[2]));
  if (o.engine.keys) s["type_k"] = name(*o.engine.keys);
  if (o.engine.values) s["type_v"] = name(*o.engine.values);
  return s;
}

// Files lie where mpirun was started, on a board that need not be the first stage; so its rank reads them for all.
void read_inputs(const MpiSession& mpi, EvalOptions& o) {
  std::vector<std::string> contents(4);
  together(mpi, [&] {
    if (mpi.is_launcher()) {
      const std::string no_file;
      check_outputs({o.json_file, o.csv_file, o.junit_file, o.update_baseline ? o.baseline_file : no_file},
                    {o.text_file, o.golden_file, o.choices_file, o.reference, o.engine.plan,
                     o.update_baseline ? no_file : o.baseline_file});
      const std::string* names[] = {&o.text_file, &o.golden_file, &o.choices_file, &o.baseline_file};
      for (std::size_t i = 0; i < contents.size(); ++i) {
        const bool new_baseline = i == 3 && o.update_baseline && !std::filesystem::exists(*names[i]);
        if (!names[i]->empty() && !new_baseline) contents[i] = read_file(*names[i], kMaxInputBytes);
      }
      if (contents[3].empty() && !o.baseline_file.empty() && !o.update_baseline) {
        throw FormatError(o.baseline_file, "content", "a baseline", "nothing");
      }
      EvalOptions trial = o;
      parse_inputs(trial, contents);
    }
  });
  for (std::string& text : contents) text = broadcast(mpi, text);
  parse_inputs(o, contents);
  o.settings = settings_of(o, contents);
  o.engine.wished_tokens = longest_window(o.inputs);
}

std::vector<std::string> metrics_of(const EvalOptions& o) {
  std::vector<std::string> names;
  const auto add = [&](bool wanted, std::initializer_list<const char*> list) {
    if (wanted) names.insert(names.end(), list.begin(), list.end());
  };
  add(o.inputs.text.has_value(), {"perplexity"});
  add(!o.reference.empty(), {"kl_mean_nats", "kl_median_nats", "kl_p99_nats", "kl_max_nats", "top1_agreement"});
  add(!o.inputs.golden.empty(), {"golden_matching_lines", "golden_matching_tokens", "golden_agreement"});
  add(!o.inputs.choices.empty(), {"acc", "acc_norm"});
  add(o.inputs.self_check, {kHashMetric});
  return names;
}

// The last rank's instruments.
struct Instruments {
  std::unique_ptr<ReferenceFile> reference;
  std::unique_ptr<ReferenceWriter> writer;
  std::unique_ptr<Evaluator> evaluator;
};

void check_reference(const ReferenceInfo& info, const EvalOptions& o, const std::vector<TokenId>& tokens,
                     std::int64_t vocab_size) {
  const auto differs = [&](const char* what, std::int64_t expected, std::int64_t found) {
    if (expected != found) throw FormatError(o.reference, what, std::to_string(expected), std::to_string(found));
  };
  differs("vocabulary", vocab_size, info.vocab_size);
  differs("window_tokens", o.inputs.window, info.window);
  differs("number of tokens", std::ssize(tokens), std::ssize(info.tokens));
  if (info.tokens != tokens) throw FormatError(o.reference, "tokens", "those of the text", "others");
}

Instruments make_instruments(const EvalOptions& o, Engine& engine, const EvalWork& work) {
  const MpiSession& mpi = engine.mpi();
  Instruments i;
  together(mpi, [&] {
    if (mpi.rank() + 1 == mpi.stages()) {
      const std::int64_t vocab_size = engine.config().vocab_size;
      const std::vector<TokenId> text(work.tokens.begin(), work.tokens.begin() + work.text_tokens);
      if (!o.save_reference.empty()) check_outputs({o.save_reference}, {o.reference, o.text_file});
      if (!o.reference.empty()) {
        i.reference = std::make_unique<ReferenceFile>(o.reference);
        check_reference(i.reference->info(), o, text, vocab_size);
      }
      if (!o.save_reference.empty()) {
        i.writer = std::make_unique<ReferenceWriter>(
            o.save_reference, ReferenceInfo{text, o.inputs.window, vocab_size, hex(engine.manifest().hash)});
      }
      i.evaluator = std::make_unique<Evaluator>(kernels(), work.tokens, work.windows, work.text_tokens,
                                                i.reference.get(), i.writer.get());
      engine.stage().set_logits_sink(i.evaluator->sink());
    }
  });
  return i;
}

// What rank 0 found.
struct Findings {
  double eval_s = 0;  // of the windows
  std::vector<CheckAnswer> answers;
};

Findings evaluate(const EvalOptions& o, Engine& engine, const EvalWork& work, Pipeline& pipeline,
                  Scheduler& scheduler) {
  const auto stop_if_interrupted = [] {
    if (interrupted_by() != ExitCode::ok) throw Error(interrupted_by(), "interrupted");
  };
  Findings f;
  ProgressBar bar("eval", "windows");
  const auto start = Clock::now();
  const bool own_chunks = engine.mpi().stages() > 1 && o.engine.chunk_tokens == 0 && o.engine.plan.empty();
  submit_windows(
      pipeline, work.tokens, work.windows,
      [&](std::int64_t n) { return own_chunks ? fixed_chunks(n, kWindowRows) : engine.chunks(n); },
      [&](std::size_t done) {
        stop_if_interrupted();
        bar.update(done, work.windows.size());
      });
  f.eval_s = seconds_since(start);
  f.answers = answer_prompts(scheduler, o.engine.decoding.decode, work.check_prompts);
  stop_if_interrupted();
  return f;
}

// One rank's own answers to the self-check's prompts as JSON, or why it has none.
std::string check_alone(const MpiSession& mpi, const EvalOptions& o, const EvalWork& work) {
  if (!o.inputs.self_check || !mpi.is_launcher()) return "";
  try {
    return ordered_json{{"answers", to_json(answer_alone(mpi, o.engine, work.check_prompts))}}.dump();
  } catch (const Error& e) {
    return ordered_json{{"problem", e.what()}, {"code", static_cast<int>(e.code())}}.dump();
  }
}

// What all ranks learn from rank 0.
ordered_json result_of(const EvalOptions& o, const Engine& engine, const EvalWork& work, const Findings& f,
                       const std::vector<RankReport>& reports, const std::vector<TokenScore>& scores,
                       const std::string& alone_text) {
  ordered_json j = result_info(engine.manifest(), engine.plan());
  j["model"] = identity_of(engine.manifest());
  j["settings"] = o.settings;
  j["ranks"] = engine.mpi().stages();
  j["chunk_tokens"] = engine.chunk_tokens();
  j.update(summarize(o.inputs, work, scores, !o.reference.empty()));
  if (o.inputs.self_check) {
    const auto alone = parse_json<ordered_json>(alone_text, "self-check");
    j.update(summarize_check(work, to_json(f.answers), alone.value("answers", ordered_json())));
    if (alone.contains("problem")) j["self_check_problem"] = alone;
  }
  std::int64_t rows = 0;
  for (const EvalWindow& w : work.windows) rows += w.length - w.begin;
  j["eval_s"] = f.eval_s;
  j["eval_tokens_per_s"] = f.eval_s > 0 ? static_cast<double>(rows) / f.eval_s : 0;
  for (const RankReport& r : reports) j["per_rank"].push_back(rank_json(r));
  return j;
}

// On every rank alike; the launching one prints and writes.
ExitCode report(const EvalOptions& o, const Engine& engine, ordered_json result) {
  const bool compares = o.baseline && !o.update_baseline;
  if (result.contains("self_check_problem") && !compares) {
    const ordered_json& p = result["self_check_problem"];
    throw CollectiveError(static_cast<ExitCode>(p["code"].get<int>()),
                          "--self-check: one rank alone cannot answer, and no baseline tells what it would: " +
                              p["problem"].get<std::string>());
  }
  std::vector<Comparison> rows;
  if (compares) rows = o.baseline->compare(result);
  ExitCode code = ExitCode::ok;
  for (const Comparison& c : rows) {
    if (c.moved) code = ExitCode::failed;
    result["baseline"].push_back({{"metric", c.metric},
                                  {"value", c.value},
                                  {"baseline", c.expected},
                                  {"tolerance", c.tolerance},
                                  {"moved", c.moved},
                                  {"verdict", c.verdict}});
  }
  if (!result.value("self_check_equal", true)) code = ExitCode::failed;
  if (!engine.mpi().is_launcher()) return code;
  std::string text = result_text(result);
  if (compares) {
    text += comparison_text(rows, o.baseline_file);
    if (o.baseline->model_hash() != hex(engine.manifest().hash)) {
      text +=
          fmt::format("note: the baseline's model hash is {}, this model's {} (another conversion, or other weights)\n",
                      o.baseline->model_hash(), hex(engine.manifest().hash));
    }
  }
  print(text);
  if (!o.json_file.empty()) write_file_atomically(o.json_file, result.dump(1) + "\n");
  if (!o.csv_file.empty()) write_file_atomically(o.csv_file, result_csv(result, rows));
  if (!o.junit_file.empty()) write_file_atomically(o.junit_file, result_junit(result, rows));
  if (o.update_baseline) {
    write_file_atomically(o.baseline_file, Baseline::update(identity_of(engine.manifest()), o.settings, result,
                                                            o.baseline ? &*o.baseline : nullptr));
  }
  return code;
}

void prepare(const EvalOptions& o, const Manifest& manifest, EvalWork& work) {
  if (o.baseline && !o.update_baseline) {
    o.baseline->check(identity_of(manifest), o.settings, metrics_of(o));
  }
  const Tokenizer tokenizer(load_tokenizer(o.engine.model, manifest, o.engine.verify));
  work = make_work(o.inputs, tokenizer,
                   o.engine.context_tokens > 0 ? o.engine.context_tokens : manifest.config.max_seq_len);
}

}  // namespace

ExitCode eval_command(const MpiSession& started, const Arguments& arguments) {
  EvalOptions o;
  OptionSet set("eval",
                "Accuracy: perplexity of a text, golden tokens, multiple choice, KL divergence from saved "
                "distributions,\nequal bits on any number of ranks. Alone or under mpirun. Exit code 1: a "
                "metric moved from its baseline.");
  o.declare(set);
  if (!set.parse(started, arguments)) return ExitCode::ok;
  o.check(set);
  read_inputs(started, o);
  EvalWork work;
  Engine engine(started, o.engine, [&](const Manifest& manifest, const MpiSession&) { prepare(o, manifest, work); });
  const MpiSession& mpi = engine.mpi();
  work = broadcast(mpi, work);
  check_windows(work.windows, std::ssize(work.tokens));
  Instruments instruments = make_instruments(o, engine, work);

  Findings findings;
  const DriveEnd end = engine.drive([&](Pipeline& pipeline, Scheduler& scheduler) {
    findings = evaluate(o, engine, work, pipeline, scheduler);
    return ExitCode::ok;
  });
  if (instruments.writer) instruments.writer->finish();
  // The last stage's, which has the logits.
  const std::vector<TokenScore> scores =
      broadcast(mpi, instruments.evaluator ? instruments.evaluator->scores() : std::vector<TokenScore>{},
                mpi.stages() - 1, o.engine.timeout());
  const auto all_alone = gather(mpi, check_alone(mpi, o, work));
  std::string result;
  if (mpi.rank() == 0) {
    std::string alone;
    for (const std::string& text : all_alone) alone += text;
    result = result_of(o, engine, work, findings, end.reports, scores, alone).dump();
  }
  const ExitCode code = report(o, engine, parse_json<ordered_json>(broadcast(mpi, result), "result"));
  barrier(mpi);  // nobody leaves before rank 0 does
  return code;
}

}  // namespace jupiter

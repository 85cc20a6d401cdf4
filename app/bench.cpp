// jupiter bench: speed of prompts and generation, beside what the machine could do at best.
#include <fmt/format.h>

#include <random>

#include "app/bench_report.hpp"
#include "app/engine.hpp"
#include "app/result_info.hpp"
#include "io/memory.hpp"
#include "io/progress.hpp"
#include "parallel/comm/collectives.hpp"

namespace jupiter {

namespace {

constexpr std::uint64_t kLeastBuffer = 256 << 20;  // bytes read for the peak: several times the largest caches

struct BenchOptions {
  void declare(OptionSet& options);
  void check(const OptionSet& options);

  EngineOptions engine;
  std::vector<int> threads;  // empty: the default
  std::vector<std::int64_t> prompts{512}, answers{128}, depths{0};
  std::vector<BenchTest> tests;
  int repetitions = 5;
  bool warm_up = true;
  BenchFormat format = BenchFormat::markdown;
};

void BenchOptions::declare(OptionSet& options) {
  // clang-format off
  options.group("Tests");
  options.numbers("p,n-prompt", prompts, {0, kMostTokens}, "N", "Tokens of a prompt; 0: none");
  options.numbers("n,n-gen", answers, {0, kMostTokens}, "N", "Tokens to generate; 0: none");
  options.numbers("d,n-depth", depths, {0, kMostTokens}, "N", "Tokens before them, not counted");
  options.number("r,repetitions", repetitions, {1, INT32_MAX}, "N", "Runs of each test, after one that is not counted");
  options.flag("no-warmup", warm_up, "Count the first run too");
  options.choice("o,output", format, {{"md", BenchFormat::markdown}, {"csv", BenchFormat::csv}, {"json", BenchFormat::json}}, "Format of standard output: md, csv or json");
  // clang-format on
  engine.declare(options, &threads);
}

void BenchOptions::check(const OptionSet& options) {
  engine.check(options);
  for (const std::int64_t depth : depths) {
    for (const std::int64_t n : prompts) tests.push_back({n, 0, depth});
    for (const std::int64_t n : answers) tests.push_back({0, n, depth});
  }
  std::erase_if(tests, [](const BenchTest& t) { return t.tokens() == 0; });
  refuse(tests.empty(), "-p and -n: expected a number of tokens other than 0");
  for (const BenchTest& t : tests) engine.needed_tokens = std::max(engine.needed_tokens, t.n_depth + t.tokens());
}

std::vector<TokenId> random_tokens(std::int64_t count, std::int64_t vocab_size) {
  std::mt19937_64 random(1);
  std::vector<TokenId> tokens;
  for (std::int64_t i = 0; i < count; ++i) {
    tokens.push_back(static_cast<TokenId>(random() % static_cast<std::uint64_t>(vocab_size)));
  }
  return tokens;
}

// Seconds of one run of a test on a sequence of its own. End tokens do not end it.
double run_once(Scheduler& scheduler, const Engine& engine, const BenchOptions& o, const BenchTest& test) {
  Request request;
  request.decode = o.engine.decoding.decode;
  request.max_new_tokens = 1;
  if (test.n_depth > 0) {
    request.prompt = random_tokens(test.n_depth, engine.config().vocab_size);
    request.keep_tokens = kKeepAll;
    scheduler.complete(Request(request));
  }
  // Generation starts from one token, whose pass is the first of n_gen.
  request.prompt = random_tokens(test.n_depth + std::max<std::int64_t>(test.n_prompt, 1), engine.config().vocab_size);
  request.keep_tokens = 0;
  if (test.n_gen > 0) request.max_new_tokens = test.n_gen;
  const Generated made = scheduler.complete(std::move(request));
  return test.n_gen > 0 ? made.total_s : made.ttft_s;
}

// The runs of one test; seconds of each go to samples_s on rank 0.
DriveEnd run_session(const BenchOptions& o, Engine& engine, const BenchTest& test, int repetitions,
                     std::vector<double>& samples_s) {
  return engine.drive([&](Pipeline&, Scheduler& scheduler) {
    ProgressBar bar("bench", "runs");
    for (int i = 0; i < repetitions && interrupted_by() == ExitCode::ok; ++i) {
      bar.update(static_cast<std::uint64_t>(i), static_cast<std::uint64_t>(repetitions));
      samples_s.push_back(run_once(scheduler, engine, o, test));
    }
    return interrupted_by();
  });
}

// All tests with one number of threads. The report begins with the first.
ExitCode run_tests(const BenchOptions& o, Engine& engine, std::optional<BenchReport>& report) {
  const MpiSession& mpi = engine.mpi();
  const std::vector<RankPeaks> peaks =
      measure_peaks(mpi, mpi.holds_layers() ? &engine.pool() : nullptr, std::max(available_memory() / 4, kLeastBuffer));
  if (mpi.rank() == 0 && !report) {
    report.emplace(o.format,
                   BenchSetting{engine.manifest(), result_info(engine.manifest(), engine.plan()), o.engine.model,
                                engine.chunk_tokens(), engine.stage().options().keys, engine.stage().options().values});
  }
  for (const BenchTest& test : o.tests) {
    if (o.warm_up) {
      BenchTest warm = test;
      warm.n_gen = std::min<std::int64_t>(warm.n_gen, 1);
      std::vector<double> not_counted;
      const DriveEnd end = run_session(o, engine, warm, 1, not_counted);
      if (end.code != ExitCode::ok) return end.code;
    }
    const std::string start = utc_now();
    std::vector<double> samples_s;
    DriveEnd end = run_session(o, engine, test, o.repetitions, samples_s);
    if (end.code != ExitCode::ok) return end.code;
    if (mpi.rank() == 0) {
      const auto frames = test.n_gen > 0 ? test.n_gen : std::ssize(engine.chunks(test.n_prompt));
      report->add({test, engine.pool().size(), frames, start, std::move(samples_s), std::move(end.reports), peaks});
    }
  }
  return ExitCode::ok;
}

}  // namespace

ExitCode bench_command(const MpiSession& mpi, const Arguments& arguments) {
  BenchOptions options;
  OptionSet set("bench",
                "Measures prompts (pp) and generation (tg) as llama-bench does. Alone or under mpirun.\n"
                "Numbers may be lists (-p 128,512 -t 1,2): every combination is a row.");
  options.declare(set);
  if (!set.parse(mpi, arguments)) return ExitCode::ok;
  options.check(set);
  if (options.threads.empty()) options.threads.push_back(options.engine.threads);
  std::optional<BenchReport> report;
  for (const int threads : options.threads) {
    // Threads belong to an engine; another one maps the same files.
    options.engine.threads = threads;
    Engine engine(mpi, options.engine, [](const Manifest&, const MpiSession&) {});
    const ExitCode code = run_tests(options, engine, report);
    if (code != ExitCode::ok) return code;
    options.engine.verify = false;  // once is enough
  }
  if (report) report->finish();
  return ExitCode::ok;
}

}  // namespace jupiter

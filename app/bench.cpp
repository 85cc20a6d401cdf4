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
  EngineOptions engine;
  std::vector<int> threads;  // empty: the default
  std::vector<BenchTest> tests;
  int repetitions = 0;
  bool warm_up = true;
  BenchFormat format = BenchFormat::markdown;
};

cxxopts::Options bench_usage() {
  cxxopts::Options options("jupiter bench",
                           "Measures prompts (pp) and generation (tg) as llama-bench does. Alone or under mpirun.\n"
                           "Numbers may be lists (-p 128,512 -t 1,2): every combination is a row.");
  options.set_width(110);
  using Numbers = std::vector<std::int64_t>;
  // clang-format off
  options.add_options("Tests")
    ("p,n-prompt", "Tokens of a prompt; 0: none", cxxopts::value<Numbers>()->default_value("512"), "N")
    ("n,n-gen", "Tokens to generate; 0: none", cxxopts::value<Numbers>()->default_value("128"), "N")
    ("d,n-depth", "Tokens before them, not counted", cxxopts::value<Numbers>()->default_value("0"), "N")
    ("r,repetitions", "Runs of each test, after one that is not counted", cxxopts::value<int>()->default_value("5"), "N")
    ("no-warmup", "Count the first run too")
    ("o,output", "Format of standard output: md, csv or json", cxxopts::value<std::string>()->default_value("md"), "FORMAT");
  // clang-format on
  add_engine_options(options);
  return options;
}

std::vector<std::int64_t> sizes_option(const cxxopts::ParseResult& args, const char* option) {
  const auto sizes = args[option].as<std::vector<std::int64_t>>();
  for (const std::int64_t n : sizes) {
    if (n >= 0 && n <= kMostTokens) continue;
    throw CollectiveError(ExitCode::usage,
                          fmt::format("--{}: expected 0 to {} tokens, found {}", option, kMostTokens, n));
  }
  return sizes;
}

BenchOptions read_bench_options(const cxxopts::ParseResult& args) {
  BenchOptions o;
  o.engine = read_engine_options(args, &o.threads);
  for (const std::int64_t depth : sizes_option(args, "n-depth")) {
    for (const std::int64_t n : sizes_option(args, "n-prompt")) o.tests.push_back({n, 0, depth});
    for (const std::int64_t n : sizes_option(args, "n-gen")) o.tests.push_back({0, n, depth});
  }
  std::erase_if(o.tests, [](const BenchTest& t) { return t.tokens() == 0; });
  if (o.tests.empty()) throw CollectiveError(ExitCode::usage, "-p and -n: expected a number of tokens other than 0");
  for (const BenchTest& t : o.tests) o.engine.needed_tokens = std::max(o.engine.needed_tokens, t.n_depth + t.tokens());
  o.repetitions = args["repetitions"].as<int>();
  if (o.repetitions < 1) {
    throw CollectiveError(ExitCode::usage, fmt::format("-r: expected a positive number, found {}", o.repetitions));
  }
  o.warm_up = args.count("no-warmup") == 0;
  const auto text = args["output"].as<std::string>();
  const auto format = bench_format_from_name(text);
  if (!format) throw CollectiveError(ExitCode::usage, "-o: expected md, csv or json, found '" + text + "'");
  o.format = *format;
  return o;
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

struct Session {
  ExitCode code = ExitCode::ok;
  std::vector<double> samples_s;    // rank 0
  std::vector<RankReport> reports;  // rank 0
};

// The runs of one test on all ranks, and what each rank did meanwhile.
Session run_session(const MpiSession& mpi, const BenchOptions& o, Engine& engine, const BenchTest& test,
                    int repetitions) {
  Session s;
  RankReport report;
  const double computed_before_s = mpi.holds_layers() ? engine.stage().compute_s() : 0;
  if (mpi.rank() == 0) {
    ProgressBar bar("bench", "runs");
    Pipeline pipeline(mpi, engine.stage(), engine.pool(), engine.trace(),
                      {.deadline = o.engine.timeout, .idle = engine.idle_work()});
    Scheduler scheduler(pipeline, mpi.stages(), engine.scheduling());
    for (int i = 0; i < repetitions && interrupted_by() == ExitCode::ok; ++i) {
      bar.update(static_cast<std::uint64_t>(i), static_cast<std::uint64_t>(repetitions));
      s.samples_s.push_back(run_once(scheduler, engine, o, test));
    }
    s.code = interrupted_by();
    pipeline.stop(s.code);
    report = local_report(mpi, engine.stage(), pipeline.wait_s(), pipeline.sent_bytes());
  } else {
    s.code = engine.serve(mpi, report);
  }
  report.compute_s -= computed_before_s;
  s.reports = gather(mpi, report);
  return s;
}

// All tests with one number of threads. The report begins with the first.
ExitCode run_tests(const MpiSession& mpi, const BenchOptions& o, Engine& engine, std::optional<BenchReport>& report) {
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
      if (const Session s = run_session(mpi, o, engine, warm, 1); s.code != ExitCode::ok) return s.code;
    }
    const std::string start = utc_now();
    Session s = run_session(mpi, o, engine, test, o.repetitions);
    if (s.code != ExitCode::ok) return s.code;
    if (mpi.rank() == 0) {
      const auto frames = test.n_gen > 0 ? test.n_gen : std::ssize(engine.chunks(test.n_prompt));
      report->add({test, engine.pool().size(), frames, start, std::move(s.samples_s), std::move(s.reports), peaks});
    }
  }
  return ExitCode::ok;
}

}  // namespace

ExitCode bench_command(MpiSession& mpi, const Arguments& arguments) {
  cxxopts::Options usage = bench_usage();
  const auto args = parse(mpi, usage, arguments);
  if (!args) return ExitCode::ok;
  BenchOptions options = read_bench_options(*args);
  if (options.threads.empty()) options.threads.push_back(options.engine.threads);
  std::optional<BenchReport> report;
  for (const int threads : options.threads) {
    // Threads belong to an engine; another one maps the same files.
    options.engine.threads = threads;
    Engine engine(mpi, options.engine, [](const Manifest&) {});
    const ExitCode code = run_tests(mpi, options, engine, report);
    if (code != ExitCode::ok) return code;
    options.engine.verify = false;  // once is enough
  }
  if (report) report->finish();
  return ExitCode::ok;
}

}  // namespace jupiter

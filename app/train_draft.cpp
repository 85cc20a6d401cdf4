// jupiter train-draft: the model answers prompts of its own (or ours); what followed what becomes a draft table, and a
// head learns to guess what follows from the hidden rows.
#include <fmt/format.h>

#include <cmath>
#include <cstring>
#include <iostream>

#include "app/draft_answers.hpp"
#include "io/hash.hpp"
#include "parallel/comm/collectives.hpp"
#include "parallel/train/draft_head_session.hpp"

namespace jupiter {

namespace {

constexpr std::array<std::int64_t, kDraftOrders> kLeastCount = {1, 1, 2};
constexpr std::array<std::size_t, kDraftOrders> kMostContexts = {1u << 20, 400'000, 250'000};

cxxopts::Options train_usage() {
  cxxopts::Options options(
      "jupiter train-draft",
      "Makes the draft table and head of a model. Alone or under mpirun; a stopped run goes on where it was.");
  options.set_width(110);
  // clang-format off
  options.add_options("Draft")
    ("self", "Prompts that the model invents and answers", cxxopts::value<std::int64_t>()->default_value("3000"), "N")
    ("i,input", "Instead: prompts to answer (JSONL as for batch; messages that end with an answer keep it), or a text", cxxopts::value<std::string>(), "FILE")
    ("o,output", "Draft file to write; FILE.part.* beside it keep what is done", cxxopts::value<std::string>(), "FILE")
    ("n,predict", "Tokens of an answer at most", cxxopts::value<std::int64_t>()->default_value("192"), "N")
    ("seed", "Of invented prompts", cxxopts::value<std::uint64_t>()->default_value("1"), "N")
    ("heads-epochs", "How often the head sees all answers; 0: a table only", cxxopts::value<double>()->default_value("1"), "N")
    ("draft-vocab", "Tokens that the head chooses from at most: the most frequent ones of the answers", cxxopts::value<std::int64_t>()->default_value("8192"), "N")
    ("head-units", "Hidden units of the head", cxxopts::value<std::int64_t>()->default_value("1024"), "N")
    ("raw", "No chat template: the model goes on from single tokens")
    ("chat-template", "Template to use instead of the model's: " + ChatTemplate::names(), cxxopts::value<std::string>(), "NAME");
  // clang-format on
  add_engine_options(options);
  return options;
}

TrainOptions read_train_options(const cxxopts::ParseResult& args) {
  TrainOptions o;
  o.engine = read_engine_options(args);
  const auto refuse = [](bool wrong, const std::string& message) {
    if (wrong) throw CollectiveError(ExitCode::usage, message);
  };
  refuse(args.count("output") == 0, "train-draft: expected -o FILE (see --help)");
  refuse(args.count("input") > 0 && args.count("self") > 0, "train-draft: expected one of --self and -i, found both");
  o.output = args["output"].as<std::string>();
  if (args.count("input") > 0) o.input = args["input"].as<std::string>();
  o.self = whole_option(args, "self", 1, kMostTokens);
  o.answer_tokens = whole_option(args, "predict", 1, kMostTokens);
  o.seed = args["seed"].as<std::uint64_t>();
  o.epochs = args["heads-epochs"].as<double>();
  o.vocabulary = whole_option(args, "draft-vocab", 1, kMostTokens);
  o.units = whole_option(args, "head-units", 1, 1 << 20);
  refuse(!(o.epochs >= 0 && o.epochs <= 1000), fmt::format("--heads-epochs: expected 0 to 1000, found {}", o.epochs));
  o.raw = args.count("raw") > 0;
  if (args.count("chat-template") > 0) o.template_name = args["chat-template"].as<std::string>();
  o.engine.cache_wish = kBatchCacheTokens;
  o.engine.wished_tokens = std::max<std::int64_t>(1024, 2 * o.answer_tokens);
  return o;
}

// Rank 0's side of the pipeline's work.
class Trainer {
 public:
  Trainer(const TrainOptions& options, const Manifest& manifest)
      : options_(options), manifest_(manifest), answers_(options, manifest), counts_(manifest.config.vocab_size) {}

  // Answers, tables and hidden rows; a signal's exit code where one came. hidden_key: of the rows that are there.
  ExitCode run(Scheduler& scheduler, Pipeline& pipeline, const Scheduler::Options& scheduling,
               const std::string& hidden_key) {
    if (const ExitCode code = answers_.run(scheduler); code != ExitCode::ok) return code;
    answers_.read(counts_, training_answers_, scheduling.context_tokens);
    if (!wants_head()) training_answers_ = {};
    try {
      sweep(pipeline);
      if (wants_head() && training_answers_.key() != hidden_key) show_hidden(pipeline, scheduling);
    } catch (const Error& e) {
      if (e.code() != interrupted_by()) throw;
    }
    return interrupted_by();
  }

  bool wants_head() const { return options_.epochs > 0 && !training_answers_.windows.empty(); }
  TrainingAnswers take_answers() { return std::move(training_answers_); }

  void write(std::span<const NextTokens> singles, std::optional<SequentialHead> head) {
    DraftData data = empty_draft(manifest_);
    data.made_from = answers_.made_from();
    data.tokens = counts_.tokens();
    for (std::size_t i = 0; i < kDraftOrders; ++i) {
      data.tables[i] = counts_.table(i + 1, kLeastCount[i], kMostContexts[i]);
    }
    data.tables[0] = blend_single(data.tables[0], singles);
    data.sequential = std::move(head);
    write_draft(options_.output, data);
    answers_.remove_checkpoint();
    std::error_code ignored;
    std::filesystem::remove(options_.state(), ignored);
    std::cerr << fmt::format("{}: {} tokens counted; contexts of 1, 2, 3 tokens: {}, {}, {}; {:.1f} MB\n",
                             options_.output, data.tokens, data.tables[0].contexts(), data.tables[1].contexts(),
                             data.tables[2].contexts(),
                             static_cast<double>(std::filesystem::file_size(options_.output)) / 1e6);
  }

 private:
  static void stop_if_interrupted() {
    if (interrupted_by() != ExitCode::ok) throw Error(interrupted_by(), "interrupted");
  }

  void sweep(Pipeline& pipeline) {
    ProgressBar bar("train-draft", "single tokens");
    const std::int64_t vocab_size = manifest_.config.vocab_size;
    sweep_single_tokens(pipeline, answers_.sweep_prefix(), vocab_size, [&](std::int64_t done) {
      stop_if_interrupted();
      bar.update(static_cast<std::uint64_t>(done), static_cast<std::uint64_t>(vocab_size));
    });
  }

  void show_hidden(Pipeline& pipeline, const Scheduler::Options& scheduling) {
    ProgressBar bar("train-draft", "hidden rows of answers");
    submit_windows(
        pipeline, training_answers_.tokens, training_answers_.windows, scheduling.chunks,
        [&](std::size_t done) {
          stop_if_interrupted();
          bar.update(done, training_answers_.windows.size());
        },
        FrameRun::hidden);
  }

  const TrainOptions& options_;
  const Manifest& manifest_;
  DraftAnswers answers_;
  NgramCounts counts_;
  TrainingAnswers training_answers_;
};

ExitCode drive(const MpiSession& mpi, const TrainOptions& o, Engine& engine, Trainer& trainer,
               const std::string& hidden_key) {
  Pipeline pipeline(mpi, engine.stage(), engine.pool(), engine.trace(), {.deadline = o.engine.timeout});
  const Scheduler::Options scheduling = engine.scheduling();
  Scheduler scheduler(pipeline, mpi.stages(), scheduling);
  const ExitCode code = trainer.run(scheduler, pipeline, scheduling, hidden_key);
  pipeline.stop(code);
  return code;
}

// Collective. None where the head is not wanted, or a signal came.
std::optional<SequentialHead> train_head(const MpiSession& mpi, const TrainOptions& o, Engine& engine, Trainer* trainer,
                                         HiddenFile* hidden, ExitCode& code) {
  const bool wanted = broadcast(mpi, trainer != nullptr && trainer->wants_head());
  if (!wanted) return std::nullopt;
  TrainingAnswers answers = trainer != nullptr ? trainer->take_answers() : TrainingAnswers{};
  const std::string key = broadcast(mpi, answers.key());
  const std::int64_t rows = broadcast(mpi, answers.rows());
  if (hidden != nullptr && hidden->found() != key) hidden->finish(key, rows);
  std::optional<ThreadPool> own;  // ranks that hold no layers have none
  if (!mpi.holds_layers()) own.emplace(ThreadPool::Options{.threads = default_threads(mpi), .share_cores = true});
  const Runtime rt{kernels(), own ? *own : engine.pool()};
  DraftHeadSources sources;
  if (hidden != nullptr) sources = {hidden, &engine.stage().output_head()};
  DraftHeadSessionOptions session_options;
  session_options.units = o.units;
  session_options.vocabulary = o.vocabulary;
  session_options.epochs = o.epochs;
  session_options.seed = o.seed;
  session_options.state = o.state();
  session_options.deadline = o.engine.timeout;
  DraftHeadSession session(mpi, rt, engine.config(), std::move(answers), sources, session_options);
  auto head = session.run([&](const std::string& line) {
    if (mpi.rank() == 0) std::cerr << line << "\n";
  });
  code = session.stopped_by();
  return head;
}

}  // namespace

ExitCode train_draft_command(MpiSession& mpi, const Arguments& arguments) {
  cxxopts::Options usage = train_usage();
  const auto args = parse(mpi, usage, arguments);
  if (!args) return ExitCode::ok;
  TrainOptions options = read_train_options(*args);
  std::optional<Trainer> trainer;
  Engine engine(mpi, options.engine, [&](const Manifest& manifest) {
    if (!mpi.is_launcher()) {
      throw UsageError(fmt::format(
          "train-draft reads and writes on mpirun's first rank: list host {} first (the plan's first board)",
          mpi.host()));
    }
    trainer.emplace(options, manifest);
  });
  SingleTokens singles(kernels());
  std::optional<HiddenFile> hidden;  // the last stage's
  if (mpi.rank() + 1 == mpi.stages()) {
    hidden.emplace(options.hidden(), engine.config().dim);
    engine.stage().set_logits_sink(singles.sink());
    engine.stage().set_hidden_sink(hidden->sink(kernels()));
  }
  const int last = mpi.stages() - 1;
  const std::string found =
      broadcast(mpi, hidden && options.epochs > 0 ? hidden->found() : std::string(), last, options.engine.timeout);
  RankReport report;
  ExitCode code = mpi.rank() == 0 ? drive(mpi, options, engine, *trainer, found) : engine.serve(mpi, report);
  if (code != ExitCode::ok) return code;
  const auto rows = broadcast(mpi, singles.rows(), last, options.engine.timeout);
  auto head = train_head(mpi, options, engine, trainer ? &*trainer : nullptr, hidden ? &*hidden : nullptr, code);
  if (code != ExitCode::ok) return code;
  if (mpi.rank() == 0) trainer->write(rows, std::move(head));
  barrier(mpi);  // nobody leaves before the file is written
  if (hidden) hidden->remove();
  return ExitCode::ok;
}

}  // namespace jupiter

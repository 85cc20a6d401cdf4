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

void TrainOptions::declare(OptionSet& options) {
  // clang-format off
  options.group("Draft");
  options.number("self", self, {1, kMostTokens}, "N", "Prompts that the model invents and answers");
  options.text("i,input", input, "FILE", "Instead: prompts to answer (JSONL as for batch; messages that end with an answer keep it), or a text");
  options.text("o,output", output, "FILE", "Draft file to write; FILE.part.* beside it keep what is done");
  options.number("n,predict", answer_tokens, {1, kMostTokens}, "N", "Tokens of an answer at most");
  options.number("seed", seed, {0, UINT64_MAX}, "N", "Of invented prompts");
  options.number("heads-epochs", epochs, {0, 1000}, "N", "How often the head sees all answers; 0: a table only");
  options.number("draft-vocab", vocabulary, {1, kMostTokens}, "N", "Tokens that the head chooses from at most: the most frequent ones of the answers");
  options.number("head-units", units, {1, 1 << 20}, "N", "Hidden units of the head");
  options.flag("raw", raw, "No chat template: the model goes on from single tokens");
  options.text("chat-template", template_name, "NAME", "Template to use instead of the model's: " + ChatTemplate::names());
  // clang-format on
  engine.declare(options);
}

void TrainOptions::check(const OptionSet& options) {
  engine.check(options);
  refuse(output.empty(), "train-draft: expected -o FILE (see --help)");
  refuse(!input.empty() && options.given("self"), "train-draft: expected one of --self and -i, found both");
  engine.cache_wish = kBatchCacheTokens;
  engine.wished_tokens = std::max<std::int64_t>(1024, 2 * answer_tokens);
}

namespace {

constexpr std::array<std::int64_t, kDraftOrders> kLeastCount = {1, 1, 2};
constexpr std::array<std::size_t, kDraftOrders> kMostContexts = {1u << 20, 400'000, 250'000};

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

// Collective. None where the head is not wanted, or a signal came.
std::optional<SequentialHead> train_head(const TrainOptions& o, Engine& engine, Trainer* trainer, HiddenFile* hidden,
                                         ExitCode& code) {
  const MpiSession& mpi = engine.mpi();
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
  session_options.deadline = o.engine.timeout();
  DraftHeadSession session(mpi, rt, engine.config(), std::move(answers), sources, session_options);
  auto head = session.run([&](const std::string& line) {
    if (mpi.rank() == 0) std::cerr << line << "\n";
  });
  code = session.stopped_by();
  return head;
}

}  // namespace

ExitCode train_draft_command(const MpiSession& started, const Arguments& arguments) {
  TrainOptions options;
  OptionSet set(
      "train-draft",
      "Makes the draft table and head of a model. Alone or under mpirun; a stopped run goes on where it was.");
  options.declare(set);
  if (!set.parse(started, arguments)) return ExitCode::ok;
  options.check(set);
  std::optional<Trainer> trainer;  // rank 0's
  Engine engine(started, options.engine, [&](const Manifest& manifest, const MpiSession& ranks) {
    if (!ranks.is_launcher()) {
      throw UsageError(fmt::format(
          "train-draft reads and writes on mpirun's first rank: list host {} first (the plan's first board)",
          ranks.host()));
    }
    trainer.emplace(options, manifest);
  });
  const MpiSession& mpi = engine.mpi();
  SingleTokens singles(kernels());
  std::optional<HiddenFile> hidden;  // the last stage's
  if (mpi.rank() + 1 == mpi.stages()) {
    hidden.emplace(options.hidden(), engine.config().dim);
    engine.stage().set_logits_sink(singles.sink());
    engine.stage().set_hidden_sink(hidden->sink(kernels()));
  }
  const int last = mpi.stages() - 1;
  const std::string found =
      broadcast(mpi, hidden && options.epochs > 0 ? hidden->found() : std::string(), last, options.engine.timeout());
  ExitCode code = engine
                      .drive([&](Pipeline& pipeline, Scheduler& scheduler) {
                        return trainer->run(scheduler, pipeline, engine.scheduling(), found);
                      })
                      .code;
  if (code != ExitCode::ok) return code;
  const auto rows = broadcast(mpi, singles.rows(), last, options.engine.timeout());
  auto head = train_head(options, engine, trainer ? &*trainer : nullptr, hidden ? &*hidden : nullptr, code);
  if (code != ExitCode::ok) return code;
  if (mpi.rank() == 0) trainer->write(rows, std::move(head));
  barrier(mpi);  // nobody leaves before the file is written
  if (hidden) hidden->remove();
  return ExitCode::ok;
}

}  // namespace jupiter

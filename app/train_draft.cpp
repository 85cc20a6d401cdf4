// jupiter train-draft: the model answers prompts of its own (or ours), and what followed what becomes a draft table.
#include <fmt/format.h>

#include <cstring>
#include <fstream>
#include <iostream>

#include "app/engine.hpp"
#include "app/request_file.hpp"
#include "io/files.hpp"
#include "io/hash.hpp"
#include "io/json_fields.hpp"
#include "io/progress.hpp"
#include "parallel/draft_training.hpp"

namespace jupiter {

namespace {

constexpr std::int64_t kCacheTokens = 32768;     // of all requests together
constexpr std::size_t kWaiting = 64;             // requests that are prepared ahead
constexpr std::int64_t kQuestionTokens = 64;     // of a prompt that the model invents
constexpr std::int64_t kMaxTokens = 16'000'000;  // counted at most: memory is 20 bytes a token
constexpr std::array<std::int64_t, kDraftOrders> kLeastCount = {1, 1, 2};
constexpr std::array<std::size_t, kDraftOrders> kMostContexts = {1u << 20, 400'000, 250'000};

struct TrainOptions {
  EngineOptions engine;
  std::string input, output, template_name;
  std::int64_t self = 0;
  std::int64_t answer_tokens = 0;
  std::uint64_t seed = 0;
  bool raw = false;
  std::string checkpoint() const { return output + ".part.jsonl"; }
};

cxxopts::Options train_usage() {
  cxxopts::Options options(
      "jupiter train-draft",
      "Makes the draft table of a model. Alone or under mpirun; a stopped run goes on where it was.");
  options.set_width(110);
  // clang-format off
  options.add_options("Draft")
    ("self", "Prompts that the model invents and answers", cxxopts::value<std::int64_t>()->default_value("3000"), "N")
    ("i,input", "Instead: prompts to answer (JSONL as for batch), or a text whose tokens are counted", cxxopts::value<std::string>(), "FILE")
    ("o,output", "Draft file to write; FILE.part.jsonl beside it keeps what is done", cxxopts::value<std::string>(), "FILE")
    ("n,predict", "Tokens of an answer at most", cxxopts::value<std::int64_t>()->default_value("192"), "N")
    ("seed", "Of invented prompts", cxxopts::value<std::uint64_t>()->default_value("1"), "N")
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
  o.self = args["self"].as<std::int64_t>();
  o.answer_tokens = args["predict"].as<std::int64_t>();
  o.seed = args["seed"].as<std::uint64_t>();
  o.raw = args.count("raw") > 0;
  if (args.count("chat-template") > 0) o.template_name = args["chat-template"].as<std::string>();
  refuse(o.self < 1, fmt::format("--self: expected a positive number, found {}", o.self));
  refuse(o.answer_tokens < 1, fmt::format("-n: expected a positive number, found {}", o.answer_tokens));
  o.engine.cache_tokens = kCacheTokens;
  o.engine.wished_tokens = std::max<std::int64_t>(1024, 2 * o.answer_tokens);
  return o;
}

// The template's text in front of what a user writes.
std::vector<PromptSegment> before_user(const ChatTemplate& chat) {
  const std::string mark = "\x01";
  std::vector<PromptSegment> before;
  for (PromptSegment s : chat.render({{"user", mark}}, true)) {
    const auto at = s.text.find(mark);
    if (at != std::string::npos) s.text.resize(at);
    if (!s.text.empty()) before.push_back(s);
    if (at != std::string::npos) break;
  }
  return before;
}

// Rank 0's side: prompts, answers, the checkpoint, the file.
class Trainer {
 public:
  Trainer(const TrainOptions& options, const Manifest& manifest)
      : options_(options),
        manifest_(manifest),
        tokenizer_(load_tokenizer(options.engine.model, manifest, options.engine.verify)),
        counts_(manifest.config.vocab_size) {
    check_writable(options.output);
    if (!options.raw) template_ = choose_template(tokenizer_, options.template_name);
    if (options.input.empty()) {
      total_ = static_cast<std::size_t>(options.self);
      made_from_ = fmt::format("self: seed {}, {} tokens", options.seed, options.answer_tokens);
    } else {
      read_input();
    }
    if (total_ > 0) checkpoint_.emplace(options.checkpoint(), true, hex(manifest.hash));
  }

  // Everything up to the table; a signal's exit code where one came.
  ExitCode run(Scheduler& scheduler, Pipeline& pipeline) {
    {
      ProgressBar bar("train-draft", "answers");
      while (next_ < total_ && interrupted_by() == ExitCode::ok) {
        feed(scheduler, bar);
        scheduler.run();
      }
    }
    if (interrupted_by() != ExitCode::ok) return interrupted_by();
    ProgressBar bar("train-draft", "single tokens");
    const std::int64_t vocab_size = manifest_.config.vocab_size;
    try {
      sweep_single_tokens(pipeline, sweep_prefix(), vocab_size, [&](std::int64_t done) {
        if (interrupted_by() != ExitCode::ok) throw Error(interrupted_by(), "interrupted");
        bar.update(static_cast<std::uint64_t>(done), static_cast<std::uint64_t>(vocab_size));
      });
    } catch (const Error& e) {
      if (e.code() != interrupted_by()) throw;
    }
    return interrupted_by();
  }

  void write(std::span<const NextTokens> singles) {
    if (checkpoint_) count_checkpoint();
    DraftData data{draft_identity(manifest_), hex(manifest_.hash), made_from_, counts_.tokens(), {}};
    for (std::size_t i = 0; i < kDraftOrders; ++i) {
      data.tables[i] = counts_.table(i + 1, kLeastCount[i], kMostContexts[i]);
    }
    data.tables[0] = blend_single(data.tables[0], singles);
    write_draft(options_.output, data);
    checkpoint_.reset();
    std::error_code ignored;
    std::filesystem::remove(options_.checkpoint(), ignored);
    std::cerr << fmt::format("{}: {} tokens counted; contexts of 1, 2, 3 tokens: {}, {}, {}; {:.1f} MB\n",
                             options_.output, data.tokens, data.tables[0].contexts(), data.tables[1].contexts(),
                             data.tables[2].contexts(),
                             static_cast<double>(std::filesystem::file_size(options_.output)) / 1e6);
  }

 private:
  void read_input() {
    const std::string text = read_file(options_.input, std::uint64_t{1} << 30);
    made_from_ = hex(hash_bytes(text));
    if (options_.input.ends_with(".jsonl")) {
      requests_ = read_requests(text, options_.input, {});
      for (const BatchRequest& r : requests_) {
        if (!r.fault.empty()) throw FormatError(r.fault);
      }
      total_ = requests_.size();
      return;
    }
    check_utf8(text, options_.input, ExitCode::invalid_file);
    const auto tokens = tokenizer_.encode(text, options_.raw);
    count(tokens, 0);
  }

  void count(std::span<const TokenId> sequence, std::size_t from) {
    if (counts_.tokens() < kMaxTokens) counts_.add(sequence, from);
  }

  std::string id_of(std::size_t i) const { return fmt::format("{} #{}", made_from_, i); }

  void feed(Scheduler& scheduler, ProgressBar& bar) {
    for (; next_ < total_ && scheduler.waiting() < kWaiting; ++next_) {
      if (checkpoint_->done().contains(nlohmann::json(id_of(next_)).dump())) {
        ++done_;
      } else if (requests_.empty()) {
        invent(scheduler, bar, next_);
      } else {
        const BatchRequest& r = requests_[next_];
        answer(scheduler, bar, next_, tokens_of(r.messages, r.prompt));
      }
    }
  }

  std::vector<TokenId> tokens_of(std::vector<ChatMessage> messages, const std::string& prompt) const {
    if (messages.empty()) messages.push_back({"user", prompt});
    if (!template_) return encode_segments(tokenizer_, {{messages.back().content, true}});
    return encode_segments(tokenizer_, template_->render(messages, true));
  }

  // The model plays the user: it goes on from an empty turn, or without a template from some token.
  void invent(Scheduler& scheduler, ProgressBar& bar, std::size_t i) {
    Request request;
    if (template_) {
      request.prompt = encode_segments(tokenizer_, before_user(*template_));
    } else {
      const double u = uniform(options_.seed, static_cast<std::int64_t>(i), 0);
      request.prompt = {static_cast<TokenId>(u * static_cast<double>(manifest_.config.vocab_size))};
    }
    request.sampling.temperature = 1;
    request.sampling.top_k = 100;
    request.sampling.top_p = 0.98f;
    request.sampling.min_p = 0.02f;
    request.sampling.seed = options_.seed + i;
    request.max_new_tokens = kQuestionTokens;
    request.end_tokens = tokenizer_.data().end_of_turn;
    const auto before = request.prompt;
    request.on_done = [this, before, i, &scheduler, &bar](Generated&& g) {
      if (interrupted_by() != ExitCode::ok) return;
      if (template_) {
        answer(scheduler, bar, i, tokens_of({}, tokenizer_.decode(g.tokens)));
      } else {
        std::vector<TokenId> prompt = before;
        prompt.insert(prompt.end(), g.tokens.begin(), g.tokens.end());
        answer(scheduler, bar, i, std::move(prompt));
      }
    };
    scheduler.add(std::move(request));
  }

  void answer(Scheduler& scheduler, ProgressBar& bar, std::size_t i, std::vector<TokenId> prompt) {
    Request request;
    request.prompt = std::move(prompt);
    request.max_new_tokens = options_.answer_tokens;
    request.end_tokens = tokenizer_.data().end_of_turn;
    const auto before = request.prompt;
    request.on_done = [this, before, i, &scheduler, &bar](Generated&& g) {
      if (interrupted_by() != ExitCode::ok) return;  // cut short: not an answer
      const nlohmann::ordered_json line = {{"id", id_of(i)},
                                           {"prompt_token_ids", before},
                                           {"generated_token_ids", g.tokens},
                                           {"model_hash", hex(manifest_.hash)}};
      checkpoint_->write(line.dump());
      bar.update(++done_, total_);
      feed(scheduler, bar);
    };
    scheduler.add(std::move(request));
  }

  void count_checkpoint() {
    std::ifstream in(options_.checkpoint());
    std::string text;
    for (std::int64_t line = 1; std::getline(in, text); ++line) {
      const JsonObject o = parse_json_object(text, fmt::format("{}: line {}", options_.checkpoint(), line));
      std::vector<TokenId> sequence;
      std::size_t from = 0;
      for (const char* field : {"prompt_token_ids", "generated_token_ids"}) {
        from = sequence.size();
        for (const std::int64_t t : o.ints(field)) {
          if (t < 0 || t >= manifest_.config.vocab_size) {
            o.fail(field, fmt::format("tokens below {}", manifest_.config.vocab_size), std::to_string(t));
          }
          sequence.push_back(static_cast<TokenId>(t));
        }
      }
      count(sequence, from);
    }
  }

  // What stands before the first token of an answer; a token alone at position 0 says little of its usual followers.
  std::vector<TokenId> sweep_prefix() const {
    const auto tokens = template_ ? tokens_of({}, "") : std::vector<TokenId>{};
    return tokens.empty() ? std::vector<TokenId>{std::max<TokenId>(tokenizer_.data().bos, 0)} : tokens;
  }

  const TrainOptions& options_;
  const Manifest& manifest_;
  Tokenizer tokenizer_;
  std::optional<ChatTemplate> template_;
  std::vector<BatchRequest> requests_;
  std::string made_from_;
  DraftCounts counts_;
  std::optional<AnswerFile> checkpoint_;
  std::size_t next_ = 0, total_ = 0, done_ = 0;
};

ExitCode drive(const MpiSession& mpi, const TrainOptions& o, Engine& engine, Trainer& trainer) {
  Pipeline pipeline(mpi, engine.stage(), engine.pool(), engine.trace(), {.deadline = o.engine.timeout});
  Scheduler scheduler(pipeline, mpi.stages(), engine.scheduling());
  const ExitCode code = trainer.run(scheduler, pipeline);
  pipeline.stop(code);
  return code;
}

// The last stage's rows on rank 0.
std::vector<NextTokens> gather_rows(const MpiSession& mpi, const std::vector<NextTokens>& mine) {
  const std::string bytes(reinterpret_cast<const char*>(mine.data()), mine.size() * sizeof(NextTokens));
  const auto all = gather_text(mpi, bytes);
  std::vector<NextTokens> rows;
  if (mpi.rank() != 0) return rows;
  const std::string& last = all[static_cast<std::size_t>(mpi.stages() - 1)];
  rows.resize(last.size() / sizeof(NextTokens));
  if (!rows.empty()) std::memcpy(rows.data(), last.data(), last.size());
  return rows;
}

}  // namespace

ExitCode train_draft_command(MpiSession& mpi, const Arguments& arguments) {
  cxxopts::Options usage = train_usage();
  const auto args = parse(mpi, usage, arguments);
  if (!args) return ExitCode::ok;
  const TrainOptions options = read_train_options(*args);
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
  if (mpi.rank() + 1 == mpi.stages()) engine.stage().set_logits_sink(singles.sink());
  RankReport report;
  const ExitCode code = mpi.rank() == 0 ? drive(mpi, options, engine, *trainer) : engine.serve(mpi, report);
  if (code != ExitCode::ok) return code;
  const auto rows = gather_rows(mpi, singles.rows());
  if (mpi.rank() == 0) trainer->write(rows);
  broadcast_text(mpi, "");  // nobody leaves before the file is written
  return ExitCode::ok;
}

}  // namespace jupiter

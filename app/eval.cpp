// jupiter eval: perplexity of a text, KL divergence from saved distributions.
#include <fmt/format.h>

#include <iostream>
#include <nlohmann/json.hpp>

#include "app/engine.hpp"
#include "io/files.hpp"
#include "io/hash.hpp"
#include "io/progress.hpp"
#include "io/tokenizer.hpp"
#include "parallel/evaluate.hpp"

namespace jupiter {

namespace {

struct EvalOptions {
  EngineOptions engine;
  std::string text_file;
  std::string save_reference;
  std::string reference;
  std::string json_file;
  std::int64_t window = 512;
  std::int64_t stride = 0;
  std::int64_t tokens = 0;
};

cxxopts::Options eval_usage() {
  cxxopts::Options options("jupiter eval",
                           "Perplexity of a text; KL divergence from saved distributions. Alone or under mpirun.");
  options.set_width(110);
  // clang-format off
  options.add_options("Evaluation")
    ("text", "Text file", cxxopts::value<std::string>(), "FILE")
    ("window", "Tokens evaluated together; the first of a window is not scored", cxxopts::value<std::int64_t>()->default_value("512"), "N")
    ("stride", "Tokens between the beginnings of windows (default: the window)", cxxopts::value<std::int64_t>(), "N")
    ("tokens", "Only the first N tokens of the text", cxxopts::value<std::int64_t>(), "N")
    ("save-reference", "Save the distributions to compare others with (HDF5)", cxxopts::value<std::string>(), "FILE")
    ("reference", "Compare with saved distributions: KL divergence, top-1 agreement", cxxopts::value<std::string>(), "FILE")
    ("json", "Write the results to this file", cxxopts::value<std::string>(), "FILE");
  // clang-format on
  add_engine_options(options);
  return options;
}

EvalOptions read_eval_options(const cxxopts::ParseResult& args) {
  EvalOptions o;
  o.engine = read_engine_options(args);
  const auto refuse = [](bool wrong, const std::string& message) {
    if (wrong) throw CollectiveError(ExitCode::usage, message);
  };
  refuse(args.count("text") == 0, "eval: expected --text FILE (see --help)");
  refuse(!o.engine.plan.empty(), "eval: --plan is not supported");
  o.text_file = args["text"].as<std::string>();
  o.window = args["window"].as<std::int64_t>();
  o.stride = args.count("stride") > 0 ? args["stride"].as<std::int64_t>() : o.window;
  if (args.count("tokens") > 0) o.tokens = args["tokens"].as<std::int64_t>();
  if (args.count("save-reference") > 0) o.save_reference = args["save-reference"].as<std::string>();
  if (args.count("reference") > 0) o.reference = args["reference"].as<std::string>();
  if (args.count("json") > 0) o.json_file = args["json"].as<std::string>();
  refuse(o.window < 2, fmt::format("--window: expected at least 2, found {}", o.window));
  refuse(o.stride < 1 || o.stride > o.window, fmt::format("--stride: expected 1 to {}, found {}", o.window, o.stride));
  refuse(args.count("tokens") > 0 && o.tokens < 2, fmt::format("--tokens: expected at least 2, found {}", o.tokens));
  o.engine.needed_tokens = o.window;
  return o;
}

std::vector<TokenId> read_tokens(const EvalOptions& o, const Manifest& manifest) {
  const std::string text = read_file(o.text_file, 1 << 30);
  if (text.empty()) throw UsageError(o.text_file + ": expected a text, found nothing");
  const Tokenizer tokenizer(load_tokenizer(o.engine.model, manifest, o.engine.verify));
  std::vector<TokenId> tokens = tokenizer.encode(text, false);
  if (o.tokens > 0 && static_cast<std::int64_t>(tokens.size()) > o.tokens) {
    tokens.resize(static_cast<std::size_t>(o.tokens));
  }
  if (tokens.size() < 2) throw UsageError(o.text_file + ": expected at least two tokens, found one");
  return tokens;
}

std::vector<TokenId> broadcast_tokens(const MpiSession& mpi, const std::vector<TokenId>& tokens) {
  const std::string bytes =
      broadcast_text(mpi, {reinterpret_cast<const char*>(tokens.data()), tokens.size() * sizeof(TokenId)});
  std::vector<TokenId> all(bytes.size() / sizeof(TokenId));
  std::copy_n(bytes.data(), all.size() * sizeof(TokenId), reinterpret_cast<char*>(all.data()));
  return all;
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
  differs("window_tokens", o.window, info.window);
  differs("number of tokens", static_cast<std::int64_t>(tokens.size()), static_cast<std::int64_t>(info.tokens.size()));
  if (info.tokens != tokens) throw FormatError(o.reference, "tokens", "those of the text", "others");
}

Instruments make_instruments(const MpiSession& mpi, const EvalOptions& o, Engine& engine,
                             const std::vector<TokenId>& tokens, const std::vector<EvalWindow>& windows) {
  Instruments i;
  RankStatus status;
  try {
    if (mpi.rank() + 1 == mpi.stages()) {
      if (!o.reference.empty()) {
        i.reference = std::make_unique<ReferenceFile>(o.reference);
        check_reference(i.reference->info(), o, tokens, engine.config().vocab_size);
      }
      if (!o.save_reference.empty()) {
        i.writer = std::make_unique<ReferenceWriter>(
            o.save_reference, ReferenceInfo{tokens, o.window, engine.config().vocab_size, hex(engine.manifest().hash)});
      }
      i.evaluator = std::make_unique<Evaluator>(kernels(), tokens, windows, i.reference.get(), i.writer.get());
      engine.stage().set_logits_sink(i.evaluator->sink());
    }
  } catch (const Error& e) {
    status.problem = e;
  }
  agree(mpi, status);
  return i;
}

nlohmann::ordered_json result_json(const EvalOptions& o, const EvalResult& r, const std::string& model_hash,
                                   int ranks) {
  nlohmann::ordered_json j = {{"version", JUPITER_VERSION},
                              {"model_hash", model_hash},
                              {"kernels", kernels().name},
                              {"ranks", ranks},
                              {"window_tokens", o.window},
                              {"stride_tokens", o.stride},
                              {"scored_tokens", r.scored_tokens},
                              {"mean_nll_nats", r.mean_nll},
                              {"nll_stderr_nats", r.nll_stderr},
                              {"perplexity", r.perplexity},
                              {"perplexity_stderr", r.perplexity * r.nll_stderr},
                              {"window_nll_nats", r.window_nll}};
  if (r.kl) {
    j["kl_mean_nats"] = r.kl->mean;
    j["kl_median_nats"] = r.kl->median;
    j["kl_p99_nats"] = r.kl->percentile_99;
    j["kl_max_nats"] = r.kl->max;
    j["top1_agreement"] = r.top1_agreement;
  }
  return j;
}

void print_result(const nlohmann::ordered_json& j) {
  std::string text = fmt::format("perplexity {:.4f} +- {:.4f} over {} tokens (windows of {}, stride {})\n",
                                 j["perplexity"].get<double>(), j["perplexity_stderr"].get<double>(),
                                 j["scored_tokens"].get<std::int64_t>(), j["window_tokens"].get<std::int64_t>(),
                                 j["stride_tokens"].get<std::int64_t>());
  if (j.contains("kl_mean_nats")) {
    text += fmt::format(
        "KL from the reference: mean {:.6f}, median {:.6f}, 99 % {:.6f}, max {:.6f} nats; top-1 agreement {:.2f} %\n",
        j["kl_mean_nats"].get<double>(), j["kl_median_nats"].get<double>(), j["kl_p99_nats"].get<double>(),
        j["kl_max_nats"].get<double>(), j["top1_agreement"].get<double>() * 100);
  }
  print(text);
}

}  // namespace

ExitCode eval_command(MpiSession& mpi, const Arguments& arguments) {
  cxxopts::Options usage = eval_usage();
  const auto args = parse(mpi, usage, arguments);
  if (!args) return ExitCode::ok;
  const EvalOptions o = read_eval_options(*args);
  std::vector<TokenId> tokens;
  Engine engine(mpi, o.engine, [&](const Manifest& manifest) {
    if (!o.json_file.empty()) check_writable(o.json_file);
    tokens = read_tokens(o, manifest);
  });
  tokens = broadcast_tokens(mpi, tokens);
  const auto windows = eval_windows(static_cast<std::int64_t>(tokens.size()), o.window, o.stride);
  Instruments instruments = make_instruments(mpi, o, engine, tokens, windows);

  ExitCode code = ExitCode::ok;
  if (mpi.rank() == 0) {
    Pipeline pipeline(mpi, engine.stage(), engine.pool(), engine.trace(), {.deadline = o.engine.timeout});
    ProgressBar bar("eval", "windows");
    submit_windows(
        pipeline, tokens, windows, [&](std::int64_t n) { return engine.chunks(n); },
        [&](std::size_t done) {
          if (interrupted_by() != ExitCode::ok) throw Error(interrupted_by(), "interrupted");
          bar.update(done, windows.size());
        });
    pipeline.stop(code);
  } else {
    RankReport report;
    code = engine.serve(mpi, report);
  }
  std::string text;
  if (instruments.evaluator) {
    if (instruments.writer) instruments.writer->finish();
    text = result_json(o, instruments.evaluator->result(), hex(engine.manifest().hash), mpi.stages()).dump();
  }
  const auto all = gather_text(mpi, text);
  if (mpi.rank() == 0) {
    const auto j = nlohmann::ordered_json::parse(all[static_cast<std::size_t>(mpi.stages() - 1)]);
    print_result(j);
    if (!o.json_file.empty()) write_file_atomically(o.json_file, j.dump(1) + "\n");
  }
  broadcast_text(mpi, "");
  return code;
}

}  // namespace jupiter

// jupiter plan: from a profile to a plan; no weights are loaded.
#include "parallel/plan/plan.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <iostream>

#include "app/command.hpp"
#include "app/engine.hpp"
#include "app/result_info.hpp"
#include "io/files.hpp"
#include "io/hash.hpp"
#include "parallel/draft_model/draft_model.hpp"
#include "parallel/plan/draft_placement.hpp"
#include "parallel/plan/simulator.hpp"

namespace jupiter {

namespace {

constexpr std::int64_t kMaxTokens = 1 << 28;
constexpr std::int64_t kMaxRequests = 1 << 20;

cxxopts::Options plan_usage() {
  cxxopts::Options options("jupiter plan", "Chooses boards, layers and chunks from a profile, and predicts the times.");
  options.set_width(110);
  // clang-format off
  options.add_options()
    ("m,model", "Model folder (its manifest is read)", cxxopts::value<std::string>(), "DIR")
    ("cluster", "Profile that `profile` wrote", cxxopts::value<std::string>()->default_value("cluster.json"), "FILE")
    ("o,output", "Plan to write", cxxopts::value<std::string>(), "FILE")
    ("p,n-prompt", "Prompt tokens of the workload", cxxopts::value<std::int64_t>()->default_value("512"), "N")
    ("n,n-gen", "New tokens of the workload", cxxopts::value<std::int64_t>()->default_value("128"), "N")
    ("max-chunk", "Longest chunk, tokens (default: 512)", cxxopts::value<std::int64_t>(), "N")
    ("objective", "latency, prefill or throughput", cxxopts::value<std::string>()->default_value("latency"), "NAME")
    ("wire", "Residual between ranks that the runs will use: exact or q8", cxxopts::value<std::string>()->default_value("exact"), "NAME")
    ("draft-model", "Also finds a board for this draft model (run --draft model=DIR), and counts its memory", cxxopts::value<std::string>(), "DIR")
    ("all-rows", "Every prompt row passes the head (evaluation)")
    ("without", "Leave this host's boards out (may stand there several times)", cxxopts::value<std::vector<std::string>>(), "HOST")
    ("memory", "Budget of each board, MiB, instead of the profile's: one number, or one a board", cxxopts::value<std::vector<std::int64_t>>(), "MIB")
    ("explain", "What other splits would have cost")
    ("simulate", "Draw the schedule of the prompt");
  options.add_options("What memory must hold (runs obey it; defaults: those of run, with --objective throughput those of batch)")
    ("c,ctx-size", "Context of a request, tokens (default: the model's)", cxxopts::value<std::int64_t>(), "N")
    ("parallel", "Requests at a time at most", cxxopts::value<std::int64_t>(), "N")
    ("cache-tokens", "Positions in the KV cache, of all requests together", cxxopts::value<std::int64_t>(), "N")
    ("cache-type-k", "-ctk: type of cached keys: f16, f32 or q8_0 (default: f16, or f32 with f32 weights)", cxxopts::value<std::string>(), "TYPE")
    ("cache-type-v", "-ctv: type of cached values", cxxopts::value<std::string>(), "TYPE")
    ("decode", "spec or plain", cxxopts::value<std::string>()->default_value("spec"), "MODE")
    ("draft-max", "Drafted tokens of a segment at most", cxxopts::value<int>()->default_value("16"), "N");
  // clang-format on
  return options;
}

PlanRequest read_request(const cxxopts::ParseResult& args) {
  PlanRequest r;
  r.prompt_tokens = whole_option(args, "n-prompt", 1, kMostTokens);
  r.new_tokens = whole_option(args, "n-gen", 0, kMostTokens);
  const auto objective = args["objective"].as<std::string>();
  const auto known = objective_from_name(objective);
  if (!known)
    throw UsageError(fmt::format("--objective: expected latency, prefill or throughput, found '{}'", objective));
  r.objective = *known;
  return r;
}

Workload read_workload(const cxxopts::ParseResult& args, Objective objective, const Manifest& manifest) {
  const auto number = [&](const char* option, std::int64_t otherwise, std::int64_t most) {
    return args.count(option) > 0 ? whole_option(args, option, 1, most) : otherwise;
  };
  const ModelConfig& c = manifest.config;
  const bool many = objective == Objective::throughput;
  Workload w;
  w.context_tokens = number("ctx-size", c.max_seq_len, kMostTokens);
  if (w.context_tokens > c.max_seq_len) {
    throw UsageError(
        fmt::format("-c: expected at most {} (the model's context), found {}", c.max_seq_len, w.context_tokens));
  }
  w.most_at_once = number("parallel", 0, kMaxRequests);
  w.requests = w.most_at_once > 0 ? std::min(w.most_at_once, kBatchRequests) : many ? kBatchRequests : 1;
  w.cache_tokens = number("cache-tokens", many ? kBatchCacheTokens : 0, kMaxTokens);
  // Nobody gets more than the cache that was asked for.
  if (args.count("cache-tokens") > 0) w.context_tokens = std::min(w.context_tokens, w.cache_tokens);
  w.cache_tokens = std::max(w.cache_tokens, w.context_tokens);
  w.chunk_tokens = number("max-chunk", w.chunk_tokens, kMaxTokens);
  w.keys = args.count("cache-type-k") > 0 ? kv_type_option(args, "cache-type-k") : default_kv_type(c);
  w.values = args.count("cache-type-v") > 0 ? kv_type_option(args, "cache-type-v") : default_kv_type(c);
  const auto decode = args["decode"].as<std::string>();
  if (decode != "spec" && decode != "plain") {
    throw UsageError(fmt::format("--decode: expected spec or plain, found '{}'", decode));
  }
  w.drafts = decode == "spec";
  w.draft_max = args["draft-max"].as<int>();
  if (w.draft_max < 0 || w.draft_max >= kMaxDraftNodes) {
    throw UsageError(fmt::format("--draft-max: expected 0 to {}, found {}", kMaxDraftNodes - 1, w.draft_max));
  }
  w.wire = wire_option(args);
  w.every_row = args.count("all-rows") > 0;
  DecodingOptions decoding;
  decoding.decode.mode = w.drafts ? DecodeMode::continuous : DecodeMode::plain;
  decoding.auto_draft = true;
  w.draft_file_bytes = draft_file_bytes(decoding, args["model"].as<std::string>());
  return w;
}

// Smaller caches to try where nothing fits and nobody asked for a size: a batch does with any that holds one request.
std::optional<Workload> with_half_the_cache(const cxxopts::ParseResult& args, const Workload& w) {
  if (args.count("cache-tokens") > 0) return std::nullopt;
  Workload smaller = w;
  smaller.cache_tokens = std::max(w.cache_tokens / 2, w.context_tokens);
  smaller.requests = args.count("parallel") > 0 ? w.requests : std::max<std::int64_t>(w.requests / 2, 1);
  if (smaller.cache_tokens == w.cache_tokens && smaller.requests == w.requests) return std::nullopt;
  return smaller;
}

void leave_out_hosts(const cxxopts::ParseResult& args, Profile& profile) {
  if (args.count("without") == 0) return;
  for (const std::string& host : args["without"].as<std::vector<std::string>>()) {
    if (leave_out(profile, host) == 0) {
      throw UsageError(fmt::format("--without: expected a host of the profile, found '{}'", host));
    }
  }
  if (profile.boards.empty()) throw UsageError("--without: expected one host at least to remain, found none");
}

void apply_budgets(const cxxopts::ParseResult& args, Profile& profile) {
  if (args.count("memory") == 0) return;
  const auto mib = args["memory"].as<std::vector<std::int64_t>>();
  if (mib.size() != 1 && mib.size() != profile.boards.size()) {
    throw UsageError(
        fmt::format("--memory: expected one number, or {} (one a board), found {}", profile.boards.size(), mib.size()));
  }
  for (std::size_t b = 0; b < profile.boards.size(); ++b) {
    const std::int64_t budget = mib[mib.size() == 1 ? 0 : b];
    if (budget < 0 || budget > kMostMib) {
      throw UsageError(fmt::format("--memory: expected 0 to {} MiB, found {}", kMostMib, budget));
    }
    profile.boards[b].memory_bytes = static_cast<std::uint64_t>(budget) << 20;
  }
}

void print_plan(const Plan& p, const PlanRequest& r, const std::vector<StageMemory>& memory, double interval_s) {
  const auto mib = [](std::uint64_t bytes) { return static_cast<double>(bytes) / (1 << 20); };
  std::cout << fmt::format("{:<20}{:>10}{:>14}{:>11}{:>10}{:>11}{:>11}{:>16}\n", "board", "layers", "weights MiB",
                           "cache MiB", "work MiB", "other MiB", "all MiB", "share of time");
  for (std::size_t i = 0; i < p.stages.size(); ++i) {
    const StagePlan& s = p.stages[i];
    const StageMemory& m = memory[i];
    std::cout << fmt::format("{:<20}{:>4} - {:>3}{:>14.1f}{:>11.1f}{:>10.1f}{:>11.1f}{:>11.1f}{:>14.0f} %\n",
                             fmt::format("{}:{}", s.host, s.slot), s.first_layer, s.last_layer - 1, mib(m.weights),
                             mib(m.cache), mib(m.work), mib(m.own() - m.cache - m.work), mib(m.total()),
                             s.time_share * 100);
  }
  for (const std::string& b : p.left_out) std::cout << fmt::format("{:<20}{:>10}\n", b, "left out");
  if (p.draft) {
    const bool last = p.draft_stage() + 1 == p.stages.size();
    std::cout << fmt::format("draft model on {}:{} ({:.1f} MiB), {}\n", p.draft->host, p.draft->slot,
                             static_cast<double>(p.draft->bytes) / (1 << 20),
                             last ? "the last stage: the answer waits for it" : "while this board waits for others");
  }
  const Workload& w = *p.workload;
  std::cout << fmt::format("memory for: contexts of {} tokens, {} cached tokens ({}/{}) and {} tree(s) of drafts\n",
                           w.context_tokens, std::max(w.cache_tokens, w.context_tokens), name(w.keys), name(w.values),
                           w.drafts ? w.requests : 0);
  std::cout << "prompt of " << r.prompt_tokens << " tokens in chunks of";
  for (const std::int64_t n : chunks_for(p, r.prompt_tokens)) std::cout << " " << n;
  std::cout << "\n";
  std::cout << fmt::format("predicted: first token after {:.3f} s, then {:.2f} tokens/s (plain decoding)\n",
                           p.predicted_ttft_s, p.predicted_decode_tokens_per_s);
  if (r.objective == Objective::throughput) {
    std::cout << fmt::format("many such requests at once: {:.2f} a second, {:.1f} tokens/s of prompts and answers\n",
                             1 / interval_s, static_cast<double>(r.prompt_tokens + r.new_tokens) / interval_s);
  }
}

void print_alternatives(const Planner& planner, const Plan& best) {
  std::cout << fmt::format("\n{:<26}{:>14}{:>14}{:>14}\n", "alternative", "first token s", "tokens/s", "request s");
  const auto line = [](const std::string& what, const Plan& p, double request_s) {
    std::cout << fmt::format("{:<26}{:>14.3f}{:>14.2f}{:>14.3f}\n", what, p.predicted_ttft_s,
                             p.predicted_decode_tokens_per_s, request_s);
  };
  line("this plan", best, planner.request_s(best));
  for (const Planner::Alternative& a : planner.alternatives()) {
    if (a.plan) {
      line(a.name, *a.plan, a.request_s);
    } else {
      std::cout << fmt::format("{:<26}{:>14}\n", a.name, "does not fit");
    }
  }
}

DraftNeeds draft_needs(const std::string& folder, const Manifest& target, const Profile& profile, const Workload& w) {
  const Manifest draft = read_manifest(folder);
  check_vocabulary(folder, draft, target);
  const auto bytes = [](const Manifest& m) {
    return static_cast<double>(weight_bytes(m, {0, m.config.n_layers, true, true}));
  };
  int threads = 1;
  for (const BoardProfile& b : profile.boards) threads = std::max(threads, b.threads);
  return {hex(draft.hash), draft_model_bytes(draft, w.context_tokens, threads), bytes(draft) / bytes(target)};
}

// request: its workload becomes the one that fits.
Plan plan_that_fits(const cxxopts::ParseResult& args, const Profile& profile, const Manifest& manifest,
                    const std::optional<DraftNeeds>& draft, PlanRequest& request) {
  for (;;) {
    try {
      return draft ? plan_with_draft(profile, manifest, request, *draft) : Planner(profile, manifest, request).best();
    } catch (const MemoryError&) {
      const auto smaller = with_half_the_cache(args, request.workload);
      if (!smaller) throw;
      request.workload = *smaller;
    }
  }
}

}  // namespace

ExitCode plan_command(MpiSession& mpi, const Arguments& arguments) {
  cxxopts::Options usage = plan_usage();
  const auto args = parse(mpi, usage, arguments);
  if (!args) return ExitCode::ok;
  expect_one_rank(mpi, "plan");
  if (args->count("model") == 0) throw UsageError("plan: expected -m DIR (see --help)");
  PlanRequest request = read_request(*args);
  const Manifest manifest = read_manifest((*args)["model"].as<std::string>());
  request.workload = read_workload(*args, request.objective, manifest);
  const std::string cluster = (*args)["cluster"].as<std::string>();
  Profile profile = parse_profile(read_file(cluster, 64 << 20), cluster);
  if (profile.version != JUPITER_VERSION) {
    throw FormatError(cluster, "version", JUPITER_VERSION " (this program; measure again)", profile.version);
  }
  leave_out_hosts(*args, profile);
  apply_budgets(*args, profile);
  if (request.prompt_tokens + request.new_tokens > request.workload.context_tokens) {
    throw UsageError(fmt::format("-p and -n: expected at most {} tokens together (the context), found {}",
                                 request.workload.context_tokens, request.prompt_tokens + request.new_tokens));
  }
  const std::string output = args->count("output") > 0 ? (*args)["output"].as<std::string>() : "";
  check_outputs({output}, {cluster});
  const auto draft = args->count("draft-model") == 0
                         ? std::optional<DraftNeeds>()
                         : draft_needs((*args)["draft-model"].as<std::string>(), manifest, profile, request.workload);
  const Plan plan = plan_that_fits(*args, profile, manifest, draft, request);
  const Planner planner(profile, manifest, request);
  print_plan(plan, request, planner.memory_of(plan), planner.interval_s(plan));
  if (args->count("explain") > 0) print_alternatives(planner, plan);
  if (args->count("simulate") > 0)
    std::cout << "\n" << draw(simulate(planner.costs_of(plan), chunks_for(plan, request.prompt_tokens)), 100);
  std::cout << std::flush;
  if (!output.empty()) write_file_atomically(output, with_result_info(to_json(plan), manifest, &plan));
  return ExitCode::ok;
}

}  // namespace jupiter

// jupiter plan: from a profile to a plan; no weights are loaded.
#include "parallel/plan.hpp"

#include <fmt/format.h>

#include <iostream>

#include "app/command.hpp"
#include "app/engine.hpp"
#include "app/result_info.hpp"
#include "io/files.hpp"
#include "io/hash.hpp"
#include "parallel/draft_model.hpp"
#include "parallel/draft_placement.hpp"
#include "parallel/simulator.hpp"

namespace jupiter {

namespace {

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
    ("c,ctx-size", "Context that memory must hold, tokens (default: the model's)", cxxopts::value<std::int64_t>(), "N")
    ("max-chunk", "Longest chunk, tokens", cxxopts::value<std::int64_t>()->default_value("512"), "N")
    ("objective", "latency, prefill or throughput", cxxopts::value<std::string>()->default_value("latency"), "NAME")
    ("wire", "Residual between ranks that the runs will use: exact or q8", cxxopts::value<std::string>()->default_value("exact"), "NAME")
    ("draft-model", "Also finds a board for this draft model (run --draft model=DIR), and counts its memory", cxxopts::value<std::string>(), "DIR")
    ("all-rows", "Every prompt row passes the head (evaluation)")
    ("without", "Leave this host's boards out (may stand there several times)", cxxopts::value<std::vector<std::string>>(), "HOST")
    ("memory", "Budget of each board, MiB, instead of the profile's: one number, or one a board", cxxopts::value<std::vector<std::int64_t>>(), "MIB")
    ("explain", "What other splits would have cost")
    ("simulate", "Draw the schedule of the prompt");
  // clang-format on
  return options;
}

PlanRequest read_request(const cxxopts::ParseResult& args) {
  PlanRequest r;
  r.prompt_tokens = whole_option(args, "n-prompt", 1, kMostTokens);
  r.new_tokens = whole_option(args, "n-gen", 0, kMostTokens);
  r.max_chunk = whole_option(args, "max-chunk", 1, kMostTokens);
  if (args.count("ctx-size") > 0) r.context_tokens = whole_option(args, "ctx-size", 1, kMostTokens);
  const auto objective = args["objective"].as<std::string>();
  const auto known = objective_from_name(objective);
  if (!known)
    throw UsageError(fmt::format("--objective: expected latency, prefill or throughput, found '{}'", objective));
  r.objective = *known;
  r.every_row = args.count("all-rows") > 0;
  r.wire = wire_option(args);
  return r;
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

void print_plan(const Plan& p, const PlanRequest& r, double interval_s) {
  std::cout << fmt::format("{:<20}{:>10}{:>14}{:>14}{:>12}\n", "board", "layers", "weights MiB", "other MiB",
                           "share of time");
  for (const StagePlan& s : p.stages) {
    std::cout << fmt::format("{:<20}{:>4} - {:>3}{:>14.1f}{:>14.1f}{:>10.0f} %\n", fmt::format("{}:{}", s.host, s.slot),
                             s.first_layer, s.last_layer - 1, static_cast<double>(s.weight_bytes) / (1 << 20),
                             static_cast<double>(s.private_bytes) / (1 << 20), s.time_share * 100);
  }
  for (const std::string& b : p.left_out) std::cout << fmt::format("{:<20}{:>10}\n", b, "left out");
  if (p.draft) {
    const bool last = p.draft_stage() + 1 == p.stages.size();
    std::cout << fmt::format("draft model on {}:{} ({:.1f} MiB), {}\n", p.draft->host, p.draft->slot,
                             static_cast<double>(p.draft->bytes) / (1 << 20),
                             last ? "the last stage: the answer waits for it" : "while this board waits for others");
  }
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

DraftNeeds draft_needs(const std::string& folder, const Manifest& target, std::int64_t context_tokens) {
  const Manifest draft = read_manifest(folder);
  check_vocabulary(folder, draft, target);
  const auto bytes = [](const Manifest& m) {
    return static_cast<double>(weight_bytes(m, {0, m.config.n_layers, true, true}));
  };
  return {hex(draft.hash), draft_model_bytes(draft, context_tokens), bytes(draft) / bytes(target)};
}

}  // namespace

ExitCode plan_command(MpiSession& mpi, const Arguments& arguments) {
  cxxopts::Options usage = plan_usage();
  const auto args = parse(mpi, usage, arguments);
  if (!args) return ExitCode::ok;
  expect_one_rank(mpi, "plan");
  if (args->count("model") == 0) throw UsageError("plan: expected -m DIR (see --help)");
  const PlanRequest request = read_request(*args);
  const Manifest manifest = read_manifest((*args)["model"].as<std::string>());
  const std::string cluster = (*args)["cluster"].as<std::string>();
  Profile profile = parse_profile(read_file(cluster, 64 << 20), cluster);
  if (profile.version != JUPITER_VERSION) {
    throw FormatError(cluster, "version", JUPITER_VERSION " (this program; measure again)", profile.version);
  }
  leave_out_hosts(*args, profile);
  apply_budgets(*args, profile);
  const std::int64_t context = request.context_tokens > 0 ? request.context_tokens : manifest.config.max_seq_len;
  if (context > manifest.config.max_seq_len || request.prompt_tokens + request.new_tokens > context) {
    throw UsageError(fmt::format("-p and -n: expected at most {} tokens together (the context), found {}",
                                 std::min(context, manifest.config.max_seq_len),
                                 request.prompt_tokens + request.new_tokens));
  }
  const std::string output = args->count("output") > 0 ? (*args)["output"].as<std::string>() : "";
  check_outputs({output}, {cluster});
  const Planner planner(profile, manifest, request);
  const Plan plan = args->count("draft-model") == 0
                        ? planner.best()
                        : plan_with_draft(profile, manifest, request,
                                          draft_needs((*args)["draft-model"].as<std::string>(), manifest, context));
  print_plan(plan, request, planner.interval_s(plan));
  if (args->count("explain") > 0) print_alternatives(planner, plan);
  if (args->count("simulate") > 0)
    std::cout << "\n" << draw(simulate(planner.costs_of(plan), chunks_for(plan, request.prompt_tokens)), 100);
  std::cout << std::flush;
  if (!output.empty()) write_file_atomically(output, with_result_info(to_json(plan), manifest, &plan));
  return ExitCode::ok;
}

}  // namespace jupiter

// jupiter plan: from a profile to a plan; no weights are loaded.
#include "parallel/plan/plan.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <iostream>

#include "app/baseline_report.hpp"
#include "app/command.hpp"
#include "app/engine.hpp"
#include "app/result_info.hpp"
#include "io/files.hpp"
#include "io/hash.hpp"
#include "parallel/draft_model/draft_model.hpp"
#include "parallel/plan/board_file.hpp"
#include "parallel/plan/draft_placement.hpp"
#include "parallel/plan/simulator.hpp"

namespace jupiter {

namespace {

constexpr std::int64_t kMaxTokens = 1 << 28;
constexpr std::int64_t kMaxRequests = 1 << 20;
constexpr std::int64_t kNotGiven = -1;
// Of drafted tokens that are right, where nobody says: with a draft file, and without one.
constexpr double kHitRate = 0.5, kHitRateOfLookup = 0.3;

struct PlanOptions {
  void declare(OptionSet& options);
  Workload workload(const Manifest& manifest) const;
  double expected_hit_rate(const Workload& workload) const;

  std::string model;
  std::string cluster = "cluster.json", boards;
  std::string output;
  PlanRequest request{.prompt_tokens = kNotGiven, .new_tokens = kNotGiven, .workload = {}};
  std::int64_t max_chunk = 0;
  Wire wire = Wire::exact;
  std::string draft_model;
  bool all_rows = false, explain = false, simulate = false, baselines = false;
  std::string baselines_folder;
  double hit_rate = kNotGiven;
  std::vector<std::string> without;
  std::vector<std::int64_t> memory_mib;
  // What memory must hold.
  std::int64_t context_tokens = 0, parallel = 0, cache_tokens = 0;
  std::optional<KvType> keys, values;
  bool drafts = true;
  std::int64_t draft_max = 16;
};

void PlanOptions::declare(OptionSet& options) {
  // clang-format off
  options.text("m,model", model, "DIR", "Model folder (its manifest is read)");
  options.text("cluster", cluster, "FILE", "Profile that `profile` wrote");
  options.text("boards", boards, "FILE", "Instead of a profile: what boards can do, by published rates");
  options.text("o,output", output, "FILE", "Plan to write");
  options.number("p,n-prompt", request.prompt_tokens, {1, kMostTokens}, "N", "Prompt tokens of the workload (default: 512, or four fifths of a smaller context)");
  options.number("n,n-gen", request.new_tokens, {0, kMostTokens}, "N", "New tokens of the workload (default: 128, or a fifth of a smaller context)");
  options.number("max-chunk", max_chunk, {1, kMaxTokens}, "N", "Longest chunk, tokens (default: 512)");
  options.choice("objective", request.objective, named({Objective::latency, Objective::prefill, Objective::throughput}), "latency, prefill or throughput");
  options.choice("kind", request.kind, named({PlanKind::any, PlanKind::pipeline, PlanKind::tensor, PlanKind::groups}), "any: the best of pipeline (every board some layers), tensor (all boards a part of every layer) and groups (a pipeline of tensor groups)");
  options.flag("no-shared-head", request.share_output_head, "The last stage computes the output head alone, also where others would help");
  options.choice("wire", wire, kWires, "Residual between ranks that the runs will use: exact or q8");
  options.text("draft-model", draft_model, "DIR", "Also finds a board for this draft model (run --draft model=DIR), and counts its memory");
  options.flag("all-rows", all_rows, "Every prompt row passes the head (evaluation)");
  options.texts("without", without, "HOST", "Leave this host's boards out (may stand there several times)");
  options.numbers("memory", memory_mib, {0, kMostMib}, "MIB", "Budget of each board, MiB, instead of the profile's: one number, or one a board");
  options.flag("explain", explain, "What other splits would have cost");
  options.flag("simulate", simulate, "Draw the schedule of the prompt");
  options.flag("baselines", baselines, "What other systems' schedules would take on these boards, and this one without its parts");
  options.text("baselines-output", baselines_folder, "DIR", "Also writes them there, with the plans that can be run");
  options.group("What memory must hold (runs obey it; defaults: those of run, with --objective throughput those of batch)");
  options.number("c,ctx-size", context_tokens, {1, kMostTokens}, "N", "Context of a request, tokens (default: the model's)");
  options.number("parallel", parallel, {1, kMaxRequests}, "N", "Requests at a time at most");
  options.number("cache-tokens", cache_tokens, {1, kMaxTokens}, "N", "Positions in the KV cache, of all requests together");
  options.choice("cache-type-k", keys, kKvTypes, "-ctk: type of cached keys: f16, f32 or q8_0 (default: f16, or f32 with f32 weights)");
  options.choice("cache-type-v", values, kKvTypes, "-ctv: type of cached values");
  options.choice("decode", drafts, {{"spec", true}, {"plain", false}}, "spec or plain");
  options.number("hit-rate", hit_rate, {0.0, 0.99}, "P", "Share of drafted tokens that will be right (default: 0.5 with a draft file, else 0.3)");
  options.number("draft-max", draft_max, {0, kMaxDraftNodes - 1}, "N", "Drafted tokens of a segment at most");
  // clang-format on
}

Workload PlanOptions::workload(const Manifest& manifest) const {
  const ModelConfig& c = manifest.config;
  const bool many = request.objective == Objective::throughput;
  const auto given_or = [](std::int64_t given, std::int64_t otherwise) { return given > 0 ? given : otherwise; };
  Workload w;
  w.context_tokens = given_or(context_tokens, c.max_seq_len);
  if (w.context_tokens > c.max_seq_len) {
    throw UsageError(
        fmt::format("-c: expected at most {} (the model's context), found {}", c.max_seq_len, w.context_tokens));
  }
  w.most_at_once = parallel;
  w.requests = parallel > 0 ? std::min(parallel, kBatchRequests) : many ? kBatchRequests : 1;
  w.cache_tokens = given_or(cache_tokens, many || parallel > 1 ? kBatchCacheTokens : 0);
  // Nobody gets more than the cache that was asked for.
  if (cache_tokens > 0) w.context_tokens = std::min(w.context_tokens, cache_tokens);
  w.cache_tokens = std::max(w.cache_tokens, w.context_tokens);
  w.chunk_tokens = given_or(max_chunk, w.chunk_tokens);
  w.keys = keys.value_or(default_kv_type(c));
  w.values = values.value_or(default_kv_type(c));
  w.drafts = drafts;
  w.draft_max = draft_max;
  w.wire = wire;
  w.every_row = all_rows;
  DecodingOptions decoding;
  decoding.decode.mode = drafts ? DecodeMode::continuous : DecodeMode::plain;
  decoding.auto_draft = true;
  w.draft_file_bytes = draft_file_bytes(decoding, model);
  return w;
}

double PlanOptions::expected_hit_rate(const Workload& w) const {
  if (!w.drafts) return 0;
  if (hit_rate >= 0) return hit_rate;
  return w.draft_file_bytes > 0 || !draft_model.empty() ? kHitRate : kHitRateOfLookup;
}

// Smaller caches to try where nothing fits and nobody asked for a size: a batch does with any that holds one request.
std::optional<Workload> with_half_the_cache(const PlanOptions& o, const Workload& w) {
  if (o.cache_tokens > 0) return std::nullopt;
  Workload smaller = w;
  smaller.cache_tokens = std::max(w.cache_tokens / 2, w.context_tokens);
  smaller.requests = o.parallel > 0 ? w.requests : std::max<std::int64_t>(w.requests / 2, 1);
  if (smaller.cache_tokens == w.cache_tokens && smaller.requests == w.requests) return std::nullopt;
  return smaller;
}

void leave_out_hosts(const PlanOptions& o, Profile& profile) {
  for (const std::string& host : o.without) {
    if (leave_out(profile, host) == 0) {
      throw UsageError(fmt::format("--without: expected a host of the profile, found '{}'", host));
    }
  }
  if (profile.boards.empty()) throw UsageError("--without: expected one host at least to remain, found none");
}

void apply_budgets(const std::vector<std::int64_t>& mib, Profile& profile) {
  if (mib.empty()) return;
  if (mib.size() != 1 && mib.size() != profile.boards.size()) {
    throw UsageError(
        fmt::format("--memory: expected one number, or {} (one a board), found {}", profile.boards.size(), mib.size()));
  }
  for (std::size_t b = 0; b < profile.boards.size(); ++b) {
    profile.boards[b].memory_bytes = static_cast<std::uint64_t>(mib[mib.size() == 1 ? 0 : b]) << 20;
  }
}

void print_plan(const Plan& p, const PlanRequest& r, const Planner& planner) {
  const auto mib = [](std::uint64_t bytes) { return static_cast<double>(bytes) / (1 << 20); };
  std::cout << fmt::format("{:<20}{:>10}{:>14}{:>11}{:>10}{:>11}{:>11}{:>16}\n", "board", "layers", "weights MiB",
                           "cache MiB", "work MiB", "other MiB", "all MiB", "share of time");
  const auto line = [&](const std::string& board, const StagePlan& s, const StageMemory& m, double share) {
    std::cout << fmt::format("{:<20}{:>4} - {:>3}{:>14.1f}{:>11.1f}{:>10.1f}{:>11.1f}{:>11.1f}{:>14.0f} %\n", board,
                             s.first_layer, s.last_layer - 1, mib(m.weights), mib(m.cache), mib(m.work),
                             mib(m.own() - m.cache - m.work), mib(m.total()), share * 100);
  };
  for (std::size_t i = 0; i < p.stages.size(); ++i) {
    const StagePlan& s = p.stages[i];
    const std::vector<StageMemory> memory = planner.memory_of(p, i);
    line(fmt::format("{}:{}", s.host, s.slot), s, memory[0], s.time_share);
    for (std::size_t b = 0; b < s.others.size(); ++b) {
      line(fmt::format("  with {}:{}", s.others[b].host, s.others[b].slot), s, memory[b + 1], s.time_share);
    }
    if (s.boards() > 1) {
      std::cout << "  tensor group, shares";
      for (const double share : s.split().shares) std::cout << fmt::format(" {:.2f}", share);
      if (s.repeat_attention_out) std::cout << ", wo on every board";
      if (s.repeat_feed_forward_out) std::cout << ", w_down on every board";
      std::cout << "\n";
    }
  }
  for (const std::string& b : p.left_out) std::cout << fmt::format("{:<20}{:>10}\n", b, "left out");
  if (!p.head_helpers.empty()) {
    std::cout << fmt::format("output head shared: {:.2f} on the last stage", p.head_shares().front());
    for (const HeadPlan& h : p.head_helpers) std::cout << fmt::format(", {:.2f} on {}:{}", h.share, h.host, h.slot);
    std::cout << "\n";
  }
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
  if (p.hit_rate > 0) {
    std::cout << fmt::format("where {:.0f} % of drafted tokens are right: {:.2f} tokens/s\n", p.hit_rate * 100,
                             p.predicted_speculative_tokens_per_s);
  }
  if (r.objective == Objective::throughput) {
    const double interval_s = planner.interval_s(p);
    std::cout << fmt::format("many such requests at once: {:.2f} a second, {:.1f} tokens/s of prompts and answers\n",
                             1 / interval_s, static_cast<double>(r.prompt_tokens + r.new_tokens) / interval_s);
  }
}

void print_alternatives(const Planner& planner, const Plan& best) {
  std::cout << fmt::format("\n{:<26}{:>14}{:>14}{:>14}\n", "alternative", "first token s", "tokens/s", "request s");
  const auto line = [](const std::string& what, const Plan& p, double request_s) {
    std::cout << fmt::format("{:<26}{:>14.3f}{:>14.2f}{:>14.3f}\n", what, p.predicted_ttft_s,
                             p.predicted_speculative_tokens_per_s, request_s);
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
Plan plan_that_fits(const PlanOptions& o, const Profile& profile, const Manifest& manifest,
                    const std::optional<DraftNeeds>& draft, PlanRequest& request) {
  for (;;) {
    try {
      return draft ? plan_with_draft(profile, manifest, request, *draft) : Planner(profile, manifest, request).best();
    } catch (const MemoryError&) {
      const auto smaller = with_half_the_cache(o, request.workload);
      if (!smaller) throw;
      request.workload = *smaller;
    }
  }
}

// The profile as the options change it.
Profile read_profile(const PlanOptions& o, const Manifest& manifest) {
  Profile profile;
  if (!o.boards.empty()) {
    profile = described_profile(parse_boards(read_file(o.boards, 1 << 20), o.boards), manifest, JUPITER_VERSION);
  } else {
    profile = parse_profile(read_file(o.cluster, 64 << 20), o.cluster);
  }
  if (profile.version != JUPITER_VERSION) {
    throw FormatError(o.cluster, "version", JUPITER_VERSION " (this program; measure again)", profile.version);
  }
  leave_out_hosts(o, profile);
  apply_budgets(o.memory_mib, profile);
  return profile;
}

}  // namespace

ExitCode plan_command(const MpiSession& mpi, const Arguments& arguments) {
  PlanOptions o;
  OptionSet set("plan", "Chooses boards, layers and chunks from a profile, and predicts the times.");
  o.declare(set);
  if (!set.parse(mpi, arguments)) return ExitCode::ok;
  expect_one_rank(mpi, "plan");
  if (o.model.empty()) throw UsageError("plan: expected -m DIR (see --help)");
  const Manifest manifest = read_manifest(o.model);
  PlanRequest request = o.request;
  request.workload = o.workload(manifest);
  const std::int64_t context = request.workload.context_tokens;
  if (request.new_tokens == kNotGiven) request.new_tokens = std::min(PlanRequest().new_tokens, context / 5);
  if (request.prompt_tokens == kNotGiven) {
    request.prompt_tokens = std::clamp<std::int64_t>(context - request.new_tokens, 1, PlanRequest().prompt_tokens);
  }
  request.hit_rate = o.expected_hit_rate(request.workload);
  const Profile profile = read_profile(o, manifest);
  if (request.prompt_tokens + request.new_tokens > request.workload.context_tokens) {
    throw UsageError(fmt::format("-p and -n: expected at most {} tokens together (the context), found {}",
                                 request.workload.context_tokens, request.prompt_tokens + request.new_tokens));
  }
  check_outputs({o.output}, {o.cluster, o.boards});
  if (o.baselines) {
    report_baselines(forecast_baselines(profile, manifest, request), profile, manifest, request, o.baselines_folder);
    return ExitCode::ok;
  }
  std::optional<DraftNeeds> draft;
  if (!o.draft_model.empty()) draft = draft_needs(o.draft_model, manifest, profile, request.workload);
  const Plan plan = plan_that_fits(o, profile, manifest, draft, request);
  const Planner planner(profile, manifest, request);
  print_plan(plan, request, planner);
  if (o.explain) print_alternatives(planner, plan);
  if (o.simulate)
    std::cout << "\n" << draw(simulate(planner.costs_of(plan), chunks_for(plan, request.prompt_tokens)), 100);
  std::cout << std::flush;
  if (!o.output.empty()) write_file_atomically(o.output, with_result_info(to_json(plan), manifest, &plan));
  return ExitCode::ok;
}

}  // namespace jupiter

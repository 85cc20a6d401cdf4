// Plans as JSON, and the checks that an edited one must pass.
#include "parallel/plan/plan.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>

#include "io/json_fields.hpp"

namespace jupiter {

using nlohmann::ordered_json;

namespace {
constexpr std::int64_t kMaxTokens = 1 << 28;
constexpr std::uint64_t kMaxBytes = std::uint64_t{1} << 50;
constexpr std::int64_t kMaxRequests = 1 << 20;
constexpr int kMaxSlot = 4096;
constexpr double kShareError = 1e-3;  // by which shares that somebody wrote may miss 1
constexpr const char* kAttentionOut = "wo";
constexpr const char* kFeedForwardOut = "w_down";

// The first board has what the others leave.
template <typename Boards>
std::vector<double> shares_of(const Boards& others) {
  std::vector<double> shares{1};
  for (const auto& b : others) {
    shares.front() -= b.share;
    shares.push_back(b.share);
  }
  return shares;
}
}  // namespace

ModelPart Plan::part(std::size_t stage) const {
  const StagePlan& s = stages[stage];
  return {s.first_layer, s.last_layer, stage == 0, stage + 1 == stages.size()};
}

std::vector<ModelPart> Plan::parts(std::size_t stage, const ModelConfig& config) const {
  std::vector<ModelPart> parts;
  for (const TensorSlice& slice : slices_of(config, stages[stage].split())) {
    parts.push_back(part(stage));
    if (stages[stage].boards() > 1) parts.back().slice = slice;
  }
  if (head_helpers.empty()) return parts;
  const std::vector<IndexRange> tokens = vocabulary_parts(config, head_shares());
  if (stage + 1 == stages.size()) parts.front().vocabulary = tokens.front();
  for (std::size_t h = 0; h < head_helpers.size(); ++h) {
    if (stage_of(head_helpers[h].host, head_helpers[h].slot) == stage) parts.front().vocabulary = tokens[h + 1];
  }
  return parts;
}

TensorSplit StagePlan::split() const {
  return {shares_of(others), repeat_attention_out, repeat_feed_forward_out};
}

std::int64_t Plan::max_chunk() const {
  std::int64_t most = 1;
  for (const ChunkPlan& c : chunks) most = std::max(most, *std::max_element(c.lengths.begin(), c.lengths.end()));
  return most;
}

std::size_t Plan::stage_of(const std::string& host, int slot) const {
  const auto it =
      std::find_if(stages.begin(), stages.end(), [&](const StagePlan& s) { return s.host == host && s.slot == slot; });
  return static_cast<std::size_t>(it - stages.begin());
}

std::size_t Plan::draft_stage() const {
  return stage_of(draft->host, draft->slot);
}

std::vector<double> Plan::head_shares() const {
  return shares_of(head_helpers);
}

namespace {

ordered_json workload_json(const Workload& w) {
  return {{"requests", w.requests},
          {"most_at_once", w.most_at_once},
          {"context_tokens", w.context_tokens},
          {"cache_tokens", w.cache_tokens},
          {"chunk_tokens", w.chunk_tokens},
          {"type_k", name(w.keys)},
          {"type_v", name(w.values)},
          {"decode", w.drafts ? "spec" : "plain"},
          {"draft_max", w.draft_max},
          {"wire", name(w.wire)},
          {"every_row", w.every_row},
          {"draft_file_bytes", w.draft_file_bytes}};
}

ordered_json group_json(const StagePlan& s) {
  ordered_json boards = ordered_json::array(), repeat = ordered_json::array();
  for (const BoardPlan& b : s.others) {
    boards.push_back({{"host", b.host},
                      {"slot", b.slot},
                      {"share", b.share},
                      {"weight_bytes", b.weight_bytes},
                      {"private_bytes", b.private_bytes}});
  }
  if (s.repeat_attention_out) repeat.push_back(kAttentionOut);
  if (s.repeat_feed_forward_out) repeat.push_back(kFeedForwardOut);
  return {{"share", s.split().shares.front()}, {"others", boards}, {"repeat", repeat}};
}

// The shares of all boards must stand there and sum to 1, so that one that was edited alone is noticed.
void check_sum(const JsonObject& j, double sum) {
  if (std::abs(sum - 1) > kShareError) j.fail("share", "shares of all boards that sum to 1", fmt::format("{}", sum));
}

void read_group(const JsonObject& j, StagePlan& s) {
  double sum = j.within<double>("share", 0, 1);
  for (const JsonObject& b : j.objects("others")) {
    s.others.push_back({b.string("host"), b.within<int>("slot", 0, kMaxSlot), b.within<double>("share", 0, 1),
                        b.within<std::uint64_t>("weight_bytes", 0, kMaxBytes),
                        b.within<std::uint64_t>("private_bytes", 0, kMaxBytes)});
    sum += s.others.back().share;
  }
  check_sum(j, sum);
  for (const std::string& name : j.values<std::string>("repeat")) {
    if (name != kAttentionOut && name != kFeedForwardOut) {
      j.fail("repeat", fmt::format("{} or {}", kAttentionOut, kFeedForwardOut), name);
    }
    (name == kAttentionOut ? s.repeat_attention_out : s.repeat_feed_forward_out) = true;
  }
}

ordered_json head_json(const Plan& p) {
  ordered_json boards = ordered_json::array();
  for (const HeadPlan& h : p.head_helpers) boards.push_back({{"host", h.host}, {"slot", h.slot}, {"share", h.share}});
  return {{"share", p.head_shares().front()}, {"others", boards}};
}

void read_head(const JsonObject& j, Plan& p) {
  double sum = j.within<double>("share", 0, 1);
  for (const JsonObject& b : j.objects("others")) {
    p.head_helpers.push_back({b.string("host"), b.within<int>("slot", 0, kMaxSlot), b.within<double>("share", 0, 1)});
    sum += p.head_helpers.back().share;
  }
  check_sum(j, sum);
}

KvType read_kv_type(const JsonObject& j, const char* key) {
  const auto type = kv_type_from_name(j.string(key));
  if (!type) j.fail(key, "f16, f32 or q8_0", j.string(key));
  return *type;
}

Workload read_workload(const JsonObject& j) {
  Workload w;
  w.requests = j.within<std::int64_t>("requests", 1, kMaxRequests);
  w.most_at_once = j.within<std::int64_t>("most_at_once", 0, kMaxRequests);
  w.context_tokens = j.within<std::int64_t>("context_tokens", 1, kMaxTokens);
  w.cache_tokens = j.within<std::int64_t>("cache_tokens", 0, kMaxTokens);
  w.chunk_tokens = j.within<std::int64_t>("chunk_tokens", 1, kMaxTokens);
  w.keys = read_kv_type(j, "type_k");
  w.values = read_kv_type(j, "type_v");
  const std::string decode = j.string("decode");
  if (decode != "spec" && decode != "plain") j.fail("decode", "spec or plain", decode);
  w.drafts = decode == "spec";
  w.draft_max = j.within<std::int64_t>("draft_max", 0, kMaxDraftNodes - 1);
  const auto wire = wire_from_name(j.string("wire"));
  if (!wire) j.fail("wire", "exact or q8", j.string("wire"));
  w.wire = *wire;
  w.every_row = j.find_bool("every_row").value_or(false);
  w.draft_file_bytes = j.within<std::uint64_t>("draft_file_bytes", 0, kMaxBytes);
  return w;
}

}  // namespace

std::string to_json(const Plan& p) {
  ordered_json stages = ordered_json::array(), chunks = ordered_json::array();
  for (const StagePlan& s : p.stages) {
    stages.push_back({{"host", s.host},
                      {"slot", s.slot},
                      {"first_layer", s.first_layer},
                      {"last_layer", s.last_layer},
                      {"weight_bytes", s.weight_bytes},
                      {"private_bytes", s.private_bytes},
                      {"time_share", s.time_share}});
    if (s.boards() > 1) stages.back()["tensor_group"] = group_json(s);
  }
  for (const ChunkPlan& c : p.chunks) chunks.push_back({{"prompt_tokens", c.prompt_tokens}, {"lengths", c.lengths}});
  ordered_json all = {{"creator", "jupiter"},
                      {"kind", "plan"},
                      {"model_hash", p.model_hash},
                      {"objective", p.objective},
                      {"prompt_tokens", p.prompt_tokens},
                      {"new_tokens", p.new_tokens},
                      {"context_tokens", p.context_tokens},
                      {"predicted_ttft_s", p.predicted_ttft_s},
                      {"predicted_decode_tokens_per_s", p.predicted_decode_tokens_per_s},
                      {"hit_rate", p.hit_rate},
                      {"predicted_speculative_tokens_per_s", p.predicted_speculative_tokens_per_s},
                      {"stages", stages},
                      {"left_out", p.left_out},
                      {"chunks", chunks}};
  if (p.workload) all["workload"] = workload_json(*p.workload);
  if (p.draft) {
    all["draft_model"] = {{"model_hash", p.draft->model_hash},
                          {"host", p.draft->host},
                          {"slot", p.draft->slot},
                          {"bytes", p.draft->bytes}};
  }
  if (!p.head_helpers.empty()) all["output_head"] = head_json(p);
  return all.dump(1) + "\n";
}

Plan parse_plan(const std::string& text, const std::string& file) {
  const JsonObject j = parse_json_object(text, file);
  if (j.string("kind") != "plan") {
    throw FormatError(file, "kind", "plan (jupiter plan writes it)", j.string("kind"));
  }
  Plan p;
  p.model_hash = j.string("model_hash");
  p.objective = j.string("objective");
  p.prompt_tokens = j.within<std::int64_t>("prompt_tokens", 1, kMaxTokens);
  p.new_tokens = j.within<std::int64_t>("new_tokens", 0, kMaxTokens);
  p.context_tokens = j.within<std::int64_t>("context_tokens", 1, kMaxTokens);
  p.predicted_ttft_s = j.within<double>("predicted_ttft_s", 0, 1e9);
  p.predicted_decode_tokens_per_s = j.within<double>("predicted_decode_tokens_per_s", 0, 1e9);
  if (j.has("hit_rate")) p.hit_rate = j.within<double>("hit_rate", 0, 1);
  p.predicted_speculative_tokens_per_s = p.predicted_decode_tokens_per_s;
  if (j.has("predicted_speculative_tokens_per_s")) {
    p.predicted_speculative_tokens_per_s = j.within<double>("predicted_speculative_tokens_per_s", 0, 1e9);
  }
  p.left_out = j.values<std::string>("left_out");
  for (const JsonObject& s : j.objects("stages")) {
    p.stages.push_back({s.string("host"), s.within<int>("slot", 0, kMaxSlot),
                        s.within<std::int64_t>("first_layer", 0, 4096), s.within<std::int64_t>("last_layer", 0, 4096),
                        s.within<std::uint64_t>("weight_bytes", 0, kMaxBytes),
                        s.within<std::uint64_t>("private_bytes", 0, kMaxBytes), s.within<double>("time_share", 0, 1)});
    if (s.has("tensor_group")) read_group(s.object("tensor_group"), p.stages.back());
  }
  for (const JsonObject& c : j.objects("chunks")) {
    p.chunks.push_back({c.within<std::int64_t>("prompt_tokens", 1, kMaxTokens), c.values<std::int64_t>("lengths")});
  }
  if (j.has("workload")) {
    p.workload = read_workload(j.object("workload"));
    p.context_tokens = p.workload->context_tokens;
  }
  if (j.has("draft_model")) {
    const JsonObject d = j.object("draft_model");
    p.draft = {d.string("model_hash"), d.string("host"), d.within<int>("slot", 0, kMaxSlot),
               d.within<std::uint64_t>("bytes", 0, kMaxBytes)};
  }
  if (j.has("output_head")) read_head(j.object("output_head"), p);
  return p;
}

namespace {

void check_chunks(const Plan& plan, const std::string& file) {
  if (plan.chunks.empty()) throw FormatError(file, "chunks", "at least one entry", "none");
  std::int64_t before = 0;
  for (const ChunkPlan& c : plan.chunks) {
    const std::string thing = fmt::format("chunks of {} tokens", c.prompt_tokens);
    if (c.prompt_tokens <= before) throw FormatError(file, "chunks", "ascending prompt_tokens", thing);
    before = c.prompt_tokens;
    std::int64_t sum = 0;
    for (const std::int64_t n : c.lengths) {
      if (n < 1 || n > c.prompt_tokens) throw FormatError(file, thing, "lengths of at least 1", std::to_string(n));
      sum += n;
    }
    if (sum != c.prompt_tokens) {
      throw FormatError(file, thing, fmt::format("lengths that sum to {}", c.prompt_tokens), std::to_string(sum));
    }
  }
}

// Every board once, and groups whose boards all have something to do.
void check_boards(const Plan& plan, const ModelConfig& config, const std::string& file) {
  std::set<std::pair<std::string, int>> boards;
  const auto once = [&](const std::string& host, int slot) {
    if (boards.insert({host, slot}).second) return;
    throw FormatError(file, "stages", "every board once", fmt::format("{}:{} twice", host, slot));
  };
  for (const StagePlan& s : plan.stages) {
    once(s.host, s.slot);
    for (const BoardPlan& b : s.others) once(b.host, b.slot);
    try {
      slices_of(config, s.split());
    } catch (const UsageError& e) {
      throw Error(ExitCode::invalid_file, fmt::format("{}: stage of {}:{}: {}", file, s.host, s.slot, e.what()));
    }
  }
}

// The output head is shared by single boards that lead other stages, each of which is named once.
void check_head(const Plan& plan, const ModelConfig& config, const std::string& file) {
  if (plan.head_helpers.empty()) return;
  if (plan.stages.back().boards() > 1) {
    throw FormatError(file, "output_head", "a last stage of one board (a tensor group shares its head by itself)",
                      fmt::format("{} boards", plan.stages.back().boards()));
  }
  std::set<std::size_t> stages;
  for (const HeadPlan& h : plan.head_helpers) {
    const std::size_t stage = plan.stage_of(h.host, h.slot);
    if (stage + 1 < plan.stages.size() && stages.insert(stage).second) continue;
    throw FormatError(file, "output_head", "boards that lead stages before the last one, each once",
                      fmt::format("{}:{}", h.host, h.slot));
  }
  try {
    vocabulary_parts(config, plan.head_shares());
  } catch (const UsageError& e) {
    throw Error(ExitCode::invalid_file, fmt::format("{}: {}", file, e.what()));
  }
}

}  // namespace

void check(const Plan& plan, const ModelConfig& config, const std::string& file) {
  if (plan.stages.empty()) throw FormatError(file, "stages", "at least one", "none");
  std::int64_t next = 0;
  for (const StagePlan& s : plan.stages) {
    const std::string thing = fmt::format("layers of {}:{}", s.host, s.slot);
    if (s.first_layer != next || s.last_layer <= s.first_layer) {
      throw FormatError(file, thing, fmt::format("layers from {} on, at least one", next),
                        fmt::format("{} to {}", s.first_layer, s.last_layer));
    }
    next = s.last_layer;
  }
  if (next != config.n_layers) {
    throw FormatError(file, "stages", fmt::format("layers up to {}", config.n_layers), std::to_string(next));
  }
  check_boards(plan, config, file);
  check_head(plan, config, file);
  if (plan.draft && plan.draft_stage() == plan.stages.size()) {
    throw FormatError(file, "draft_model", "a board of the stages",
                      fmt::format("{}:{}", plan.draft->host, plan.draft->slot));
  }
  check_chunks(plan, file);
}

std::vector<std::int64_t> even_pieces(std::int64_t n, std::int64_t most) {
  const std::int64_t pieces = (n + most - 1) / most;
  std::vector<std::int64_t> lengths;
  for (std::int64_t i = 0; i < pieces; ++i) {
    const Slice slice = slice_of(n, i, pieces);
    lengths.push_back(slice.last - slice.first);
  }
  return lengths;
}

std::vector<std::int64_t> fixed_chunks(std::int64_t prompt_tokens, std::int64_t length) {
  std::vector<std::int64_t> lengths(prompt_tokens / length, length);
  if (prompt_tokens % length != 0) lengths.push_back(prompt_tokens % length);
  return lengths;
}

std::vector<std::int64_t> chunks_for(const Plan& plan, std::int64_t prompt_tokens) {
  const auto it = std::find_if(plan.chunks.begin(), plan.chunks.end(),
                               [&](const ChunkPlan& c) { return c.prompt_tokens >= prompt_tokens; });
  if (it == plan.chunks.end()) return fixed_chunks(prompt_tokens, plan.max_chunk());
  std::vector<std::int64_t> lengths;
  std::int64_t end = 0, done = 0;
  for (const std::int64_t n : it->lengths) {
    end += n;
    const std::int64_t boundary = end * prompt_tokens / it->prompt_tokens;
    if (boundary > done) lengths.push_back(boundary - done);
    done = boundary;
  }
  return lengths;
}

}  // namespace jupiter

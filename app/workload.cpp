// Options first, then the plan, then defaults.
#include "app/workload.hpp"

#include <fmt/format.h>

#include <algorithm>

namespace jupiter {

namespace {

constexpr std::int64_t kUsefulContext = 64;  // tokens; no advice to go below

// Whether the plan's cache is for this command: not where it knows how long its sequences get and has a cache for one
// of them, nor for many requests where the plan is for a single one.
bool is_for(const Workload& w, const EngineOptions& o) {
  const bool knows_its_length = o.needed_tokens > 0 || o.wished_tokens > 0;
  const bool single = w.requests == 1 && w.cache_tokens <= w.context_tokens;
  return !knows_its_length && !(single && o.cache_wish > 0);
}

}  // namespace

void take_from_plan(const Plan& plan, const ModelConfig& config, EngineOptions& o) {
  if (o.context_tokens == 0) {
    const std::int64_t planned = std::min(plan.context_tokens, config.max_seq_len);
    o.context_tokens = std::max(planned, std::min(o.needed_tokens, config.max_seq_len));
  }
  if (!plan.workload) return;
  const Workload& w = *plan.workload;
  if (is_for(w, o)) {
    o.cache_wish = w.cache_tokens;
    if (o.sequences == 0) o.sequences = w.requests;
    if (o.most_at_once == 0) o.most_at_once = w.most_at_once;
  }
  if (!o.keys) o.keys = w.keys;
  if (!o.values) o.values = w.values;
  DecodingOptions& d = o.decoding;
  if (!d.mode_given && !w.drafts) d.decode.mode = DecodeMode::plain;
  if (!d.draft_max_given) d.decode.draft_max = static_cast<std::int32_t>(w.draft_max);
}

Workload workload_of(const EngineOptions& o, const ModelConfig& c, int stages) {
  if (o.context_tokens > c.max_seq_len) {
    throw UsageError(
        fmt::format("-c: expected at most {} (the model's context), found {}", c.max_seq_len, o.context_tokens));
  }
  const std::int64_t limit = o.context_tokens > 0 ? o.context_tokens : c.max_seq_len;
  if (o.needed_tokens > limit) {
    throw UsageError(fmt::format("prompt, depth and answer: expected at most {} tokens (the context, -c), found {}",
                                 limit, o.needed_tokens));
  }
  Workload w;
  w.context_tokens = std::max(o.needed_tokens, std::min(o.wished_tokens, limit));
  if (w.context_tokens == 0) w.context_tokens = limit;
  // Nobody gets more than the cache that was asked for.
  if (o.cache_tokens > 0) w.context_tokens = std::min(w.context_tokens, o.cache_tokens);
  w.chunk_tokens = o.chunk_tokens > 0 ? o.chunk_tokens : stages == 1 ? 512 : 128;
  w.cache_tokens = o.cache_tokens > 0 ? o.cache_tokens : o.cache_wish;
  w.point_tokens = o.point_tokens;
  w.requests = o.sequences > 0 ? o.sequences : o.default_sequences;
  w.most_at_once = o.most_at_once;
  w.drafts = o.decoding.decode.mode != DecodeMode::plain;
  w.draft_max = o.decoding.decode.draft_max;
  w.keys = o.keys.value_or(default_kv_type(c));
  w.values = o.values.value_or(default_kv_type(c));
  w.wire = o.wire;
  return w;
}

std::string memory_advice(const Workload& w, const ModelConfig& c, int stages, std::int64_t blocks, bool planned) {
  const std::int64_t context = (blocks - tree_blocks(w, stages)) * kKvBlock;
  const std::int64_t cache = (blocks - w.requests * tree_blocks(w, stages)) * kKvBlock;
  std::string advice;
  const auto add = [&](const std::string& text) { advice += (advice.empty() ? "use " : ", or ") + text; };
  std::string replanned;
  if (cache >= w.context_tokens) {
    add(fmt::format("--cache-tokens {} or less", cache));
    replanned = fmt::format("-c {} --cache-tokens {}", w.context_tokens, w.cache_tokens);
  } else {
    if (context >= kUsefulContext) add(fmt::format("-c {} or less", context));
    replanned = fmt::format("-c {}", w.context_tokens);
  }
  const auto block_bytes = [&](KvType keys, KvType values) {
    return KvCache::bytes_per_block({1, c.n_kv_heads, c.head_dim, keys, values});
  };
  const bool q8 =
      c.head_dim % 32 == 0 &&
      blocks * block_bytes(w.keys, w.values) / block_bytes(KvType::q8_0, KvType::q8_0) >= least_blocks(w, stages);
  if (q8 && blocks < least_blocks(w, stages)) add("-ctk q8_0 -ctv q8_0");
  if (blocks <= 0) add("a smaller --quant or -c");
  if (planned) add(fmt::format("another plan (`plan {} --parallel {}`)", replanned, w.requests));
  add("more boards");
  return advice;
}

}  // namespace jupiter

// Reading, comparing and writing baselines.
#include "app/baseline.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "io/json_fields.hpp"

namespace jupiter {

using nlohmann::ordered_json;

const std::vector<MetricInfo>& known_metrics() {
  // Bits are the same everywhere, so tolerances leave room for the last digits of libm only.
  static const std::vector<MetricInfo> metrics = {
      {"perplexity", "perplexity_stderr", true, 2e-4, 0},
      {"kl_mean_nats", "", true, 0.02, 1e-5},
      {"kl_median_nats", "", true, 0.02, 1e-5},
      {"kl_p99_nats", "", true, 0.05, 1e-4},
      {"kl_max_nats", "", true, 0.1, 1e-3},
      {"top1_agreement", "", false, 0, 1e-3},
      {"golden_matching_lines", "", false, 0, 0},
      {"golden_matching_tokens", "", false, 0, 0},
      {"golden_agreement", "", false, 0, 1e-3},
      {"acc", "acc_stderr", false, 0, 1e-9},
      {"acc_norm", "acc_norm_stderr", false, 0, 1e-9},
  };
  return metrics;
}

ordered_json identity_of(const Manifest& m) {
  const ModelConfig& c = m.config;
  return {{"architecture", name(c.architecture)},
          {"model_name", c.model_name},
          {"quantization", m.quantization},
          {"residual", name(c.residual)},
          {"vocab_size", c.vocab_size},
          {"dim", c.dim},
          {"hidden_dim", c.hidden_dim},
          {"n_layers", c.n_layers},
          {"n_heads", c.n_heads},
          {"n_kv_heads", c.n_kv_heads}};
}

namespace {

ordered_json fields(const JsonObject& file, const char* key) {
  const JsonObject object = file.object(key);
  return parse_json<ordered_json>(object.value().dump(), object.where());
}

void expect_equal(const std::string& file, const ordered_json& baseline, const ordered_json& now) {
  for (const auto& [key, value] : now.items()) {
    if (!baseline.contains(key)) throw FormatError(file, key, value.dump(), "nothing");
    if (baseline[key] == value) continue;
    throw UsageError(
        fmt::format("{}: {}: expected {} (this run's), found {}", file, key, value.dump(), baseline[key].dump()));
  }
  for (const auto& [key, value] : baseline.items()) {
    if (!now.contains(key)) {
      throw UsageError(fmt::format("{}: {}: expected a run with it ({}), found one without", file, key, value.dump()));
    }
  }
}

}  // namespace

Baseline::Baseline(const std::string& text, const std::string& file) : file_(file) {
  const JsonObject j = parse_json_object(text, file);
  if (j.string("kind") != "baseline") {
    throw FormatError(file, "kind", "baseline (jupiter eval --update-baseline writes it)", j.string("kind"));
  }
  model_hash_ = j.string("model_hash");
  identity_ = fields(j, "model");
  settings_ = fields(j, "settings");
  const JsonObject metrics = j.object("metrics");
  for (const std::string& key : metrics.keys()) {
    const JsonObject m = metrics.object(key);
    if (key == kHashMetric) {
      entries_.push_back({key, m.string("value"), 0});
    } else {
      entries_.push_back({key, m.within<double>("value", -1e300, 1e300), m.within<double>("tolerance", 0, 1e300)});
    }
  }
}

const Baseline::Entry* Baseline::find(const std::string& metric) const {
  const auto it = std::find_if(entries_.begin(), entries_.end(), [&](const Entry& e) { return e.name == metric; });
  return it == entries_.end() ? nullptr : &*it;
}

void Baseline::check(const ordered_json& identity, const ordered_json& settings,
                     const std::vector<std::string>& metrics) const {
  expect_equal(file_, identity_, identity);
  expect_equal(file_, settings_, settings);
  for (const std::string& m : metrics) {
    if (find(m) == nullptr)
      throw FormatError(file_, m, "a value (this run measures it)", "none: --update-baseline adds it");
  }
  for (const Entry& e : entries_) {
    if (std::find(metrics.begin(), metrics.end(), e.name) == metrics.end()) {
      throw UsageError(fmt::format("{}: {}: expected a run that measures it, found one that does not", file_, e.name));
    }
  }
}

std::vector<Comparison> Baseline::compare(const ordered_json& result) const {
  std::vector<Comparison> rows;
  for (const MetricInfo& m : known_metrics()) {
    const Entry* e = find(m.name);
    if (e == nullptr) continue;
    const double value = result.at(m.name).get<double>(), expected = e->value.get<double>();
    Comparison c{m.name, value, expected, e->tolerance, !(std::abs(value - expected) <= e->tolerance), ""};
    if (c.moved) c.verdict = (value < expected) == m.lower_is_better ? "better" : "worse";
    rows.push_back(std::move(c));
  }
  if (const Entry* e = find(kHashMetric)) {
    const bool same = result.at(kHashMetric) == e->value;
    rows.push_back({kHashMetric, result.at(kHashMetric), e->value, 0, !same, same ? "" : "other bits"});
  }
  return rows;
}

std::string Baseline::update(const ordered_json& identity, const ordered_json& settings, const ordered_json& result,
                             const Baseline* old) {
  ordered_json metrics = ordered_json::object();
  for (const MetricInfo& m : known_metrics()) {
    if (!result.contains(m.name)) continue;
    const double value = result[m.name].get<double>();
    const Entry* before = old != nullptr ? old->find(m.name) : nullptr;
    const double tolerance = std::max(m.relative_tolerance * std::abs(value), m.absolute_tolerance);
    metrics[m.name] = {{"value", value}, {"tolerance", before != nullptr ? before->tolerance : tolerance}};
  }
  if (result.contains(kHashMetric)) metrics[kHashMetric] = {{"value", result[kHashMetric]}};
  const ordered_json all = {{"creator", "jupiter"}, {"kind", "baseline"},
                            {"model", identity},    {"model_hash", result.at("model_hash")},
                            {"settings", settings}, {"metrics", metrics}};
  return all.dump(1) + "\n";
}

}  // namespace jupiter

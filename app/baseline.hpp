// A baseline: what an evaluation gave when it was right, and how far each metric may move.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "io/model/manifest.hpp"

namespace jupiter {

// A metric as results name it.
struct MetricInfo {
  const char* name;
  const char* error;          // field of its standard error; empty: none
  bool lower_is_better;       // for wording only: a move to either side counts
  double relative_tolerance;  // of a new baseline: a share of the value,
  double absolute_tolerance;  // or this
};
// In the order of tables.
const std::vector<MetricInfo>& known_metrics();
inline constexpr const char* kHashMetric = "logits_hash";  // text: equal or not

// One metric beside its baseline.
struct Comparison {
  std::string metric;
  nlohmann::ordered_json value, expected;  // numbers, or texts
  double tolerance = 0;
  bool moved = false;
  std::string verdict;  // "", "better" or "worse", "other bits"
};

// Which model and input a result is of; fields that must agree.
nlohmann::ordered_json identity_of(const Manifest& manifest);

class Baseline {
 public:
  // FormatError naming file and field.
  Baseline(const std::string& text, const std::string& file);
  // UsageError where it is of another model (architecture, shape, vocabulary, name, format) or other settings, or has a
  // metric that `metrics` lacks; FormatError where it lacks one of them. Another model hash is no error: a changed
  // conversion is what a baseline is to find.
  void check(const nlohmann::ordered_json& identity, const nlohmann::ordered_json& settings,
             const std::vector<std::string>& metrics) const;
  std::vector<Comparison> compare(const nlohmann::ordered_json& result) const;
  const std::string& model_hash() const { return model_hash_; }
  // The file of a new baseline; tolerances that `old` (may be null) has are kept.
  static std::string update(const nlohmann::ordered_json& identity, const nlohmann::ordered_json& settings,
                            const nlohmann::ordered_json& result, const Baseline* old);

 private:
  struct Entry {
    std::string name;
    nlohmann::ordered_json value;
    double tolerance = 0;
  };
  const Entry* find(const std::string& metric) const;
  std::string file_, model_hash_;
  nlohmann::ordered_json identity_, settings_;
  std::vector<Entry> entries_;
};

}  // namespace jupiter

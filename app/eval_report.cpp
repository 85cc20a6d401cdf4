// Sums over scores; and the ways to print what came out.
#include "app/eval_report.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "io/hash.hpp"

namespace jupiter {

using nlohmann::ordered_json;

namespace {

// Hands out the scores of one window after the other.
class ScoreReader {
 public:
  ScoreReader(const EvalWork& work, const std::vector<TokenScore>& scores) : work_(work), scores_(scores) {}
  std::span<const TokenScore> next() {
    const auto n = static_cast<std::size_t>(work_.windows[window_++].scored());
    at_ += n;
    return std::span(scores_).subspan(at_ - n, n);
  }

 private:
  const EvalWork& work_;
  const std::vector<TokenScore>& scores_;
  std::size_t window_ = 0, at_ = 0;
};

double sum_nll(std::span<const TokenScore> scores) {
  return std::accumulate(scores.begin(), scores.end(), 0.0, [](double s, const TokenScore& t) { return s + t.nll; });
}

void add_text(const EvalInputs& in, const EvalWork& work, ScoreReader& reader, bool with_reference, ordered_json& j) {
  std::vector<double> nll, kl, window_nll;
  std::int64_t agreed = 0;
  for (std::int64_t w = 0; w < work.text_windows; ++w) {
    const auto scores = reader.next();
    window_nll.push_back(sum_nll(scores));
    for (const TokenScore& s : scores) {
      nll.push_back(s.nll);
      kl.push_back(s.kl);
      agreed += s.best == s.reference_best;
    }
  }
  const MeanError mean = mean_error(nll);
  j["window_tokens"] = in.window;
  j["stride_tokens"] = in.stride;
  j["scored_tokens"] = nll.size();
  j["mean_nll_nats"] = mean.mean;
  j["nll_stderr_nats"] = mean.error;
  j["perplexity"] = std::exp(mean.mean);
  j["perplexity_stderr"] = std::exp(mean.mean) * mean.error;
  j["window_nll_nats"] = window_nll;
  if (!with_reference) return;
  const Distribution d = distribution_of(kl);
  j["kl_mean_nats"] = d.mean;
  j["kl_median_nats"] = d.median;
  j["kl_p99_nats"] = d.percentile_99;
  j["kl_max_nats"] = d.max;
  j["top1_agreement"] = static_cast<double>(agreed) / static_cast<double>(kl.size());
}

// The tokens before a token that is not the most likely one are those that greedy decoding would have produced too, so
// that the first difference is where its text would leave the golden one.
void add_golden(const EvalInputs& in, ScoreReader& reader, ordered_json& j) {
  std::int64_t tokens = 0, matching = 0, agreed = 0, lines = 0;
  ordered_json list = ordered_json::array();
  for (const GoldenLine& g : in.golden) {
    const auto scores = reader.next();
    std::size_t first = 0;
    while (first < scores.size() && scores[first].best == g.tokens[first]) ++first;
    const bool all = first == scores.size();
    ordered_json line = {{"title", g.title}, {"tokens", scores.size()}, {"matching_tokens", first}};
    line["first_difference"] = all ? ordered_json(nullptr) : ordered_json(first);
    if (!all) {
      line["margin"] = scores[first].margin;
      if (!g.margins.empty()) line["golden_margin"] = g.margins[first];
    }
    list.push_back(std::move(line));
    tokens += std::ssize(scores);
    matching += static_cast<std::int64_t>(first);
    lines += all;
    for (std::size_t i = 0; i < scores.size(); ++i) agreed += scores[i].best == g.tokens[i];
  }
  j["golden_lines"] = in.golden.size();
  j["golden_matching_lines"] = lines;
  j["golden_tokens"] = tokens;
  j["golden_matching_tokens"] = matching;
  j["golden_agreement"] = static_cast<double>(agreed) / static_cast<double>(tokens);
  j["golden"] = std::move(list);
}

double characters(const std::string& text) {
  return static_cast<double>(std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xC0) != 0x80; }));
}

// acc: the likeliest choice is the right one; acc_norm: the likeliest by character.
void add_choices(const EvalInputs& in, ScoreReader& reader, ordered_json& j) {
  std::vector<double> right, right_by_length;
  for (const ChoiceLine& c : in.choices) {
    std::vector<double> by_text, by_length;
    for (const std::string& text : c.choices) {
      by_text.push_back(-sum_nll(reader.next()));
      by_length.push_back(by_text.back() / characters(text));
    }
    const auto best = [](const std::vector<double>& v) {
      return static_cast<std::size_t>(std::max_element(v.begin(), v.end()) - v.begin());
    };
    right.push_back(best(by_text) == c.answer);
    right_by_length.push_back(best(by_length) == c.answer);
  }
  const MeanError acc = mean_error(right), acc_norm = mean_error(right_by_length);
  j["questions"] = in.choices.size();
  j["acc"] = acc.mean;
  j["acc_stderr"] = acc.error;
  j["acc_norm"] = acc_norm.mean;
  j["acc_norm_stderr"] = acc_norm.error;
}

}  // namespace

ordered_json summarize(const EvalInputs& inputs, const EvalWork& work, const std::vector<TokenScore>& scores,
                       bool with_reference) {
  ordered_json j = ordered_json::object();
  ScoreReader reader(work, scores);
  if (inputs.text) add_text(inputs, work, reader, with_reference, j);
  if (!inputs.golden.empty()) add_golden(inputs, reader, j);
  if (!inputs.choices.empty()) add_choices(inputs, reader, j);
  return j;
}

ordered_json summarize_check(const EvalWork& work, const ordered_json& cluster, const ordered_json& alone) {
  ordered_json j, list = ordered_json::array();
  bool all_equal = true;
  std::string hashes;
  for (std::size_t i = 0; i < work.check_prompts.size(); ++i) {
    ordered_json row = {{"prompt_tokens", work.check_prompts[i].size()}, {"new_tokens", cluster[i]["tokens"].size()}};
    row["logits_hash"] = cluster[i]["logits_hash"];
    hashes += cluster[i]["logits_hash"].get<std::string>();
    if (!alone.is_null()) {
      row["alone_logits_hash"] = alone[i]["logits_hash"];
      row["equal"] = row["logits_hash"] == row["alone_logits_hash"];
      all_equal = all_equal && row["equal"].get<bool>();
    }
    list.push_back(std::move(row));
  }
  j["self_check"] = std::move(list);
  if (!alone.is_null()) j["self_check_equal"] = all_equal;
  j[kHashMetric] = hex(hash_bytes(hashes));
  return j;
}

namespace {

double number(const ordered_json& j, const char* key) {
  return j[key].get<double>();
}

std::string golden_text(const ordered_json& j) {
  std::string text = fmt::format(
      "golden tokens: {} of {} lines match; {} of {} tokens before a line's first difference; {:.2f} % of all tokens "
      "are "
      "the most likely\n",
      j["golden_matching_lines"].get<int>(), j["golden_lines"].get<int>(), j["golden_matching_tokens"].get<int>(),
      j["golden_tokens"].get<int>(), number(j, "golden_agreement") * 100);
  for (const ordered_json& g : j["golden"]) {
    if (g["first_difference"].is_null()) continue;
    text += fmt::format(
        "  differs first at token {} of {} (margin {:.4f}{}): {}\n", g["first_difference"].get<int>(),
        g["tokens"].get<int>(), number(g, "margin"),
        g.contains("golden_margin") ? fmt::format(" here, {:.4f} in the file", number(g, "golden_margin")) : "",
        g["title"].get<std::string>());
  }
  return text;
}

std::string check_text(const ordered_json& j) {
  std::string text;
  for (const ordered_json& c : j["self_check"]) {
    const std::string verdict =
        !c.contains("equal") ? "not compared with one rank"
                             : fmt::format("bits {} one rank's", c["equal"].get<bool>() ? "equal" : "DIFFER from");
    text += fmt::format("self-check: prompt of {} tokens, {} new ones: {}, {}\n", c["prompt_tokens"].get<int>(),
                        c["new_tokens"].get<int>(), c["logits_hash"].get<std::string>(), verdict);
  }
  return text;
}

std::string value_text(const ordered_json& value) {
  return value.is_string() ? value.get<std::string>() : fmt::format("{:.6f}", value.get<double>());
}

const Comparison* find(const std::vector<Comparison>& rows, const std::string& metric) {
  const auto it = std::find_if(rows.begin(), rows.end(), [&](const Comparison& c) { return c.metric == metric; });
  return it == rows.end() ? nullptr : &*it;
}

// Of the known metrics that the result has.
std::vector<MetricInfo> measured(const ordered_json& result) {
  std::vector<MetricInfo> all;
  for (const MetricInfo& m : known_metrics()) {
    if (result.contains(m.name)) all.push_back(m);
  }
  if (result.contains(kHashMetric)) all.push_back({kHashMetric, "", false, 0, 0});
  return all;
}

std::string xml(const std::string& text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '"':
        out += "&quot;";
        break;
      default:
        out += c;
    }
  }
  return out;
}

std::string test_case(const std::string& group, const std::string& name, const std::string& failure) {
  const std::string head = fmt::format(R"(  <testcase classname="{}" name="{}")", xml(group), xml(name));
  if (failure.empty()) return head + "/>\n";
  return fmt::format("{}>\n    <failure message=\"{}\"/>\n  </testcase>\n", head, xml(failure));
}

}  // namespace

std::string result_text(const ordered_json& j) {
  std::string text;
  if (j.contains("perplexity")) {
    text += fmt::format("perplexity {:.4f} +- {:.4f} over {} tokens (windows of {}, stride {})\n",
                        number(j, "perplexity"), number(j, "perplexity_stderr"), j["scored_tokens"].get<std::int64_t>(),
                        j["window_tokens"].get<std::int64_t>(), j["stride_tokens"].get<std::int64_t>());
  }
  if (j.contains("kl_mean_nats")) {
    text += fmt::format(
        "KL from the reference: mean {:.6f}, median {:.6f}, 99 % {:.6f}, max {:.6f} nats; top-1 agreement {:.2f} %\n",
        number(j, "kl_mean_nats"), number(j, "kl_median_nats"), number(j, "kl_p99_nats"), number(j, "kl_max_nats"),
        number(j, "top1_agreement") * 100);
  }
  if (j.contains("golden")) text += golden_text(j);
  if (j.contains("acc")) {
    text += fmt::format("choices: acc {:.4f} +- {:.4f}, acc_norm {:.4f} +- {:.4f} over {} questions\n",
                        number(j, "acc"), number(j, "acc_stderr"), number(j, "acc_norm"), number(j, "acc_norm_stderr"),
                        j["questions"].get<int>());
  }
  if (j.contains("self_check")) text += check_text(j);
  return text;
}

std::string comparison_text(const std::vector<Comparison>& rows, const std::string& baseline) {
  const auto moved = std::count_if(rows.begin(), rows.end(), [](const Comparison& c) { return c.moved; });
  if (moved == 0) return fmt::format("{}: all {} metrics within their tolerances\n", baseline, rows.size());
  std::string text = fmt::format("{}: {} of {} metrics moved\n{:<24}{:>18}{:>18}{:>14}  {}\n", baseline, moved,
                                 rows.size(), "metric", "baseline", "now", "tolerance", "verdict");
  for (const Comparison& c : rows) {
    text += fmt::format("{:<24}{:>18}{:>18}{:>14}  {}\n", c.metric, value_text(c.expected), value_text(c.value),
                        c.value.is_string() ? "equal" : fmt::format("{:.6f}", c.tolerance),
                        c.moved ? c.verdict : "as it was");
  }
  return text;
}

std::string result_csv(const ordered_json& result, const std::vector<Comparison>& rows) {
  std::string text = "metric,value,stderr,baseline,tolerance,moved\n";
  for (const MetricInfo& m : measured(result)) {
    const Comparison* c = find(rows, m.name);
    const ordered_json& value = result[m.name];
    text += fmt::format("{},{},{},", m.name, value.is_string() ? value.get<std::string>() : value.dump(),
                        *m.error != '\0' ? result[m.error].dump() : "");
    text += c == nullptr
                ? ",,\n"
                : fmt::format("{},{},{}\n", c->expected.is_string() ? value_text(c->expected) : c->expected.dump(),
                              c->value.is_string() ? "" : fmt::format("{}", c->tolerance), c->moved ? 1 : 0);
  }
  return text;
}

std::string result_junit(const ordered_json& result, const std::vector<Comparison>& rows) {
  std::string cases;
  int tests = 0, failures = 0;
  const auto add = [&](const std::string& group, const std::string& name, const std::string& failure) {
    cases += test_case(group, name, failure);
    ++tests;
    failures += !failure.empty();
  };
  for (const MetricInfo& m : measured(result)) {
    const Comparison* c = find(rows, m.name);
    add("eval", m.name,
        c == nullptr || !c->moved ? ""
                                  : fmt::format("{}: baseline {}, now {}, tolerance {}", c->verdict,
                                                value_text(c->expected), value_text(c->value), c->tolerance));
  }
  for (const ordered_json& c : result.value("self_check", ordered_json::array())) {
    if (!c.contains("equal")) continue;
    add("self-check", fmt::format("prompt of {} tokens", c["prompt_tokens"].get<int>()),
        c["equal"].get<bool>() ? "" : "differs from one rank's answer");
  }
  return fmt::format(
      "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuite name=\"jupiter eval\" tests=\"{}\" failures=\"{}\" "
      "timestamp=\"{}\">\n{}</testsuite>\n",
      tests, failures, result.at("date").get<std::string>(), cases);
}

}  // namespace jupiter

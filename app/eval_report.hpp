// From scores of tokens to metrics, and metrics as JSON, table, CSV and JUnit XML.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "app/baseline.hpp"
#include "app/eval_inputs.hpp"

namespace jupiter {

// Fields of the result, by what was evaluated; `scores` of all windows in their order.
//   text: window_tokens, stride_tokens, scored_tokens, mean_nll_nats, nll_stderr_nats, perplexity, perplexity_stderr,
//     window_nll_nats (sums); with a reference kl_mean_nats, kl_median_nats, kl_p99_nats, kl_max_nats, top1_agreement
//   golden: golden_lines, golden_matching_lines, golden_tokens, golden_matching_tokens (before a line's first
//     difference), golden_agreement (share of tokens that are most likely, given those before), golden (line by line)
//   choices: questions, acc, acc_stderr, acc_norm, acc_norm_stderr
nlohmann::ordered_json summarize(const EvalInputs& inputs, const EvalWork& work, const std::vector<TokenScore>& scores,
                                 bool with_reference);
// self_check (prompt by prompt), self_check_equal (all of them), logits_hash. `alone` is to_json of one rank's
// answers.
nlohmann::ordered_json summarize_check(const EvalWork& work, const nlohmann::ordered_json& cluster,
                                       const nlohmann::ordered_json& alone);

// For people; sentences, then the comparison's table where there is one.
std::string result_text(const nlohmann::ordered_json& result);
std::string comparison_text(const std::vector<Comparison>& rows, const std::string& baseline);
// metric,value,stderr,baseline,tolerance,moved
std::string result_csv(const nlohmann::ordered_json& result, const std::vector<Comparison>& rows);
// A test case for each metric (failed where it moved) and each prompt of the self-check.
std::string result_junit(const nlohmann::ordered_json& result, const std::vector<Comparison>& rows);

}  // namespace jupiter

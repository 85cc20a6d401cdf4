// Filters work on a list of candidates, sorted by logit, ties by token id.
#include "kernels/sampler.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <numeric>
#include <unordered_map>

#include "io/error.hpp"
#include "kernels/softmax.hpp"

namespace jupiter {

namespace {

std::uint64_t mix(std::uint64_t x) {  // finaliser of SplitMix64 (Steele, Lea and Flood, 2014)
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  return x ^ (x >> 31);
}

void check_numbers(std::span<const float> logits) {
  for (const float l : logits) {
    if (std::isnan(l)) throw RunError("logits: expected numbers, found NaN (damaged weights, or an overflow)");
  }
}

// Of recent tokens: divides positive and multiplies negative logits (Keskar et al., CTRL, 2019), then takes away the
// penalties of OpenAI's API. Each token once, so the order does not matter.
std::vector<float> penalise(std::span<const float> logits, const SamplingOptions& options,
                            std::span<const std::int32_t> history) {
  std::vector<float> out(logits.begin(), logits.end());
  if (!has_penalties(options)) return out;
  const std::size_t n = std::min<std::size_t>(history.size(), static_cast<std::size_t>(options.repeat_last));
  std::unordered_map<std::int32_t, std::int32_t> recent;
  for (const std::int32_t t : history.last(n)) ++recent[t];
  for (const auto& [t, count] : recent) {
    if (t < 0 || t >= static_cast<std::int32_t>(out.size())) continue;
    out[t] = out[t] > 0 ? out[t] / options.repeat_penalty : out[t] * options.repeat_penalty;
    out[t] -= options.presence_penalty + static_cast<float>(count) * options.frequency_penalty;
  }
  return out;
}

std::int32_t argmax(std::span<const float> logits) {
  return static_cast<std::int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

// Rises where logits fall; -0 is 0.
std::uint32_t falling_key(float logit) {
  const auto bits = std::bit_cast<std::uint32_t>(logit + 0.0f);
  return bits >> 31 != 0 ? bits : 0x7fffffff - bits;
}

// All tokens, best first. Every probability depends on the order of the sum over all of them, so none may be left
// unsorted; three stable passes over 11 bits of the key each are what is cheapest for a whole vocabulary.
std::vector<Candidate> sort_all(const std::vector<float>& logits) {
  struct Entry {
    std::uint32_t key;
    std::int32_t token;
  };
  constexpr int kDigitBits = 11;
  constexpr std::uint32_t kDigit = (1u << kDigitBits) - 1;
  std::vector<Entry> entries(logits.size()), moved(logits.size());
  for (std::size_t i = 0; i < logits.size(); ++i) entries[i] = {falling_key(logits[i]), static_cast<std::int32_t>(i)};
  for (int shift = 0; shift < 32; shift += kDigitBits) {
    std::array<std::size_t, kDigit + 1> ends{};
    for (const Entry& e : entries) ++ends[e.key >> shift & kDigit];
    std::exclusive_scan(ends.begin(), ends.end(), ends.begin(), std::size_t{0});
    for (const Entry& e : entries) moved[ends[e.key >> shift & kDigit]++] = e;
    entries.swap(moved);
  }
  std::vector<Candidate> candidates(logits.size());
  for (std::size_t i = 0; i < entries.size(); ++i) candidates[i] = {entries[i].token, 0};
  return candidates;
}

// The best `count` tokens, best first, equal ones by rising id.
std::vector<Candidate> best_tokens(const std::vector<float>& logits, std::size_t count) {
  constexpr std::size_t kFew = 16;  // a heap of less than this part of the vocabulary is cheaper than sorting all
  std::vector<Candidate> candidates(logits.size());
  if (count > logits.size() / kFew) {
    candidates = sort_all(logits);
  } else {
    for (std::size_t i = 0; i < logits.size(); ++i) candidates[i] = {static_cast<std::int32_t>(i), 0};
    const auto better = [&](const Candidate& a, const Candidate& b) {
      return logits[a.token] != logits[b.token] ? logits[a.token] > logits[b.token] : a.token < b.token;
    };
    const auto end = candidates.begin() + count;
    std::partial_sort(candidates.begin(), end, candidates.end(), better);
  }
  candidates.resize(count);
  return candidates;
}

// The candidates' probabilities at temperature 1 / factor. They are sorted, so the first one has the largest logit.
void set_probabilities(const KernelTable& kernels, const std::vector<float>& logits, double factor,
                       std::vector<Candidate>& candidates) {
  std::vector<float> x(candidates.size());
  for (std::size_t i = 0; i < x.size(); ++i) {
    x[i] =
        static_cast<float>((static_cast<double>(logits[candidates[i].token]) - logits[candidates[0].token]) * factor);
  }
  const double sum = exponentials(kernels, x);
  for (std::size_t i = 0; i < x.size(); ++i) candidates[i].probability = static_cast<float>(x[i] / sum);
}

void keep_top_p(std::vector<Candidate>& candidates, float top_p) {
  double sum = 0;
  for (std::size_t i = 0; i < candidates.size(); ++i) {
    sum += candidates[i].probability;
    if (sum >= top_p) {
      candidates.resize(i + 1);
      return;
    }
  }
}

void keep_min_p(std::vector<Candidate>& candidates, float min_p) {
  const float least = min_p * candidates[0].probability;
  std::size_t kept = 1;
  while (kept < candidates.size() && candidates[kept].probability >= least) ++kept;
  candidates.resize(kept);
}

}  // namespace

double uniform(std::uint64_t seed, std::int64_t position, std::uint32_t draw) {
  std::uint64_t x = mix(seed + 0x9e3779b97f4a7c15ull);
  x = mix(x ^ (static_cast<std::uint64_t>(position) + 0x9e3779b97f4a7c15ull));
  x = mix(x ^ (std::uint64_t{draw} + 0x9e3779b97f4a7c15ull));
  return static_cast<double>(x >> 11) * 0x1p-53;
}

std::vector<Candidate> distribution(const KernelTable& kernels, std::span<const float> raw,
                                    const SamplingOptions& options, std::span<const std::int32_t> history) {
  check_numbers(raw);
  const std::vector<float> logits = penalise(raw, options, history);
  const std::size_t k = options.top_k > 0 ? std::min<std::size_t>(options.top_k, logits.size()) : logits.size();
  std::vector<Candidate> candidates = best_tokens(logits, k);
  if (options.top_p < 1 || options.min_p > 0) set_probabilities(kernels, logits, 1.0, candidates);
  if (options.top_p < 1) keep_top_p(candidates, options.top_p);
  if (options.min_p > 0) keep_min_p(candidates, options.min_p);
  set_probabilities(kernels, logits, 1.0 / static_cast<double>(options.temperature), candidates);
  return candidates;
}

std::int32_t sample(const KernelTable& kernels, std::span<const float> logits, const SamplingOptions& options,
                    std::span<const std::int32_t> history, std::int64_t position) {
  if (options.temperature <= 0) {
    check_numbers(logits);
    return has_penalties(options) ? argmax(penalise(logits, options, history)) : argmax(logits);
  }
  const std::vector<Candidate> candidates = distribution(kernels, logits, options, history);
  const double u = uniform(options.seed, position, 0);
  double sum = 0;
  std::int32_t last = candidates.front().token;
  for (const Candidate& c : candidates) {
    sum += c.probability;
    if (u < sum) return c.token;
    if (c.probability > 0) last = c.token;
  }
  return last;  // rounding left the sum below u; what is ruled out has no probability
}

std::vector<float> biased(std::span<const float> logits, std::span<const LogitBias> biases) {
  std::vector<float> out(logits.begin(), logits.end());
  for (const LogitBias& b : biases) {
    if (b.token >= 0 && b.token < std::ssize(out)) out[b.token] += b.bias;
  }
  return out;
}

std::vector<TokenLogprob> top_logprobs(const KernelTable& kernels, std::span<const float> logits, std::int32_t chosen,
                                       std::int32_t count) {
  const float most = largest(logits);
  std::vector<float> scratch(logits.size());
  const double sum = log_sum_exp(kernels, logits, most, scratch);
  const auto logprob = [&](std::int32_t t) {
    return TokenLogprob{t, static_cast<float>(static_cast<double>(logits[t]) - sum)};
  };
  std::vector<TokenLogprob> all{logprob(chosen)};
  if (count <= 0) return all;
  const std::vector<float> copy(logits.begin(), logits.end());
  for (const Candidate& c : best_tokens(copy, std::min<std::size_t>(count, copy.size())))
    all.push_back(logprob(c.token));
  return all;
}

TypicalAcceptance::TypicalAcceptance(const KernelTable& kernels, std::span<const float> logits)
    : probabilities_(logits.begin(), logits.end()) {
  constexpr double temperature = 0.7, least = 0.09, share = 0.3;
  check_numbers(logits);
  const float best = largest(logits);
  for (float& p : probabilities_) p = static_cast<float>((static_cast<double>(p) - best) / temperature);
  normalise(probabilities_, exponentials(kernels, probabilities_));
  double entropy = 0;
  for (const float p : probabilities_) {
    if (p > 0) entropy -= static_cast<double>(p) * std::log(static_cast<double>(p));
  }
  threshold_ = std::min(least, share * std::exp(-entropy));
}

}  // namespace jupiter

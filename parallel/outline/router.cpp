// Features: words, pairs of words, and the first one to three words; each counts once.
#include "parallel/outline/router.hpp"

#include <algorithm>
#include <cmath>
#include <set>
#include <string>
#include <vector>

namespace jupiter {

namespace {

constexpr std::size_t kMaxWords = 64;

// Runs of letters, lower case; runs of digits as "0".
std::vector<std::string> words_of(std::string_view text) {
  enum class Kind { other, letter, digit };
  const auto kind = [](char c) {
    if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z')) return Kind::letter;
    return c >= '0' && c <= '9' ? Kind::digit : Kind::other;
  };
  std::vector<std::string> words;
  for (std::size_t at = 0; at < text.size() && words.size() < kMaxWords;) {
    const Kind k = kind(text[at]);
    std::string word;
    for (; at < text.size() && kind(text[at]) == k; ++at) {
      word += text[at] >= 'A' && text[at] <= 'Z' ? static_cast<char>(text[at] + 32) : text[at];
    }
    if (k != Kind::other) words.push_back(k == Kind::digit ? "0" : word);
  }
  return words;
}

float weight_of(const std::string& feature) {
  const auto it = std::lower_bound(kRouterWeights.begin(), kRouterWeights.end(), feature,
                                   [](const RouterWeight& w, const std::string& f) { return w.feature < f; });
  return it != kRouterWeights.end() && it->feature == feature ? it->weight : 0;
}

}  // namespace

double outline_suits(std::string_view question) {
  const std::vector<std::string> words = words_of(question);
  std::set<std::string> features(words.begin(), words.end());
  std::string start = "^";
  for (std::size_t i = 0; i < words.size(); ++i) {
    if (i + 1 < words.size()) features.insert(words[i] + " " + words[i + 1]);
    if (i < 3) features.insert(start += (i > 0 ? " " : "") + words[i]);
  }
  double z = kRouterBias;
  for (const std::string& f : features) z += weight_of(f);
  return 1 / (1 + std::exp(-z));
}

}  // namespace jupiter

// Whether an outline suits a question: independent points (knowledge, advice, comparison, what if), rather than
// writing, code, mathematics or reasoning step by step. A logistic regression on words that jobs/train/train-router.py
// trains.
#pragma once

#include <array>
#include <string_view>

namespace jupiter {

struct RouterWeight {
  std::string_view feature;
  float weight;
};
constexpr std::size_t kRouterFeatures = 420;
extern const std::array<RouterWeight, kRouterFeatures> kRouterWeights;  // sorted by feature
extern const float kRouterBias;

// Probability that the question's answer is a list of independent points.
double outline_suits(std::string_view question);

}  // namespace jupiter

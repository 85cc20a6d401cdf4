// Softmax over a row of logits, for everything but attention (whose softmax runs online over blocks of keys,
// kernels/attention.cpp). Exponentials are the kernels' own; sums are made in double, in an order that is fixed by the
// caller's choice, because another order gives other bits.
#pragma once

#include <span>
#include <vector>

#include "kernels/kernel_table.hpp"

namespace jupiter {

enum class SumOrder {
  sequential,  // element by element: the sampler, drafters, training
  lanes,       // element i in lane i % 16, the last elements in lane 0, then the lanes one by one: evaluation, where it
               // takes most of the time
};

// The largest of the values, of which there must be one. Its order does not matter.
float largest(std::span<const float> values);

// x[i] becomes exp(x[i]), where x[i] <= 0 is a logit minus the largest one. Returns the sum of the exponentials.
template <SumOrder order = SumOrder::sequential>
double exponentials(const KernelTable& kernels, std::span<float> x);

// out[i] = exp(logits[i] - most), with the difference in float; most: largest(logits). out has the size of logits and
// may be logits. Returns the sum of `out`, so that out[i] / sum is the probability of i.
template <SumOrder order = SumOrder::sequential>
double exponentials(const KernelTable& kernels, std::span<const float> logits, float most, std::span<float> out);

// x[i] becomes x[i] / sum, divided in double and rounded once.
void normalise(std::span<float> x, double sum);

// log(sum of exp(logits)), with the sum in lanes. most: largest(logits). scratch gets the exponentials.
double log_sum_exp(const KernelTable& kernels, std::span<const float> logits, float most, std::vector<float>& scratch);

}  // namespace jupiter

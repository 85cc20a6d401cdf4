// What the machine can do at best: multiplications of integers and floats, and reading memory, on one core.
#pragma once

#include <cstddef>

namespace jupiter::testing {

// Multiply-adds per second of the widest int8 dot product that this build knows (0: none), in registers, with enough
// independent sums (16) to hide its latency: with 4 the same core shows half.
double integer_peak();
// The same of f32 fused multiply-adds.
double float_peak();
// Bytes per second of reading `bytes` once, from memory if they are far more than the caches hold.
double read_peak(const std::byte* data, std::size_t bytes);

}  // namespace jupiter::testing

// What one core can do at best with floats; kernels/peak.hpp has the rest.
#pragma once

namespace jupiter::testing {

// f32 fused multiply-adds per second in registers, with enough independent sums to hide the latency; 0 where this file
// knows no instruction for them.
double float_peak();

}  // namespace jupiter::testing

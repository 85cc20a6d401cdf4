// Quantisation of float rows into the packed formats, for `convert --quant`.
#pragma once

#include "io/model/packed.hpp"

namespace jupiter {

// Nearest-even rounding to 8 bits; scale = largest magnitude / 127, in f16. x: [cols].
void quantize_q8(const float* x, std::int64_t cols, QuantizedRow& out);
// 4 bits with minimum: the scale and minimum of each group that give the least squared error among a few shrunken
// ranges. x: [cols].
void quantize_q4m(const float* x, std::int64_t cols, QuantizedRow& out);

}  // namespace jupiter

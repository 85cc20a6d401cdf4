// Quantisation of float rows into the packed formats, for `convert --quant`.
#pragma once

#include "io/model/packed.hpp"

namespace jupiter {

// Rounds to 8 bits, nearest even, with scale = largest magnitude / 127 in f16. x: [cols].
void quantize_q8(const float* x, std::int64_t cols, QuantizedRow& out);
// Rounds to 4 bits with a minimum. Of a few shrunken ranges each group takes the scale and minimum that give the least
// squared error. x: [cols].
void quantize_q4m(const float* x, std::int64_t cols, QuantizedRow& out);

}  // namespace jupiter

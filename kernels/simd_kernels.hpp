// A whole table of kernels from one Isa.
#pragma once

#include "kernels/kernel_table.hpp"
#include "kernels/simd_attention.hpp"
#include "kernels/simd_math.hpp"
#include "kernels/simd_matmul.hpp"

namespace jupiter {
namespace {

template <class Isa>
constexpr KernelTable simd_table(const char* name) {
  return {name,        quantize_rows<Isa>, matmul_quantized<Isa>, matmul_float<Isa>, rms_norm<Isa>, rope<Isa>,
          swiglu<Isa>, geglu<Isa>,         bounded_swiglu<Isa>,   softcap<Isa>,      add<Isa>,      widen<Isa>,
          narrow<Isa>, attend_block<Isa>,  attend_finish<Isa>,    exponential<Isa>};
}

}  // namespace
}  // namespace jupiter

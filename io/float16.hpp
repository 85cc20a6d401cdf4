// Half precision and bfloat16 in software: bit-exact conversions, nearest even, the same on every machine.
#pragma once

#include <bit>
#include <cstdint>

namespace jupiter {

using f16_t = std::uint16_t;   // IEEE binary16 bits
using bf16_t = std::uint16_t;  // upper half of binary32 bits

inline float f16_to_f32(f16_t h) {
  const std::uint32_t sign = static_cast<std::uint32_t>(h & 0x8000u) << 16;
  const std::uint32_t rest = h & 0x7fffu;
  if (rest >= 0x7c00u) return std::bit_cast<float>(sign | 0x7f800000u | ((rest & 0x3ffu) << 13));  // inf, NaN
  if (rest >= 0x400u) return std::bit_cast<float>(sign | ((rest << 13) + (112u << 23)));
  const float magnitude = static_cast<float>(rest) * 0x1p-24f;  // subnormal: exact
  return std::bit_cast<float>(sign | std::bit_cast<std::uint32_t>(magnitude));
}

// Values over 65504 become infinity; the caller checks where that is an error.
inline f16_t f32_to_f16(float x) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(x);
  const std::uint32_t sign = (bits >> 16) & 0x8000u;
  const std::uint32_t mag = bits & 0x7fffffffu;
  if (mag >= 0x7f800000u) return static_cast<f16_t>(sign | 0x7c00u | (mag > 0x7f800000u ? 0x200u : 0u));
  if (mag >= 0x477ff000u) return static_cast<f16_t>(sign | 0x7c00u);  // rounds to 65536 or more
  if (mag < 0x38800000u) {                                            // below 2^-14: subnormal
    const float shifted = std::bit_cast<float>(mag) + 0.5f;           // ulp of 0.5 is 2^-24: rounds to nearest even
    return static_cast<f16_t>(sign | (std::bit_cast<std::uint32_t>(shifted) - 0x3f000000u));
  }
  const std::uint32_t rounded = mag + 0xfffu + ((mag >> 13) & 1u);
  return static_cast<f16_t>(sign | ((rounded - (112u << 23)) >> 13));
}

inline float bf16_to_f32(bf16_t h) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(h) << 16);
}

inline bf16_t f32_to_bf16(float x) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(x);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<bf16_t>((bits >> 16) | 0x40u);  // quiet NaN
  return static_cast<bf16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

}  // namespace jupiter

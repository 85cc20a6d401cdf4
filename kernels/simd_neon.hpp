// NEON (aarch64): the registers shared by neon.cpp and neon_dotprod.cpp, which add the int8 dot product.
#pragma once

#include <arm_neon.h>

#include "kernels/simd_kernels.hpp"

namespace jupiter {
namespace {

struct NeonLanes {
  static constexpr int kLanes = 4;
  static constexpr int kTileRows = 8;  // 8 sums, 8 quads of weights, 2 registers of activations a row
  static constexpr int kTileRegisters = 16;
  static constexpr int kInterleave = 4;
  static constexpr int kFloatTile = 2;
  static constexpr int kAttendRows = 2;
  static constexpr bool kSignedQ8 = true;

  using F = float32x4_t;
  using I = int32x4_t;
  using Bytes = uint8x16_t;

  static JUPITER_INLINE F load(const float* p) { return vld1q_f32(p); }
  static JUPITER_INLINE void store(float* p, F a) { vst1q_f32(p, a); }
  static JUPITER_INLINE F set1(float x) { return vdupq_n_f32(x); }
  static JUPITER_INLINE F add(F a, F b) { return vaddq_f32(a, b); }
  static JUPITER_INLINE F sub(F a, F b) { return vsubq_f32(a, b); }
  static JUPITER_INLINE F mul(F a, F b) { return vmulq_f32(a, b); }
  static JUPITER_INLINE F div(F a, F b) { return vdivq_f32(a, b); }
  static JUPITER_INLINE F fma(F a, F b, F c) { return vfmaq_f32(c, a, b); }
  static JUPITER_INLINE F negate(F a) { return vnegq_f32(a); }
  static JUPITER_INLINE F larger(F a, F b) { return vbslq_f32(vcgtq_f32(a, b), a, b); }
  static JUPITER_INLINE float largest(F a) { return vmaxvq_f32(a); }
  static JUPITER_INLINE F at_most(F a, F limit) { return vbslq_f32(vcgtq_f32(a, limit), limit, a); }  // NaN stays
  static JUPITER_INLINE F zero_if_less(F x, F limit, F value) {
    return as_float(vbicq_s32(bits(value), vreinterpretq_s32_u32(vcltq_f32(x, limit))));
  }

  static JUPITER_INLINE I bits(F a) { return vreinterpretq_s32_f32(a); }
  static JUPITER_INLINE F as_float(I a) { return vreinterpretq_f32_s32(a); }
  static JUPITER_INLINE F power_of_two(F shifted) {
    return as_float(vaddq_s32(vshlq_n_s32(bits(shifted), 23), vdupq_n_s32(kOneBits)));
  }
  static JUPITER_INLINE I set1_int(std::int32_t x) { return vdupq_n_s32(x); }
  static JUPITER_INLINE I add_int(I a, I b) { return vaddq_s32(a, b); }
  static JUPITER_INLINE I and_int(I a, I b) { return vandq_s32(a, b); }
  template <int kBits>
  static JUPITER_INLINE I shift_left(I a) {
    return vshlq_n_s32(a, kBits);
  }
  template <int kBits>
  static JUPITER_INLINE I shift_right(I a) {  // of what is not negative
    return vshrq_n_s32(a, kBits);
  }
  static JUPITER_INLINE I larger_int(I a, I b) { return vmaxq_s32(a, b); }
  static JUPITER_INLINE std::int32_t largest_int(I a) { return vmaxvq_s32(a); }
  static JUPITER_INLINE std::int32_t sum_int(I a) { return vaddvq_s32(a); }
  static JUPITER_INLINE I magnitude_bits(F a) { return vandq_s32(bits(a), vdupq_n_s32(INT32_MAX)); }
  static JUPITER_INLINE I nearest_int(F a) { return vcvtnq_s32_f32(a); }  // nearest even
  static JUPITER_INLINE void store_i8(std::int8_t* p, I a) {
    const int16x4_t words = vmovn_s32(a);
    const int8x8_t bytes = vmovn_s16(vcombine_s16(words, words));
    const std::int32_t four = vget_lane_s32(vreinterpret_s32_s8(bytes), 0);
    __builtin_memcpy(p, &four, sizeof four);
  }

  static JUPITER_INLINE uint16x4_t load_u16(const std::byte* p) {
    return vld1_u16(reinterpret_cast<const std::uint16_t*>(p));
  }
  static JUPITER_INLINE F load_f16(const std::byte* p) { return vcvt_f32_f16(vreinterpret_f16_u16(load_u16(p))); }
  static JUPITER_INLINE F load_bf16(const std::byte* p) { return vreinterpretq_f32_u32(vshll_n_u16(load_u16(p), 16)); }
  static JUPITER_INLINE void store_f16(std::uint16_t* p, F a) { vst1_u16(p, vreinterpret_u16_f16(vcvt_f16_f32(a))); }
  static JUPITER_INLINE void store_bf16(std::uint16_t* p, F a) {
    const uint32x4_t u = vreinterpretq_u32_f32(a);
    const uint32x4_t odd = vandq_u32(vshrq_n_u32(u, 16), vdupq_n_u32(1));
    vst1_u16(p, vshrn_n_u32(vaddq_u32(u, vaddq_u32(odd, vdupq_n_u32(0x7fff))), 16));
  }
  static JUPITER_INLINE uint8x8_t load_four(const std::byte* p) {
    std::uint32_t four;
    __builtin_memcpy(&four, p, sizeof four);
    return vreinterpret_u8_u32(vdup_n_u32(four));
  }
  static JUPITER_INLINE I load_u8_int(const std::byte* p) {
    return vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(vmovl_u8(load_four(p)))));
  }
  static JUPITER_INLINE F load_u8(const std::byte* p) { return to_float(load_u8_int(p)); }
  static JUPITER_INLINE F load_i8(const std::byte* p) {
    return vcvtq_f32_s32(vmovl_s16(vget_low_s16(vmovl_s8(vreinterpret_s8_u8(load_four(p))))));
  }

  // ---- weights: bytes that are small enough to be signed; q8 comes without its zero point
  static JUPITER_INLINE Bytes load_bytes(const std::byte* p) {
    return vld1q_u8(reinterpret_cast<const std::uint8_t*>(p));
  }
  static JUPITER_INLINE Bytes load_q8(const std::byte* p) { return veorq_u8(load_bytes(p), vdupq_n_u8(128)); }
  static JUPITER_INLINE Bytes low_nibbles(Bytes b) { return vandq_u8(b, vdupq_n_u8(15)); }
  static JUPITER_INLINE Bytes high_nibbles(Bytes b) { return vshrq_n_u8(b, 4); }
  // bits 2t and 2t+1 of each byte
  template <int kT>
  static JUPITER_INLINE Bytes two_bits(Bytes b) {
    if constexpr (kT == 0) return vandq_u8(b, vdupq_n_u8(3));
    if constexpr (kT > 0) return vandq_u8(vshrq_n_u8(b, 2 * kT), vdupq_n_u8(3));
  }
  // levels[code] of each byte below 16; those of eight bits come without their zero point
  template <bool kEightBits>
  static JUPITER_INLINE Bytes lookup(const Levels& levels, Bytes codes) {
    const Bytes table = vld1q_u8(levels.data());
    return vqtbl1q_u8(kEightBits ? veorq_u8(table, vdupq_n_u8(128)) : table, codes);
  }
  template <int kBit>
  static JUPITER_INLINE Bytes add_bit(Bytes q, const std::byte* mask) {
    const auto* m = reinterpret_cast<const std::uint8_t*>(mask);
    const uint8x8_t bit_of = vcreate_u8(0x8040201008040201ull);
    const Bytes set = vcombine_u8(vtst_u8(vdup_n_u8(m[0]), bit_of), vtst_u8(vdup_n_u8(m[1]), bit_of));
    return vorrq_u8(q, vandq_u8(set, vdupq_n_u8(1 << kBit)));
  }
  // q | bits 2t and 2t+1 of `high` as bits 4 and 5
  template <int kT>
  static JUPITER_INLINE Bytes add_bits45(Bytes q, Bytes high) {
    Bytes at = high;
    if constexpr (kT == 0) at = vshlq_n_u8(high, 4);
    if constexpr (kT == 1) at = vshlq_n_u8(high, 2);
    if constexpr (kT == 3) at = vshrq_n_u8(high, 2);
    return vorrq_u8(q, vandq_u8(at, vdupq_n_u8(0x30)));
  }

  // x * kZero in all lanes
  template <int kZero>
  static JUPITER_INLINE I times(std::int32_t x) {
    return vdupq_n_s32(x * kZero);
  }
  static JUPITER_INLINE F to_float(I a) { return vcvtq_f32_s32(a); }
};

}  // namespace
}  // namespace jupiter

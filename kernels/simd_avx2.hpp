// AVX2 with FMA and F16C: the registers shared by avx2.cpp and avx_vnni.cpp, which add the int8 dot product.
#pragma once

#include <immintrin.h>

#include "kernels/simd_kernels.hpp"

namespace jupiter {
namespace {

using AnyInt __attribute__((may_alias)) = std::int32_t;

struct Avx2Lanes {
  static constexpr int kLanes = 8;
  static constexpr int kTileRows = 4;  // 4 sums and 8 quads of weights of 16 registers
  static constexpr int kTileRegisters = 4;
  static constexpr int kInterleave = 2;
  static constexpr int kFloatTile = 2;
  static constexpr int kAttendRows = 2;

  using F = __m256;
  using I = __m256i;
  using Bytes = __m256i;

  static JUPITER_INLINE F load(const float* p) { return _mm256_loadu_ps(p); }
  static JUPITER_INLINE void store(float* p, F a) { _mm256_storeu_ps(p, a); }
  static JUPITER_INLINE F set1(float x) { return _mm256_set1_ps(x); }
  static JUPITER_INLINE F add(F a, F b) { return _mm256_add_ps(a, b); }
  static JUPITER_INLINE F sub(F a, F b) { return _mm256_sub_ps(a, b); }
  static JUPITER_INLINE F mul(F a, F b) { return _mm256_mul_ps(a, b); }
  static JUPITER_INLINE F div(F a, F b) { return _mm256_div_ps(a, b); }
  static JUPITER_INLINE F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
  static JUPITER_INLINE F negate(F a) { return _mm256_xor_ps(a, _mm256_set1_ps(-0.0f)); }
  static JUPITER_INLINE F larger(F a, F b) { return _mm256_max_ps(a, b); }
  static JUPITER_INLINE float largest(F a) {
    __m128 m = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    m = _mm_max_ps(m, _mm_movehl_ps(m, m));
    return _mm_cvtss_f32(_mm_max_ss(m, _mm_movehdup_ps(m)));
  }
  static JUPITER_INLINE F at_most(F a, F limit) { return _mm256_min_ps(limit, a); }  // NaN stays
  static JUPITER_INLINE F zero_if_less(F x, F limit, F value) {
    return _mm256_andnot_ps(_mm256_cmp_ps(x, limit, _CMP_LT_OQ), value);
  }

  static JUPITER_INLINE I bits(F a) { return _mm256_castps_si256(a); }
  static JUPITER_INLINE F as_float(I a) { return _mm256_castsi256_ps(a); }
  static JUPITER_INLINE F power_of_two(F shifted) {
    return as_float(_mm256_add_epi32(_mm256_slli_epi32(bits(shifted), 23), _mm256_set1_epi32(kOneBits)));
  }
  static JUPITER_INLINE I set1_int(std::int32_t x) { return _mm256_set1_epi32(x); }
  static JUPITER_INLINE I add_int(I a, I b) { return _mm256_add_epi32(a, b); }
  static JUPITER_INLINE I and_int(I a, I b) { return _mm256_and_si256(a, b); }
  template <int kBits>
  static JUPITER_INLINE I shift_left(I a) {
    return _mm256_slli_epi32(a, kBits);
  }
  template <int kBits>
  static JUPITER_INLINE I shift_right(I a) {
    return _mm256_srli_epi32(a, kBits);
  }
  static JUPITER_INLINE I larger_int(I a, I b) { return _mm256_max_epi32(a, b); }
  static JUPITER_INLINE std::int32_t largest_int(I a) {
    __m128i m = _mm_max_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
    m = _mm_max_epi32(m, _mm_shuffle_epi32(m, 0x4e));
    return _mm_cvtsi128_si32(_mm_max_epi32(m, _mm_shuffle_epi32(m, 0xb1)));
  }
  static JUPITER_INLINE std::int32_t sum_int(I a) {
    __m128i m = _mm_add_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
    m = _mm_add_epi32(m, _mm_shuffle_epi32(m, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(m, _mm_shuffle_epi32(m, 0xb1)));
  }
  static JUPITER_INLINE I magnitude_bits(F a) { return _mm256_and_si256(bits(a), _mm256_set1_epi32(INT32_MAX)); }
  static JUPITER_INLINE I nearest_int(F a) { return _mm256_cvtps_epi32(a); }  // nearest even
  static JUPITER_INLINE __m128i to_16(I a) {                                  // values fit
    return _mm_packs_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
  }
  static JUPITER_INLINE void store_i8(std::int8_t* p, I a) {
    const __m128i words = to_16(a);
    _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packs_epi16(words, words));
  }

  static JUPITER_INLINE __m128i load_128(const void* p) { return _mm_loadu_si128(static_cast<const __m128i*>(p)); }
  static JUPITER_INLINE __m128i load_64(const void* p) { return _mm_loadl_epi64(static_cast<const __m128i*>(p)); }
  static JUPITER_INLINE F load_f16(const std::byte* p) { return _mm256_cvtph_ps(load_128(p)); }
  static JUPITER_INLINE F load_bf16(const std::byte* p) {
    return as_float(_mm256_slli_epi32(_mm256_cvtepu16_epi32(load_128(p)), 16));
  }
  static JUPITER_INLINE void store_f16(std::uint16_t* p, F a) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT));
  }
  static JUPITER_INLINE void store_bf16(std::uint16_t* p, F a) {
    const I odd = _mm256_and_si256(_mm256_srli_epi32(bits(a), 16), _mm256_set1_epi32(1));
    const I rounded = _mm256_add_epi32(bits(a), _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    // An arithmetic shift keeps the upper half's sign, so that the signed pack keeps its bits.
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), to_16(_mm256_srai_epi32(rounded, 16)));
  }
  static JUPITER_INLINE I load_u8_int(const std::byte* p) { return _mm256_cvtepu8_epi32(load_64(p)); }
  static JUPITER_INLINE F load_u8(const std::byte* p) { return to_float(load_u8_int(p)); }
  static JUPITER_INLINE F load_i8(const std::byte* p) { return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(load_64(p))); }

  // ---- weights: unsigned bytes
  static JUPITER_INLINE Bytes load_bytes(const std::byte* p) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  }
  static JUPITER_INLINE Bytes low_nibbles(Bytes b) { return _mm256_and_si256(b, _mm256_set1_epi8(15)); }
  static JUPITER_INLINE Bytes high_nibbles(Bytes b) { return low_nibbles(_mm256_srli_epi16(b, 4)); }
  // bits 2t and 2t+1 of each byte
  template <int kT>
  static JUPITER_INLINE Bytes two_bits(Bytes b) {
    return _mm256_and_si256(_mm256_srli_epi16(b, 2 * kT), _mm256_set1_epi8(3));
  }
  // levels[code] of each byte below 16
  static JUPITER_INLINE Bytes look_up(const Levels& levels, Bytes codes) {
    return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(load_128(levels.data())), codes);
  }
  template <int kBit>
  static JUPITER_INLINE Bytes add_bit(Bytes q, const std::byte* mask) {
    const I all = _mm256_set1_epi32(*reinterpret_cast<const AnyInt*>(mask));
    const I byte_of = _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303);
    const I bit_of = _mm256_set1_epi64x(static_cast<long long>(0x8040201008040201ull));
    const I set = _mm256_cmpeq_epi8(_mm256_and_si256(_mm256_shuffle_epi8(all, byte_of), bit_of), bit_of);
    return _mm256_or_si256(q, _mm256_and_si256(set, _mm256_set1_epi8(1 << kBit)));
  }
  // q | bits 2t and 2t+1 of `high` as bits 4 and 5
  template <int kT>
  static JUPITER_INLINE Bytes add_bits45(Bytes q, Bytes high) {
    Bytes at = high;
    if constexpr (kT == 0) at = _mm256_slli_epi16(high, 4);
    if constexpr (kT == 1) at = _mm256_slli_epi16(high, 2);
    if constexpr (kT == 3) at = _mm256_srli_epi16(high, 2);
    return _mm256_or_si256(q, _mm256_and_si256(at, _mm256_set1_epi8(0x30)));
  }

  static JUPITER_INLINE Bytes broadcast_quad(const std::int8_t* x) {
    return _mm256_set1_epi32(*reinterpret_cast<const AnyInt*>(x));
  }
  // x * kZero in all lanes
  template <int kZero>
  static JUPITER_INLINE I times(std::int32_t x) {
    return _mm256_set1_epi32(x * kZero);
  }
  static JUPITER_INLINE F to_float(I a) { return _mm256_cvtepi32_ps(a); }
};

}  // namespace
}  // namespace jupiter

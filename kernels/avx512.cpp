// AVX-512 with VNNI: one register holds 16 lanes, and 16 outputs by 4 columns of weights.
#include <immintrin.h>

#include "kernels/simd_kernels.hpp"
#include "kernels/simd_tables.hpp"

namespace jupiter {
namespace {

using AnyInt __attribute__((may_alias)) = std::int32_t;

struct Avx512 {
  static constexpr int kLanes = 16;
  static constexpr int kTileRows = 16;  // 16 sums, 8 quads of weights, scale, minimum: 26 of 32 registers
  static constexpr int kTileRegisters = 16;
  static constexpr int kInterleave = 4;  // rows whose chains of dot products alternate
  static constexpr int kFloatTile = 4;
  static constexpr int kAttendRows = 8;
  static constexpr bool kSignedQ8 = false;

  using F = __m512;
  using I = __m512i;
  using Bytes = __m512i;

  static JUPITER_INLINE F load(const float* p) { return _mm512_loadu_ps(p); }
  static JUPITER_INLINE void store(float* p, F a) { _mm512_storeu_ps(p, a); }
  static JUPITER_INLINE F set1(float x) { return _mm512_set1_ps(x); }
  static JUPITER_INLINE F add(F a, F b) { return _mm512_add_ps(a, b); }
  static JUPITER_INLINE F sub(F a, F b) { return _mm512_sub_ps(a, b); }
  static JUPITER_INLINE F mul(F a, F b) { return _mm512_mul_ps(a, b); }
  static JUPITER_INLINE F div(F a, F b) { return _mm512_div_ps(a, b); }
  static JUPITER_INLINE F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
  static JUPITER_INLINE F negate(F a) { return as_float(_mm512_xor_si512(bits(a), _mm512_set1_epi32(INT32_MIN))); }
  static JUPITER_INLINE F larger(F a, F b) { return _mm512_max_ps(a, b); }
  static JUPITER_INLINE float largest(F a) { return _mm512_reduce_max_ps(a); }
  static JUPITER_INLINE F at_most(F a, F limit) { return _mm512_min_ps(limit, a); }  // NaN stays
  static JUPITER_INLINE F zero_if_less(F x, F limit, F value) {
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, limit, _CMP_NLT_UQ), value);
  }

  static JUPITER_INLINE I bits(F a) { return _mm512_castps_si512(a); }
  static JUPITER_INLINE F as_float(I a) { return _mm512_castsi512_ps(a); }
  static JUPITER_INLINE F power_of_two(F shifted) {
    return as_float(_mm512_add_epi32(_mm512_slli_epi32(bits(shifted), 23), _mm512_set1_epi32(kOneBits)));
  }
  static JUPITER_INLINE I set1_int(std::int32_t x) { return _mm512_set1_epi32(x); }
  static JUPITER_INLINE I add_int(I a, I b) { return _mm512_add_epi32(a, b); }
  static JUPITER_INLINE I and_int(I a, I b) { return _mm512_and_si512(a, b); }
  template <int kBits>
  static JUPITER_INLINE I shift_left(I a) {
    return _mm512_slli_epi32(a, kBits);
  }
  template <int kBits>
  static JUPITER_INLINE I shift_right(I a) {
    return _mm512_srli_epi32(a, kBits);
  }
  static JUPITER_INLINE I larger_int(I a, I b) { return _mm512_max_epi32(a, b); }
  static JUPITER_INLINE std::int32_t largest_int(I a) { return _mm512_reduce_max_epi32(a); }
  static JUPITER_INLINE std::int32_t sum_int(I a) { return _mm512_reduce_add_epi32(a); }
  static JUPITER_INLINE I magnitude_bits(F a) { return _mm512_and_si512(bits(a), _mm512_set1_epi32(INT32_MAX)); }
  static JUPITER_INLINE I nearest_int(F a) { return _mm512_cvtps_epi32(a); }  // nearest even
  static JUPITER_INLINE void store_i8(std::int8_t* p, I a) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(a));
  }

  static JUPITER_INLINE __m256i load_256(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
  static JUPITER_INLINE __m128i load_128(const void* p) { return _mm_loadu_si128(static_cast<const __m128i*>(p)); }
  static JUPITER_INLINE F load_f16(const std::byte* p) { return _mm512_cvtph_ps(load_256(p)); }
  static JUPITER_INLINE F load_bf16(const std::byte* p) {
    return as_float(_mm512_slli_epi32(_mm512_cvtepu16_epi32(load_256(p)), 16));
  }
  static JUPITER_INLINE void store_f16(std::uint16_t* p, F a) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                        _mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  }
  static JUPITER_INLINE void store_bf16(std::uint16_t* p, F a) {  // the instruction would flush small numbers to zero
    const I odd = _mm512_and_si512(_mm512_srli_epi32(bits(a), 16), _mm512_set1_epi32(1));
    const I rounded = _mm512_add_epi32(bits(a), _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded, 16)));
  }
  static JUPITER_INLINE I load_u8_int(const std::byte* p) { return _mm512_cvtepu8_epi32(load_128(p)); }
  static JUPITER_INLINE F load_u8(const std::byte* p) { return to_float(load_u8_int(p)); }
  static JUPITER_INLINE F load_i8(const std::byte* p) { return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(load_128(p))); }

  // ---- weights: unsigned bytes
  static JUPITER_INLINE Bytes load_bytes(const std::byte* p) { return _mm512_loadu_si512(p); }
  static JUPITER_INLINE Bytes load_q8(const std::byte* p) { return load_bytes(p); }
  static JUPITER_INLINE Bytes low_nibbles(Bytes b) { return _mm512_and_si512(b, _mm512_set1_epi8(15)); }
  static JUPITER_INLINE Bytes high_nibbles(Bytes b) { return low_nibbles(_mm512_srli_epi16(b, 4)); }
  // bits 2t and 2t+1 of each byte
  template <int kT>
  static JUPITER_INLINE Bytes two_bits(Bytes b) {
    return _mm512_and_si512(_mm512_srli_epi16(b, 2 * kT), _mm512_set1_epi8(3));
  }
  // levels[code] of each byte below 16
  template <bool kEightBits>
  static JUPITER_INLINE Bytes lookup(const Levels& levels, Bytes codes) {
    return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(load_128(levels.data())), codes);
  }
  template <int kBit>
  static JUPITER_INLINE Bytes add_bit(Bytes q, const std::byte* mask) {
    std::uint64_t m;
    __builtin_memcpy(&m, mask, sizeof m);
    return _mm512_mask_add_epi8(q, m, q, _mm512_set1_epi8(1 << kBit));
  }
  // q | bits 2t and 2t+1 of `high` as bits 4 and 5
  template <int kT>
  static JUPITER_INLINE Bytes add_bits45(Bytes q, Bytes high) {
    Bytes at = high;
    if constexpr (kT == 0) at = _mm512_slli_epi16(high, 4);
    if constexpr (kT == 1) at = _mm512_slli_epi16(high, 2);
    if constexpr (kT == 3) at = _mm512_srli_epi16(high, 2);
    return _mm512_ternarylogic_epi32(q, at, _mm512_set1_epi8(0x30), 0xf8);  // q | (at & 0x30)
  }

  // sums[i] += sum over the columns of kQuads quads times row i; rows lie 32 bytes apart.
  template <int kMaxWeight, int kQuads, int kRows>
  static JUPITER_INLINE void dot(const Bytes* quads, const std::int8_t* x, I* sums) {
    for (int j = 0; j < kQuads; ++j) {
      for (int i = 0; i < kRows; ++i) {
        // g++ would broadcast by an instruction of its own: 5 % slower.
        const auto& four = *reinterpret_cast<const AnyInt*>(x + 32 * i + 4 * j);
        asm("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(sums[i]) : "v"(quads[j]), "m"(four));
      }
    }
  }
  // x * kZero in all lanes; kZero is a power of two
  template <int kZero>
  static JUPITER_INLINE I times(std::int32_t x) {
    return _mm512_slli_epi32(_mm512_set1_epi32(x), __builtin_ctz(kZero));
  }
  static JUPITER_INLINE F to_float(I a) { return _mm512_cvtepi32_ps(a); }
};

constexpr KernelTable kTable = simd_table<Avx512>("avx512");

}  // namespace

const KernelTable& avx512_kernels() {
  return kTable;
}

}  // namespace jupiter

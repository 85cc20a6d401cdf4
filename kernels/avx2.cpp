// AVX2: 16-bit sums of byte products, as many as cannot saturate, then 32-bit ones.
#include "kernels/simd_avx2.hpp"
#include "kernels/simd_tables.hpp"

namespace jupiter {
namespace {

struct Avx2 : Avx2Lanes {
  static constexpr bool kSignedQ8 = true;
  static JUPITER_INLINE Bytes load_q8(const std::byte* p) {
    return _mm256_xor_si256(load_bytes(p), _mm256_set1_epi8(-128));
  }
  // Levels of eight bits come signed as well.
  template <bool kEightBits>
  static JUPITER_INLINE Bytes lookup(const Levels& levels, Bytes codes) {
    const Bytes found = look_up(levels, codes);
    return kEightBits ? _mm256_xor_si256(found, _mm256_set1_epi8(-128)) : found;
  }

  // Pairs of products as 16-bit sums. Unsigned 8-bit weights would saturate them (255 * 127 * 2), so q8 comes signed:
  // |w| * (x with w's sign) is at most 128 * 127 a product.
  template <int kMaxWeight>
  static JUPITER_INLINE I pairs(Bytes w, Bytes x) {
    if constexpr (kMaxWeight > 127) return _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w));
    return _mm256_maddubs_epi16(w, x);
  }

  // sums[i] += sum over the columns of kQuads quads times row i; rows lie 32 bytes apart.
  template <int kMaxWeight, int kQuads, int kRows>
  static JUPITER_INLINE void dot(const Bytes* quads, const std::int8_t* x, I* sums) {
    constexpr int kLargest = kMaxWeight > 127 ? 128 : kMaxWeight;
    constexpr int kSafe = 32767 / (2 * 127 * kLargest);  // sums of pairs that fit 16 bits
    constexpr int kStep = kSafe < kQuads ? kSafe : kQuads;
    static_assert(kQuads % kStep == 0);
    for (int first = 0; first < kQuads; first += kStep) {
      for (int i = 0; i < kRows; ++i) {
        I words = pairs<kMaxWeight>(quads[first], broadcast_quad(x + 32 * i + 4 * first));
        for (int j = first + 1; j < first + kStep; ++j) {
          words = _mm256_add_epi16(words, pairs<kMaxWeight>(quads[j], broadcast_quad(x + 32 * i + 4 * j)));
        }
        sums[i] = _mm256_add_epi32(sums[i], _mm256_madd_epi16(words, _mm256_set1_epi16(1)));
      }
    }
  }
};

constexpr KernelTable kTable = simd_table<Avx2>("avx2");

}  // namespace

const KernelTable& avx2_kernels() {
  return kTable;
}

}  // namespace jupiter

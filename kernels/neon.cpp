// NEON without the dot product (Raspberry Pi 4, Jetson Nano): 16-bit sums of byte products, as many as fit, then
// 32-bit.
#include "kernels/simd_neon.hpp"
#include "kernels/simd_tables.hpp"

namespace jupiter {
namespace {

struct Neon : NeonLanes {
  // sums[i] += sum over the columns of kQuads quads times row i; rows lie 32 bytes apart.
  template <int kMaxWeight, int kQuads, int kRows>
  static JUPITER_INLINE void dot(const Bytes* quads, const std::int8_t* x, I* sums) {
    constexpr int kLargest = kMaxWeight > 127 ? 128 : kMaxWeight;
    constexpr int kSafe = 32767 / (127 * kLargest);  // products that fit 16 bits
    constexpr int kStep = kSafe < kQuads ? kSafe : kQuads;
    static_assert(kQuads % kStep == 0);
    for (int i = 0; i < kRows; ++i) {
      I low = vdupq_n_s32(0), high = vdupq_n_s32(0);  // two halves of each output's four columns
      for (int first = 0; first < kQuads; first += kStep) {
        int16x8_t words_low = vdupq_n_s16(0), words_high = vdupq_n_s16(0);
        for (int j = first; j < first + kStep; ++j) {
          const int8x16_t w = vreinterpretq_s8_u8(quads[j]);
          const int8x8_t four = broadcast_quad(x + 32 * i + 4 * j);
          words_low = vmlal_s8(words_low, vget_low_s8(w), four);
          words_high = vmlal_s8(words_high, vget_high_s8(w), four);
        }
        low = vpadalq_s16(low, words_low);
        high = vpadalq_s16(high, words_high);
      }
      sums[i] = vaddq_s32(sums[i], vpaddq_s32(low, high));
    }
  }

 private:
  static JUPITER_INLINE int8x8_t broadcast_quad(const std::int8_t* x) {
    std::int32_t four;
    __builtin_memcpy(&four, x, sizeof four);
    return vreinterpret_s8_s32(vdup_n_s32(four));
  }
};

constexpr KernelTable kTable = simd_table<Neon>("neon");

}  // namespace

const KernelTable& neon_kernels() {
  return kTable;
}

}  // namespace jupiter

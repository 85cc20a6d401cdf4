// NEON with the dot product of ARMv8.2 (Raspberry Pi 5, Jetson Orin).
#include "kernels/simd_neon.hpp"
#include "kernels/simd_tables.hpp"

namespace jupiter {
namespace {

struct NeonDotprod : NeonLanes {
  // sum += four quads times 16 bytes of a row; the instruction broadcasts its four bytes itself.
  static JUPITER_INLINE I four_quads(I sum, const Bytes* quads, int8x16_t x) {
    sum = vdotq_laneq_s32(sum, vreinterpretq_s8_u8(quads[0]), x, 0);
    sum = vdotq_laneq_s32(sum, vreinterpretq_s8_u8(quads[1]), x, 1);
    sum = vdotq_laneq_s32(sum, vreinterpretq_s8_u8(quads[2]), x, 2);
    return vdotq_laneq_s32(sum, vreinterpretq_s8_u8(quads[3]), x, 3);
  }

  // sums[i] += sum over the columns of kQuads quads times row i; rows lie 32 bytes apart.
  template <int kMaxWeight, int kQuads, int kRows>
  static JUPITER_INLINE void dot(const Bytes* quads, const std::int8_t* x, I* sums) {
    for (int j = 0; j < kQuads; j += 4) {
      for (int i = 0; i < kRows; ++i) sums[i] = four_quads(sums[i], quads + j, vld1q_s8(x + 32 * i + 4 * j));
    }
  }
};

constexpr KernelTable kTable = simd_table<NeonDotprod>("neon_dotprod");

}  // namespace

const KernelTable& neon_dotprod_kernels() {
  return kTable;
}

}  // namespace jupiter

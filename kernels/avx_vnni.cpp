// AVX-VNNI: AVX2 with a dot product of four bytes (processors without AVX-512: Alder Lake and later).
#include "kernels/simd_avx2.hpp"
#include "kernels/simd_tables.hpp"

namespace jupiter {
namespace {

struct AvxVnni : Avx2Lanes {
  static constexpr bool kSignedQ8 = false;
  static JUPITER_INLINE Bytes load_q8(const std::byte* p) { return load_bytes(p); }
  template <bool kEightBits>
  static JUPITER_INLINE Bytes lookup(const Levels& levels, Bytes codes) {
    return look_up(levels, codes);
  }

  // sums[i] += sum over the columns of kQuads quads times row i; rows lie 32 bytes apart.
  template <int kMaxWeight, int kQuads, int kRows>
  static JUPITER_INLINE void dot(const Bytes* quads, const std::int8_t* x, I* sums) {
    for (int j = 0; j < kQuads; ++j) {
      for (int i = 0; i < kRows; ++i) {
        sums[i] = _mm256_dpbusd_avx_epi32(sums[i], quads[j], broadcast_quad(x + 32 * i + 4 * j));
      }
    }
  }
};

constexpr KernelTable kTable = simd_table<AvxVnni>("avx_vnni");

}  // namespace

const KernelTable& avx_vnni_kernels() {
  return kTable;
}

}  // namespace jupiter

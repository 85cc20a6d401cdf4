// Chains of the dot products that the tables are made of. Not in the tables' own files: nothing of the model calls
// them, and a target attribute on a static function shares no code with files for any processor.
#include "kernels/peak.hpp"

#include <array>
#include <span>

#include "io/buffer.hpp"

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace jupiter {

namespace {

constexpr std::int64_t kSteps = 1'000'000;
constexpr int kSums = 16;      // independent sums; with 4 the same core shows half
constexpr int kWordSums = 12;  // of 16 bits, where 16 registers must hold the operands too

struct Chains {
  std::string_view table;
  std::string_view instruction;
  double multiplies;  // of one call
  void (*run)();      // the results only keep the instructions alive
};

#if defined(__x86_64__)

__attribute__((target("avx512f"))) void avx512_chains() {
  __m512i sums[kSums] = {};
  const __m512i w = _mm512_set1_epi8(3), x = _mm512_set1_epi8(5);
  for (std::int64_t n = 0; n < kSteps; ++n) {
#pragma GCC unroll 16
    for (__m512i& sum : sums) asm volatile("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(w), "v"(x));
  }
}

__attribute__((target("avx2"))) void avx_vnni_chains() {
  __m256i sums[kWordSums] = {};
  const __m256i w = _mm256_set1_epi8(3), x = _mm256_set1_epi8(5);
  for (std::int64_t n = 0; n < kSteps; ++n) {
#pragma GCC unroll 16
    for (__m256i& sum : sums) asm volatile("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sum) : "x"(w), "x"(x));
  }
}

// A product has to be added by an instruction of its own.
__attribute__((target("avx2"))) void avx2_chains() {
  __m256i sums[kWordSums] = {};
  const __m256i w = _mm256_set1_epi8(3), x = _mm256_set1_epi8(5);
  for (std::int64_t n = 0; n < kSteps; ++n) {
#pragma GCC unroll 16
    for (__m256i& sum : sums) {
      __m256i words;
      asm volatile("vpmaddubsw %3, %2, %1\n\tvpaddw %1, %0, %0" : "+x"(sum), "=&x"(words) : "x"(w), "x"(x));
    }
  }
}

constexpr std::array kChains = {
    Chains{"avx512", "vpdpbusd zmm", 64.0 * kSums* kSteps, avx512_chains},
    Chains{"avx_vnni", "vpdpbusd ymm", 32.0 * kWordSums* kSteps, avx_vnni_chains},
    Chains{"avx2", "vpmaddubsw + vpaddw ymm", 32.0 * kWordSums* kSteps, avx2_chains},
};

#elif defined(__aarch64__)

__attribute__((target("arch=armv8.2-a+dotprod"))) void dotprod_chains() {
  int32x4_t sums[kSums] = {};
  const int8x16_t w = vdupq_n_s8(3), x = vdupq_n_s8(5);
  for (std::int64_t n = 0; n < kSteps; ++n) {
#pragma GCC unroll 16
    for (int32x4_t& sum : sums) asm volatile("sdot %0.4s, %1.16b, %2.16b" : "+w"(sum) : "w"(w), "w"(x));
  }
}

void neon_chains() {
  int16x8_t sums[kSums] = {};
  const int8x8_t w = vdup_n_s8(3), x = vdup_n_s8(5);
  for (std::int64_t n = 0; n < kSteps; ++n) {
#pragma GCC unroll 16
    for (int16x8_t& sum : sums) asm volatile("smlal %0.8h, %1.8b, %2.8b" : "+w"(sum) : "w"(w), "w"(x));
  }
}

constexpr std::array kChains = {
    Chains{"neon_dotprod", "sdot", 16.0 * kSums* kSteps, dotprod_chains},
    Chains{"neon", "smlal", 8.0 * kSums* kSteps, neon_chains},
};

#else
constexpr std::array<Chains, 0> kChains = {};
#endif

const Chains* chains_of(const KernelTable& table) {
  for (const Chains& c : kChains) {
    if (c.table == table.name) return &c;
  }
  return nullptr;
}

std::uint64_t sum_of(std::span<const std::uint64_t> words) {
  constexpr std::size_t kLine = 8;
  constexpr std::size_t kAhead = 512;  // words; without it one core reads a fifth less
  std::uint64_t sums[kLine] = {};
  for (std::size_t i = 0; i + kLine <= words.size(); i += kLine) {
    __builtin_prefetch(words.data() + i + kAhead);
    for (std::size_t k = 0; k < kLine; ++k) sums[k] += words[i + k];
  }
  std::uint64_t total = 0;
  for (const std::uint64_t s : sums) total += s;
  return total;
}

}  // namespace

double read_peak(ThreadPool& pool, std::uint64_t buffer_bytes) {
  constexpr std::uint64_t kRead = std::uint64_t{1} << 30;
  const std::uint64_t bytes = std::min(buffer_bytes, kRead);
  const Buffer<std::uint64_t> memory(bytes / sizeof(std::uint64_t));
  const std::uint64_t passes = (kRead + bytes - 1) / bytes;
  return best_rate(static_cast<double>(passes * bytes), [&] {
    pool.run([&](int thread) {
      const Slice s = slice_of(std::ssize(memory), thread, pool.size());
      const std::span mine(memory.data() + s.first, static_cast<std::size_t>(s.last - s.first));
      for (std::uint64_t i = 0; i < passes; ++i) {
        const std::uint64_t sum = sum_of(mine);
        asm volatile("" : : "r"(sum) : "memory");  // keeps the sum, and the next pass from being the same one
      }
    });
  });
}

double multiply_peak(const KernelTable& table, ThreadPool& pool) {
  const Chains* chains = chains_of(table);
  if (chains == nullptr) return 0;
  return best_rate(chains->multiplies * pool.size(), [&] { pool.run([&](int) { chains->run(); }); });
}

std::string_view multiply_instruction(const KernelTable& table) {
  const Chains* chains = chains_of(table);
  return chains == nullptr ? std::string_view() : chains->instruction;
}

}  // namespace jupiter

// What the kernel tests share: random data, packed matrices of every format, and the comparison of bits.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "io/model/packed.hpp"
#include "kernels/kernel_table.hpp"

namespace jupiter::testing {

inline constexpr Format kQuantised[] = {Format::q4,    Format::q4m,   Format::q5,   Format::q5m, Format::q8,
                                        Format::q4k,   Format::q5k,   Format::q6k,  Format::q2k, Format::q3k,
                                        Format::iq4nl, Format::iq4xs, Format::mxfp4};
inline constexpr Format kFloats[] = {Format::f32, Format::f16, Format::bf16};

// The largest stored integer.
int largest_integer(Format format);

// Small, fast and the same on every machine (xorshift64*).
class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed * 0x9e3779b97f4a7c15ull + 1) {}
  std::uint64_t bits();
  std::int64_t below(std::int64_t n) { return static_cast<std::int64_t>(bits() % static_cast<std::uint64_t>(n)); }
  float uniform(float low, float high);

 private:
  std::uint64_t state_;
};

// n floats that start `misaligned` elements behind a cache line's start.
class Floats {
 public:
  Floats(std::int64_t n, std::int64_t misaligned) : all_(static_cast<std::size_t>(n + misaligned)), skip_(misaligned) {}
  Floats(Random& random, std::int64_t n, std::int64_t misaligned, float low, float high) : Floats(n, misaligned) {
    for (std::int64_t i = 0; i < n; ++i) data()[i] = random.uniform(low, high);
  }
  float* data() { return all_.data() + skip_; }
  const float* data() const { return all_.data() + skip_; }
  std::int64_t size() const { return static_cast<std::int64_t>(all_.size()) - skip_; }

 private:
  Buffer<float> all_;
  std::int64_t skip_;
};

// A matrix with random weights and scales of both signs; extremes of the integers are frequent.
class Weights {
 public:
  Weights(Format format, std::int64_t rows, std::int64_t cols, std::uint64_t seed);
  const PackedMatrix& matrix() const { return matrix_; }

 private:
  Buffer<std::byte> bytes_;
  PackedMatrix matrix_;
};
QuantizedRow random_row(Format format, std::int64_t cols, Random& random);

// Equal bits, or both NaN (whose sign and payload processors choose). Names the first difference.
::testing::AssertionResult same_bits(const float* expected, const float* found, std::int64_t n);
inline ::testing::AssertionResult same_bits(const Floats& expected, const Floats& found) {
  if (expected.size() != found.size()) return ::testing::AssertionFailure() << "sizes differ";
  return same_bits(expected.data(), found.data(), expected.size());
}

}  // namespace jupiter::testing

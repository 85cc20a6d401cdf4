#include "kernel_testing.hpp"

#include <bit>
#include <cmath>

#include "io/float16.hpp"

namespace jupiter::testing {

std::uint64_t Random::bits() {
  state_ ^= state_ >> 12;
  state_ ^= state_ << 25;
  state_ ^= state_ >> 27;
  return state_ * 0x2545f4914f6cdd1dull;
}

float Random::uniform(float low, float high) {
  return low + (high - low) * static_cast<float>(bits() >> 40) * 0x1p-24f;
}

int largest_integer(Format f) {
  return (1 << (parts(f).low_bits + parts(f).high_bits)) - 1;
}

namespace {

std::uint8_t random_integer(Format f, Random& random) {
  const int top = largest_integer(f);
  const std::int64_t kind = random.below(8);
  return static_cast<std::uint8_t>(kind == 0 ? top : kind == 1 ? 0 : random.below(top + 1));
}

void fill_f16(Buffer<std::uint16_t>& to, Random& random, float low, float high) {
  for (auto& x : to) x = f32_to_f16(random.uniform(low, high));
}

void fill_floats(Format f, std::byte* to, std::int64_t n, Random& random) {
  for (std::int64_t i = 0; i < n; ++i) {
    const float x = random.uniform(-1, 1);
    const std::uint16_t narrow = f == Format::f16 ? f32_to_f16(x) : f32_to_bf16(x);
    if (f == Format::f32) std::memcpy(to + 4 * i, &x, 4);
    if (f != Format::f32) std::memcpy(to + 2 * i, &narrow, 2);
  }
}

}  // namespace

QuantizedRow random_row(Format format, std::int64_t cols, Random& random) {
  QuantizedRow row(format, cols);
  for (auto& q : row.q) q = random_integer(format, random);
  fill_f16(row.scales, random, -0.1f, 0.1f);
  fill_f16(row.mins, random, -1.0f, 0.5f);
  fill_f16(row.super_scales, random, -0.01f, 0.01f);
  fill_f16(row.super_mins, random, -0.01f, 0.01f);
  const FormatParts p = parts(format);
  const int low = p.scales == Scales::exponent ? 115 : 0;  // 2^-13 to 2^2
  const int count = p.min && p.scales_per_group == 2 ? 16 : p.scales == Scales::exponent ? 16 : 64;
  for (auto& s : row.sub_scales) s = static_cast<std::uint8_t>(low + random.below(p.signed_scales ? 256 : count));
  for (auto& s : row.sub_mins) s = static_cast<std::uint8_t>(random.below(count));
  return row;
}

Weights::Weights(Format format, std::int64_t rows, std::int64_t cols, std::uint64_t seed) {
  Random random(seed);
  matrix_ = {format, rows, cols, nullptr};
  bytes_ = Buffer<std::byte>(matrix_.bytes());
  matrix_.data = bytes_.data();
  if (is_float(format)) {
    fill_floats(format, bytes_.data(), rows * cols, random);
    return;
  }
  for (std::int64_t n = 0; n < matrix_.panels() * kPanelRows; ++n) {
    std::byte* panel = bytes_.data() + static_cast<std::size_t>(n / kPanelRows) * matrix_.panel_bytes();
    if (n < rows) {
      pack_row(format, cols, random_row(format, cols, random), n % kPanelRows, panel);
    } else {
      pack_zero_row(format, cols, n % kPanelRows, panel);
    }
  }
}

::testing::AssertionResult same_bits(const float* expected, const float* found, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) {
    if (std::isnan(expected[i]) && std::isnan(found[i])) continue;
    if (std::bit_cast<std::uint32_t>(expected[i]) == std::bit_cast<std::uint32_t>(found[i])) continue;
    return ::testing::AssertionFailure() << "element " << i << " of " << n << ": expected " << std::hexfloat
                                         << expected[i] << ", found " << found[i];
  }
  return ::testing::AssertionSuccess();
}

}  // namespace jupiter::testing

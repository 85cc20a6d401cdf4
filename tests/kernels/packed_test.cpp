// The packed layout: what is packed comes back, padding multiplies to zero, and it costs little.
#include "io/model/packed.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "io/float16.hpp"
#include "kernel_testing.hpp"

namespace jupiter::testing {
namespace {

template <typename T>
bool equal(const Buffer<T>& a, const Buffer<T>& b) {
  return a.size() == b.size() && (a.size() == 0 || std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0);
}

TEST(Packed, NamesAndFormatsAreInverse) {
  for (int i = 0; i <= static_cast<int>(kLastFormat); ++i) {
    const auto format = static_cast<Format>(i);
    EXPECT_EQ(format_from_name(name(format)), format);
  }
  EXPECT_FALSE(format_from_name("q3").has_value());
}

TEST(Packed, RowsComeBack) {
  for (const Format format : kQuantised) {
    for (const std::int64_t cols : {256, 512, 1536}) {
      Random random(static_cast<std::uint64_t>(cols));
      Buffer<std::byte> panel(panel_layout(format, cols).bytes);
      std::vector<QuantizedRow> rows;
      for (std::int64_t i = 0; i < kPanelRows; ++i) rows.push_back(random_row(format, cols, random));
      for (std::int64_t i = 0; i < kPanelRows; ++i)
        pack_row(format, cols, rows[static_cast<std::size_t>(i)], i, panel.data());
      for (std::int64_t i = 0; i < kPanelRows; ++i) {
        const QuantizedRow& in = rows[static_cast<std::size_t>(i)];
        QuantizedRow out(format, cols);
        unpack_row(format, cols, panel.data(), i, out);
        EXPECT_TRUE(equal(in.q, out.q)) << name(format);
        EXPECT_TRUE(equal(in.scales, out.scales) && equal(in.mins, out.mins)) << name(format);
        EXPECT_TRUE(equal(in.super_scales, out.super_scales) && equal(in.super_mins, out.super_mins)) << name(format);
        EXPECT_TRUE(equal(in.sub_scales, out.sub_scales) && equal(in.sub_mins, out.sub_mins)) << name(format);
      }
    }
  }
}

// By the formula that stands beside each format, in double precision.
double exact_weight(Format format, const QuantizedRow& row, std::size_t c) {
  constexpr int kFourBits[] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};
  constexpr int kLevels[] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
  const auto half = [](const Buffer<std::uint16_t>& values, std::size_t i) { return double{f16_to_f32(values[i])}; };
  const int q = row.q[c];
  switch (format) {
    case Format::q2k:
      return half(row.super_scales, c / 256) * row.sub_scales[c / 16] * q -
             half(row.super_mins, c / 256) * row.sub_mins[c / 16];
    case Format::q3k:
      return half(row.super_scales, c / 256) * static_cast<std::int8_t>(row.sub_scales[c / 16]) * (q - 4);
    case Format::q4k:
    case Format::q5k:
      return half(row.super_scales, c / 256) * row.sub_scales[c / 32] * q -
             half(row.super_mins, c / 256) * row.sub_mins[c / 32];
    case Format::q6k:
      return half(row.super_scales, c / 256) * static_cast<std::int8_t>(row.sub_scales[c / 16]) * (q - 32);
    case Format::iq4nl:
      return half(row.scales, c / 32) * kLevels[q];
    case Format::iq4xs:
      return half(row.super_scales, c / 256) * static_cast<std::int8_t>(row.sub_scales[c / 32]) * kLevels[q];
    case Format::mxfp4:
      return std::ldexp(kFourBits[q], row.sub_scales[c / 32] - 128);
    default:
      return half(row.scales, c / 32) * (q - zero_point(format)) + (has_min(format) ? half(row.mins, c / 32) : 0.0);
  }
}

TEST(Packed, PowersOfTwo) {
  EXPECT_EQ(exponent_scale(128), 1.0f);
  EXPECT_EQ(exponent_scale(0), 0x1p-128f);
  EXPECT_EQ(exponent_scale(1), 0x1p-127f);
  EXPECT_EQ(exponent_scale(254), 0x1p126f);
  EXPECT_FALSE(std::isfinite(exponent_scale(255)));
}

TEST(Packed, DequantisesByTheFormula) {
  for (const Format format : kQuantised) {
    constexpr std::int64_t kCols = 512;
    Random random(5);
    const QuantizedRow row = random_row(format, kCols, random);
    Buffer<std::byte> bytes(panel_layout(format, kCols).bytes);
    pack_row(format, kCols, row, 3, bytes.data());
    const PackedMatrix m = {format, 16, kCols, bytes.data()};
    std::vector<float> out(kCols);
    dequantize_row(m, 3, out.data());
    for (std::size_t c = 0; c < kCols; ++c) {
      const double exact = exact_weight(format, row, c);
      EXPECT_NEAR(out[c], exact, 1e-6 * (1 + std::abs(exact))) << name(format) << " column " << c;
    }
  }
}

TEST(Packed, PaddingMultipliesToZero) {
  for (const Format format : kQuantised) {
    const Weights w(format, 17, 256, 1);  // 15 rows of padding
    const PackedMatrix padded = {format, 32, 256, w.matrix().data};
    std::vector<float> out(256);
    for (std::int64_t row = 17; row < 32; ++row) {
      dequantize_row(padded, row, out.data());
      for (const float x : out) EXPECT_EQ(x, 0.0f) << name(format);
    }
  }
}

// GGUF's bytes for 256 columns of a row; ours are at most 3 % more, of Q3_K 4 %. (In narrow K-quants, 768 columns or
// less, the alignment of sections adds up to 3 % again.)
TEST(Packed, CostsLittleMoreThanGguf) {
  const std::pair<Format, double> gguf[] = {
      {Format::q4, 144},    {Format::q4m, 160},   {Format::q5, 176},   {Format::q5m, 192}, {Format::q8, 272},
      {Format::q4k, 144},   {Format::q5k, 176},   {Format::q6k, 210},  {Format::q2k, 84},  {Format::q3k, 110},
      {Format::iq4nl, 144}, {Format::iq4xs, 136}, {Format::mxfp4, 136}};
  for (const auto& [format, bytes] : gguf) {
    for (const std::int64_t cols : {1024, 2048, 5632}) {
      const double ours = static_cast<double>(panel_layout(format, cols).bytes);
      const double limit = format == Format::q3k ? 1.04 : 1.03;
      EXPECT_LE(ours, bytes * 16 * static_cast<double>(cols) / 256 * limit) << name(format) << ' ' << cols;
    }
  }
}

}  // namespace
}  // namespace jupiter::testing

// Every table that this machine can run gives the reference's bits; the reference is near the exact result.
#include "kernels/kernel_table.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdlib>
#include <limits>

#include "io/error.hpp"
#include "kernel_testing.hpp"

namespace jupiter::testing {
namespace {

const KernelTable& kReference = reference_kernels();
constexpr float kInf = std::numeric_limits<float>::infinity();
const float kNan = std::numeric_limits<float>::quiet_NaN();

// ---- the comparison itself

TEST(Comparison, SeesEveryDifferenceOfBits) {
  const float zero = 0.0f, minus_zero = -0.0f, one = 1.0f, next = std::nextafter(1.0f, 2.0f), minus_one = -1.0f;
  EXPECT_TRUE(same_bits(&one, &one, 1));
  EXPECT_FALSE(same_bits(&zero, &minus_zero, 1));
  EXPECT_FALSE(same_bits(&one, &next, 1));
  EXPECT_FALSE(same_bits(&one, &minus_one, 1));
  EXPECT_FALSE(same_bits(&minus_one, &one, 1));
  EXPECT_FALSE(same_bits(&kNan, &one, 1));
  EXPECT_FALSE(same_bits(&one, &kNan, 1));
  EXPECT_TRUE(same_bits(&kNan, &kNan, 1));
  const float a[] = {1, 2, 3}, b[] = {1, 2, 4};
  EXPECT_TRUE(same_bits(a, b, 2));
  EXPECT_FALSE(same_bits(a, b, 3));
}

TEST(Tables, ReferenceIsLastAndTheEnvironmentChooses) {
  ASSERT_FALSE(available_kernels().empty());
  EXPECT_EQ(available_kernels().back(), &kReference);
  const char* before = std::getenv("JUPITER_KERNELS");
  const std::string kept = before == nullptr ? "" : before;
  for (const KernelTable* table : available_kernels()) {
    setenv("JUPITER_KERNELS", std::string(table->name).c_str(), 1);
    EXPECT_EQ(&kernels(), table);
  }
  setenv("JUPITER_KERNELS", "abacus", 1);
  EXPECT_THROW(kernels(), UsageError);
  unsetenv("JUPITER_KERNELS");
  EXPECT_EQ(&kernels(), available_kernels().front());
  if (before != nullptr) setenv("JUPITER_KERNELS", kept.c_str(), 1);
}

// ---- every table against the reference

class EveryTable : public ::testing::TestWithParam<const KernelTable*> {
 protected:
  const KernelTable& table() const { return *GetParam(); }
};
INSTANTIATE_TEST_SUITE_P(Kernels, EveryTable, ::testing::ValuesIn(available_kernels()),
                         [](const auto& tested) { return std::string(tested.param->name); });

void expect_same(const QuantizedRows& a, const QuantizedRows& b) {
  const std::int64_t n = a.rows * a.groups();
  EXPECT_TRUE(same_bits(a.scales, b.scales, n));
  EXPECT_TRUE(same_bits(a.scaled_sums, b.scaled_sums, n));
  EXPECT_EQ(std::memcmp(a.values, b.values, static_cast<std::size_t>(n * kGroupCols)), 0);
  EXPECT_EQ(std::memcmp(a.offsets, b.offsets, static_cast<std::size_t>(n) * 4), 0);
  EXPECT_EQ(std::memcmp(a.half_offsets, b.half_offsets, static_cast<std::size_t>(n) * 8), 0);
}

TEST_P(EveryTable, QuantizesRows) {
  Random random(1);
  for (const std::int64_t rows : {1, 2, 15, 16, 17, 33}) {
    for (const std::int64_t cols : {32, 96, 576}) {
      const std::int64_t stride = cols + 5;
      Floats x(random, rows * stride, 3, -4, 4);
      QuantizedBuffer expected(rows, cols), found(rows, cols);
      const MatrixView<const float> view(x.data(), rows, cols, stride);
      kReference.quantize_rows(view, expected.view(rows, cols));
      table().quantize_rows(view, found.view(rows, cols));
      expect_same(expected.view(rows, cols), found.view(rows, cols));
    }
  }
}

TEST_P(EveryTable, QuantizesExtremes) {
  Floats x(11 * 32, 0);
  const float fills[] = {0, -0.0f, 1e-45f, 0x1p-101f, 0x1p-99f, 3e38f, std::numeric_limits<float>::max(), -1};
  for (std::int64_t g = 0; g < 8; ++g) std::fill_n(x.data() + g * 32, 32, fills[g]);
  for (std::int64_t i = 0; i < 32; ++i) x.data()[8 * 32 + i] = static_cast<float>(i) - 15.5f;  // ties
  x.data()[9 * 32 + 31] = -kInf;
  x.data()[10 * 32] = kNan;
  QuantizedBuffer expected(1, 11 * 32), found(1, 11 * 32);
  const MatrixView<const float> view(x.data(), 1, 11 * 32);
  kReference.quantize_rows(view, expected.view(1, 11 * 32));
  table().quantize_rows(view, found.view(1, 11 * 32));
  expect_same(expected.view(1, 11 * 32), found.view(1, 11 * 32));
}

// Activations with -127 and 127 in most places: what saturates 16-bit sums.
Floats extreme_activations(Random& random, std::int64_t rows, std::int64_t cols) {
  Floats x(random, rows * cols, 0, -1, 1);
  for (std::int64_t i = 0; i < x.size(); ++i) {
    if (random.below(4) != 0) x.data()[i] = (i / cols) % 2 == 0 ? 1.0f : -1.0f;
  }
  return x;
}

struct Case {
  std::int64_t rows, cols, outputs;
};

// matmul_quantized over the whole matrix and over its panels one by one.
void compare_matmul(const KernelTable& table, const Weights& w, const Floats& x, const Case& c) {
  QuantizedBuffer buffer(c.rows, c.cols);
  const QuantizedRows q = buffer.view(c.rows, c.cols);
  kReference.quantize_rows({x.data(), c.rows, c.cols}, q);
  const std::int64_t stride = c.outputs + 3, panels = w.matrix().panels();
  Floats expected(c.rows * stride, 1), found(c.rows * stride, 1), single(c.rows * stride, 1);
  kReference.matmul_quantized(w.matrix(), {0, panels}, q, {expected.data(), c.rows, c.outputs, stride});
  table.matmul_quantized(w.matrix(), {0, panels}, q, {found.data(), c.rows, c.outputs, stride});
  for (std::int64_t p = 0; p < panels; ++p) {
    table.matmul_quantized(w.matrix(), {p, p + 1}, q, {single.data(), c.rows, c.outputs, stride});
  }
  EXPECT_TRUE(same_bits(expected, found));
  EXPECT_TRUE(same_bits(expected, single));
}

TEST_P(EveryTable, MultipliesQuantised) {
  std::vector<Case> cases = {{129, 256, 37}, {3, 2048, 16}, {2, 256, 100}, {5, 768, 1}};
  for (std::int64_t rows = 1; rows <= 40; ++rows) cases.push_back({rows, 256 * (1 + rows % 3), 16 + rows % 17});
  for (const Format format : kQuantised) {
    for (const Case& c : cases) {
      SCOPED_TRACE(std::string(name(format)) + " rows " + std::to_string(c.rows) + " cols " + std::to_string(c.cols) +
                   " outputs " + std::to_string(c.outputs));
      Random random(static_cast<std::uint64_t>(c.rows));
      const Weights w(format, c.outputs, c.cols, 7);
      compare_matmul(table(), w, Floats(random, c.rows * c.cols, 0, -3, 3), c);
      if (c.rows < 20) compare_matmul(table(), w, extreme_activations(random, c.rows, c.cols), c);
      if (HasFailure()) return;
    }
  }
}

TEST_P(EveryTable, MultipliesQuantisedOddGroups) {
  for (const Format format : kQuantised) {
    if (has_super_scales(format)) continue;  // whose columns come by the superblock
    for (const std::int64_t cols : {32, 96, 576, 1504}) {
      Random random(3);
      const Weights w(format, 48, cols, 9);
      for (const std::int64_t rows : {1, 4, 19}) {
        compare_matmul(table(), w, Floats(random, rows * cols, 0, -3, 3), {rows, cols, 48});
      }
    }
  }
}

// All weights and activations at their extremes at once, both signs.
TEST_P(EveryTable, MultipliesWithoutSaturation) {
  for (const Format format : kQuantised) {
    for (const int q : {0, largest_integer(format)}) {
      QuantizedRow row(format, 256);
      std::fill(row.q.begin(), row.q.end(), static_cast<std::uint8_t>(q));
      std::fill(row.scales.begin(), row.scales.end(), std::uint16_t{0x3c00});  // one
      std::fill(row.super_scales.begin(), row.super_scales.end(), std::uint16_t{0x3c00});
      const bool exponents = parts(format).scales == Scales::exponent;
      std::fill(row.sub_scales.begin(), row.sub_scales.end(), static_cast<std::uint8_t>(exponents ? 128 : 1));
      Buffer<std::byte> bytes(panel_layout(format, 256).bytes);
      for (std::int64_t i = 0; i < 16; ++i) pack_row(format, 256, row, i, bytes.data());
      const PackedMatrix m = {format, 16, 256, bytes.data()};
      for (const float value : {-1.0f, 1.0f}) {
        Floats x(256, 0), out(16, 0);
        std::fill_n(x.data(), 256, value);
        QuantizedBuffer buffer(1, 256);
        const QuantizedRows rows = buffer.view(1, 256);
        table().quantize_rows({x.data(), 1, 256}, rows);
        table().matmul_quantized(m, {0, 1}, rows, {out.data(), 1, 16});
        const float exact = value * static_cast<float>(weight_integer(format, row.q[0])) * 256;
        for (int i = 0; i < 16; ++i) EXPECT_FLOAT_EQ(out.data()[i], exact) << name(format);
      }
    }
  }
}

TEST_P(EveryTable, MultipliesFloats) {
  for (const Format format : kFloats) {
    for (const Case& c : {Case{1, 1, 1}, Case{3, 17, 5}, Case{9, 64, 33}, Case{4, 100, 16}, Case{6, 576, 20}}) {
      Random random(5);
      const Weights w(format, c.outputs, c.cols, 11);
      const Floats x(random, c.rows * (c.cols + 1), 1, -1, 1);
      const MatrixView<const float> view(x.data(), c.rows, c.cols, c.cols + 1);
      Floats expected(c.rows * c.outputs, 1), found(c.rows * c.outputs, 1), single(c.rows * c.outputs, 1);
      kReference.matmul_float(w.matrix(), {0, w.matrix().panels()}, view, {expected.data(), c.rows, c.outputs});
      table().matmul_float(w.matrix(), {0, w.matrix().panels()}, view, {found.data(), c.rows, c.outputs});
      for (std::int64_t p = 0; p < w.matrix().panels(); ++p) {
        table().matmul_float(w.matrix(), {p, p + 1}, view, {single.data(), c.rows, c.outputs});
      }
      EXPECT_TRUE(same_bits(expected, found)) << name(format) << " cols " << c.cols;
      EXPECT_TRUE(same_bits(expected, single)) << name(format) << " cols " << c.cols;
    }
  }
}

constexpr std::int64_t kLengths[] = {1, 2, 7, 15, 16, 17, 31, 33, 63, 64, 100, 576};

TEST_P(EveryTable, Normalises) {
  Random random(13);
  for (const std::int64_t n : kLengths) {
    const Floats x(random, n, n % 5, -2, 2), weight(random, n, n % 3, 0, 2);
    Floats expected(n, 1), found(n, 1);
    kReference.rms_norm(x.data(), weight.data(), n, 1e-5f, expected.data());
    table().rms_norm(x.data(), weight.data(), n, 1e-5f, found.data());
    EXPECT_TRUE(same_bits(expected, found)) << n;
  }
}

TEST_P(EveryTable, Rotates) {
  Random random(17);
  for (const std::int64_t head_dim : {2, 16, 30, 64, 96, 128}) {
    const Floats cos(random, head_dim / 2, 1, -1, 1), sin(random, head_dim / 2, 2, -1, 1);
    Floats expected(random, head_dim, 3, -5, 5), found(head_dim, 1);
    std::copy_n(expected.data(), head_dim, found.data());
    kReference.rope(expected.data(), cos.data(), sin.data(), head_dim);
    table().rope(found.data(), cos.data(), sin.data(), head_dim);
    EXPECT_TRUE(same_bits(expected, found)) << head_dim;
  }
}

TEST_P(EveryTable, GatesAndAdds) {
  Random random(19);
  for (const std::int64_t n : kLengths) {
    Floats gate(random, n, 1, -120, 120), up(random, n, 2, -3, 3), expected(n, 3), found(n, 0);
    gate.data()[0] = n % 2 == 0 ? kNan : -kInf;
    kReference.swiglu(gate.data(), up.data(), n, expected.data());
    table().swiglu(gate.data(), up.data(), n, found.data());
    EXPECT_TRUE(same_bits(expected, found)) << n;
    Floats gelu(n, 3), gelu_found(n, 0);
    kReference.geglu(gate.data(), up.data(), n, gelu.data());
    table().geglu(gate.data(), up.data(), n, gelu_found.data());
    EXPECT_TRUE(same_bits(gelu, gelu_found)) << n;
    Floats bounded(n, 3), bounded_found(n, 0), wide(random, n, 2, -12, 12);
    kReference.bounded_swiglu(gate.data(), wide.data(), n, bounded.data());
    table().bounded_swiglu(gate.data(), wide.data(), n, bounded_found.data());
    EXPECT_TRUE(same_bits(bounded, bounded_found)) << n;
    kReference.softcap(2.5f, n, gelu.data());
    table().softcap(2.5f, n, gelu_found.data());
    EXPECT_TRUE(same_bits(gelu, gelu_found)) << n;
    kReference.add(expected.data(), up.data(), n);
    table().add(found.data(), up.data(), n);
    EXPECT_TRUE(same_bits(expected, found)) << n;
    table().swiglu(gate.data(), up.data(), n, gate.data());  // in place
    table().add(gate.data(), up.data(), n);
    EXPECT_TRUE(same_bits(expected, gate)) << n;
  }
}

TEST_P(EveryTable, Exponentiates) {
  std::vector<float> x = {0.0f,  -0.0f, -kInf,   kInf,  kNan, -87.0f, std::nextafter(-87.0f, -100.0f),
                          88.0f, 89.0f, -1e-30f, -3e38f};
  Random random(23);
  for (int i = 0; i < 20000; ++i) x.push_back(random.uniform(-90, 90));
  const auto n = static_cast<std::int64_t>(x.size());
  Floats expected(n, 0), found(n, 1);
  kReference.exponential(x.data(), n, expected.data());
  table().exponential(x.data(), n, found.data());
  EXPECT_TRUE(same_bits(expected, found));
}

TEST_P(EveryTable, WidensAndNarrows) {
  Random random(29);
  for (const std::int64_t n : kLengths) {
    for (const Precision precision : {Precision::f16, Precision::bf16, Precision::f32}) {
      Floats x(random, n, 1, -1000, 1000), expected(n, 0), found(n, 2);
      if (n > 5) x.data()[3] = 1e-7f, x.data()[4] = 65519.0f, x.data()[5] = -6.1e-5f;
      Buffer<std::uint32_t> a(static_cast<std::size_t>(n)), b(static_cast<std::size_t>(n));
      EXPECT_TRUE(kReference.narrow(precision, x.data(), n, a.data()));
      EXPECT_TRUE(table().narrow(precision, x.data(), n, b.data()));
      EXPECT_EQ(std::memcmp(a.data(), b.data(), a.size() * 4), 0);
      kReference.widen(precision, a.data(), n, expected.data());
      table().widen(precision, a.data(), n, found.data());
      EXPECT_TRUE(same_bits(expected, found));
    }
  }
}

TEST_P(EveryTable, NarrowTellsWhatDoesNotFit) {
  const float too_large[] = {65520.0f, std::bit_cast<float>(0x7f7f8000u), kInf};
  for (const Precision precision : {Precision::f16, Precision::bf16, Precision::f32}) {
    const float limit = too_large[static_cast<int>(precision)];
    for (const std::int64_t at : {0, 5, 15, 16, 20}) {
      for (const float sign : {-1.0f, 1.0f}) {
        Floats x(21, 0);
        Buffer<std::uint32_t> out(21);
        x.data()[at] = sign * std::nextafter(limit, 0.0f);
        EXPECT_TRUE(table().narrow(precision, x.data(), 21, out.data()));
        for (const float bad : {limit, kInf, kNan}) {
          x.data()[at] = sign * bad;
          EXPECT_FALSE(table().narrow(precision, x.data(), 21, out.data()));
        }
      }
    }
  }
}

TEST_P(EveryTable, WidensEveryHalfPrecisionNumber) {
  std::vector<std::uint16_t> all(65536);
  for (std::size_t i = 0; i < all.size(); ++i) all[i] = static_cast<std::uint16_t>(i);
  Floats expected(65536, 0), found(65536, 0);
  for (const Precision precision : {Precision::f16, Precision::bf16}) {
    kReference.widen(precision, all.data(), 65536, expected.data());
    table().widen(precision, all.data(), 65536, found.data());
    EXPECT_TRUE(same_bits(expected, found));
  }
}

// ---- attention

// Rows that look at `blocks` blocks; visibility differs from row to row as `kind` says.
struct Attention {
  std::int64_t rows, head_dim;
  float softcap = 0;
  Floats keys, values, queries, max, sums, outputs;
  std::vector<std::int32_t> first, end;

  Attention(Random& random, std::int64_t r, std::int64_t d)
      : rows(r),
        head_dim(d),
        keys(random, d * kKvBlock, 0, -1, 1),
        values(random, d * kKvBlock, 0, -1, 1),
        queries(random, r * d, 0, -1, 1),
        max(r, 0),
        sums(r * kSumLanes, 0),
        outputs(r * d, 0) {
    std::fill_n(max.data(), rows, -kInf);
    for (std::int64_t i = 0; i < rows; ++i) {
      first.push_back(0);
      end.push_back(kKvBlock);
    }
  }
  void see(Random& random, int kind) {
    for (std::size_t i = 0; i < first.size(); ++i) {
      const bool repeat = i > 0 && random.below(3) != 0;
      first[i] = kind == 0 ? 0 : repeat ? first[i - 1] : static_cast<std::int32_t>(random.below(33));
      end[i] = kind == 0 ? 32 : repeat ? end[i - 1] : static_cast<std::int32_t>(random.below(33));
    }
  }
  AttendBlock block() {
    return {keys.data(), values.data(), head_dim,    rows,           queries.data(), first.data(),
            end.data(),  max.data(),    sums.data(), outputs.data(), softcap};
  }
};

void compare_attention(const KernelTable& table, Attention& a, Attention& b, Random& random, int kind) {
  for (int step = 0; step < 4; ++step) {
    a.see(random, step % 2 == 0 ? kind : 0);
    b.first = a.first;
    b.end = a.end;
    std::copy_n(a.keys.data(), a.keys.size(), b.keys.data());
    kReference.attend_block(a.block());
    table.attend_block(b.block());
    EXPECT_TRUE(same_bits(a.max, b.max));
    EXPECT_TRUE(same_bits(a.sums, b.sums));
    EXPECT_TRUE(same_bits(a.outputs, b.outputs));
    for (std::int64_t i = 0; i < a.keys.size(); ++i) a.keys.data()[i] = random.uniform(-2, 2);
  }
  kReference.attend_finish(a.rows, a.head_dim, a.sums.data(), a.outputs.data());
  table.attend_finish(b.rows, b.head_dim, b.sums.data(), b.outputs.data());
  EXPECT_TRUE(same_bits(a.outputs, b.outputs));
}

TEST_P(EveryTable, Attends) {
  for (const std::int64_t head_dim : {2, 16, 30, 64, 80, 100, 128}) {
    for (const std::int64_t rows : {1, 2, 3, 5, 8, 9, 17, 40}) {
      for (const int kind : {0, 1}) {
        SCOPED_TRACE("head_dim " + std::to_string(head_dim) + " rows " + std::to_string(rows));
        Random data(31), same_data(31), random(37);
        Attention a(data, rows, head_dim), b(same_data, rows, head_dim);
        compare_attention(table(), a, b, random, kind);
        a.softcap = b.softcap = 1.5f;
        compare_attention(table(), a, b, random, kind);
      }
    }
  }
}

TEST_P(EveryTable, AttentionDoesNotDependOnTheRowsBesideIt) {
  Random random(41);
  Attention all(random, 23, 64);
  all.see(random, 1);
  table().attend_block(all.block());
  for (std::int64_t r = 0; r < all.rows; ++r) {
    Random same(41);
    Attention one(same, 23, 64);
    AttendBlock b = one.block();
    b.rows = 1;
    b.queries += r * 64;
    b.first_visible = all.first.data() + r;
    b.end_visible = all.end.data() + r;
    table().attend_block(b);
    EXPECT_TRUE(same_bits(all.outputs.data() + r * 64, one.outputs.data(), 64));
    EXPECT_TRUE(same_bits(all.sums.data() + r * kSumLanes, one.sums.data(), kSumLanes));
  }
}

TEST_P(EveryTable, AttentionCarriesNanAndSkipsWhatIsHidden) {
  for (const float bad : {kNan, kInf}) {
    Random data(43);
    Attention hidden(data, 3, 64), seen(data, 3, 64);
    for (Attention* a : {&hidden, &seen}) {
      for (int d = 0; d < 64; ++d) a->keys.data()[d * kKvBlock + 7] = a->values.data()[7 * 64 + d] = bad;
      std::fill(a->end.begin(), a->end.end(), a == &hidden ? 7 : 32);
      table().attend_block(a->block());
    }
    for (std::int64_t i = 0; i < hidden.outputs.size(); ++i) {
      EXPECT_TRUE(std::isfinite(hidden.outputs.data()[i]));
      EXPECT_TRUE(std::isnan(seen.outputs.data()[i]));
    }
  }
}

// ---- the same bits on every machine

// FNV-1a over the bits of numbers without NaN.
std::uint64_t hash(std::uint64_t h, const Floats& x) {
  for (std::int64_t i = 0; i < x.size(); ++i) h = (h ^ std::bit_cast<std::uint32_t>(x.data()[i])) * 0x100000001b3ull;
  return h;
}

// Runs on x86-64 and, under qemu, on aarch64: the constant is what a mixed cluster relies on.
// Of 5 random rows with a random matrix of 40.
Floats product(const KernelTable& table, Format format, Random& random) {
  const Weights w(format, 40, 512, 61);
  const Floats x(random, 5 * 512, 0, -3, 3);
  Floats out(5 * 40, 0);
  QuantizedBuffer buffer(5, 512);
  table.quantize_rows({x.data(), 5, 512}, buffer.view(5, 512));
  table.matmul_quantized(w.matrix(), {0, 3}, buffer.view(5, 512), {out.data(), 5, 40});
  return out;
}

TEST_P(EveryTable, HasTheBitsOfEveryOtherMachine) {
  Random random(59);
  std::uint64_t h = 0xcbf29ce484222325ull;
  for (const Format format : kQuantised) {
    if (format <= Format::q6k) h = hash(h, product(table(), format, random));
  }
  const Floats x(random, 576, 0, -3, 3), y(random, 576, 0, -3, 3);
  Floats out(576, 0);
  table().rms_norm(x.data(), y.data(), 576, 1e-5f, out.data());
  h = hash(h, out);
  table().swiglu(x.data(), y.data(), 576, out.data());
  h = hash(h, out);
  table().rope(out.data(), x.data(), y.data(), 64);
  h = hash(h, out);
  const float third[] = {1.0f / 3};
  Floats widened(1, 0);
  std::uint16_t narrow = 0;
  table().narrow(Precision::f16, third, 1, &narrow);
  table().widen(Precision::f16, &narrow, 1, widened.data());
  h = hash(h, widened);
  Attention attention(random, 11, 64);
  attention.see(random, 1);
  table().attend_block(attention.block());
  h = hash(hash(h, attention.sums), attention.outputs);
  EXPECT_EQ(h, 8011285565918560544ull);
}

// The formats and kernels of the other constants came later.
TEST_P(EveryTable, HasTheBitsOfEveryOtherMachineInLaterFormatsAndGates) {
  Random random(71);
  std::uint64_t h = 0xcbf29ce484222325ull;
  for (const Format format : kQuantised) {
    if (format > Format::q6k) h = hash(h, product(table(), format, random));
  }
  const Floats x(random, 576, 0, -9, 9), y(random, 576, 0, -9, 9);
  Floats out(576, 0);
  table().bounded_swiglu(x.data(), y.data(), 576, out.data());
  h = hash(h, out);
  EXPECT_EQ(h, 10941307550881840295ull);
}

TEST_P(EveryTable, HasTheBitsOfEveryOtherMachineInGeluAndCaps) {
  Random random(67);
  const Floats x(random, 576, 0, -6, 6), y(random, 576, 0, -3, 3);
  Floats out(576, 0);
  table().geglu(x.data(), y.data(), 576, out.data());
  std::uint64_t h = hash(0xcbf29ce484222325ull, out);
  table().softcap(3.0f, 576, out.data());
  h = hash(h, out);
  Attention attention(random, 11, 64);
  attention.softcap = 2.0f;
  attention.see(random, 1);
  table().attend_block(attention.block());
  h = hash(hash(h, attention.sums), attention.outputs);
  EXPECT_EQ(h, 12393714148032192144ull);
}

// ---- the reference against exact arithmetic

// |error| <= (groups + 4) roundings of the sum of magnitudes, with the quantised activations taken as they are.
TEST(Reference, MatmulIsTheProductOfDequantisedNumbers) {
  for (const Format format : kQuantised) {
    constexpr std::int64_t kRows = 19, kCols = 512, kOutputs = 21;
    Random random(47);
    const Weights w(format, kOutputs, kCols, 3);
    const Floats x(random, kRows * kCols, 0, -2, 2);
    QuantizedBuffer buffer(kRows, kCols);
    const QuantizedRows q = buffer.view(kRows, kCols);
    kReference.quantize_rows({x.data(), kRows, kCols}, q);
    Floats out(kRows * kOutputs, 0), weights(kCols, 0);
    kReference.matmul_quantized(w.matrix(), {0, 2}, q, {out.data(), kRows, kOutputs});
    for (std::int64_t n = 0; n < kOutputs; ++n) {
      dequantize_row(w.matrix(), n, weights.data());
      for (std::int64_t b = 0; b < q.blocks(); ++b) {
        const RowBlock at = q.block(b);
        for (std::int64_t r = 0; r < at.rows; ++r) {
          double exact = 0, magnitude = 0;
          for (std::int64_t k = 0; k < kCols; ++k) {
            const std::int64_t i = q.index(at, r, k / kGroupCols);
            const double value = static_cast<double>(q.scales[i]) * q.values[i * kGroupCols + k % kGroupCols];
            EXPECT_NEAR(value, x.data()[(at.first + r) * kCols + k], q.scales[i] * 0.50001);
            exact += value * static_cast<double>(weights.data()[k]);
            magnitude += std::abs(value * static_cast<double>(weights.data()[k]));
          }
          // A minimum's share is added apart from the scale's: its magnitude is not in the weights.
          const double slack = has_min(format) ? 64.0 : 4.0;
          EXPECT_NEAR(out.data()[(at.first + r) * kOutputs + n], exact, (magnitude + slack) * 20 * 0x1p-24)
              << name(format);
        }
      }
    }
  }
}

TEST(Reference, AttentionIsSoftmax) {
  Random random(53);
  Attention a(random, 5, 64);
  a.see(random, 1);
  kReference.attend_block(a.block());
  kReference.attend_finish(a.rows, a.head_dim, a.sums.data(), a.outputs.data());
  for (std::int64_t r = 0; r < a.rows; ++r) {
    const auto row = static_cast<std::size_t>(r);
    if (a.first[row] >= a.end[row]) continue;
    std::vector<double> exact(64, 0.0);
    double total = 0;
    for (int j = a.first[row]; j < a.end[row]; ++j) {
      double score = 0;
      for (int d = 0; d < 64; ++d)
        score += static_cast<double>(a.queries.data()[r * 64 + d]) * static_cast<double>(a.keys.data()[d * 32 + j]);
      total += std::exp(score);
      for (int d = 0; d < 64; ++d)
        exact[static_cast<std::size_t>(d)] += std::exp(score) * static_cast<double>(a.values.data()[j * 64 + d]);
    }
    for (int d = 0; d < 64; ++d)
      EXPECT_NEAR(a.outputs.data()[r * 64 + d], exact[static_cast<std::size_t>(d)] / total, 1e-5);
  }
}

}  // namespace
}  // namespace jupiter::testing

// Series in double precision: far below f32's resolution, the same bits on every machine (no libm, no contraction).
#include "kernels/rope.hpp"

#include <bit>
#include <cmath>

namespace jupiter {

namespace {
constexpr double kTwoOverPi = 0.636619772367581343076;
constexpr double kLn2 = 0.693147180559945309417;
// pi/2 in three parts; k * kHalfPi1 is exact for k < 2^20 (Cody and Waite, 1980).
constexpr double kHalfPi1 = 0x1.921fb544p+0;
constexpr double kHalfPi2 = 0x1.0b4611a6p-34;
constexpr double kHalfPi3 = 0x1.3198a2e037073p-69;

// Taylor series on |r| <= pi/4 in Horner form; the first term left out is below 2^-60.
double sin_series(double r) {
  const double x = r * r;
  double p = -1.0 / 121645100408832000.0;  // 19!
  p = p * x + 1.0 / 355687428096000.0;     // 17!
  p = p * x - 1.0 / 1307674368000.0;
  p = p * x + 1.0 / 6227020800.0;
  p = p * x - 1.0 / 39916800.0;
  p = p * x + 1.0 / 362880.0;
  p = p * x - 1.0 / 5040.0;
  p = p * x + 1.0 / 120.0;
  p = p * x - 1.0 / 6.0;
  return r + r * (p * x);
}
double cos_series(double r) {
  const double x = r * r;
  double p = -1.0 / 6402373705728000.0;  // 18!
  p = p * x + 1.0 / 20922789888000.0;    // 16!
  p = p * x - 1.0 / 87178291200.0;
  p = p * x + 1.0 / 479001600.0;
  p = p * x - 1.0 / 3628800.0;
  p = p * x + 1.0 / 40320.0;
  p = p * x - 1.0 / 720.0;
  p = p * x + 1.0 / 24.0;
  p = p * x - 1.0 / 2.0;
  return 1.0 + p * x;
}
}  // namespace

SinCos sin_cos(double x) {
  const auto quarter = static_cast<std::int64_t>(x * kTwoOverPi + 0.5);
  const auto k = static_cast<double>(quarter);
  const double r = ((x - k * kHalfPi1) - k * kHalfPi2) - k * kHalfPi3;
  const double s = sin_series(r), c = cos_series(r);
  switch (quarter & 3) {
    case 0:
      return {s, c};
    case 1:
      return {c, -s};
    case 2:
      return {-s, -c};
    default:
      return {-c, s};
  }
}

double exp_exact(double x) {
  const double scaled = x / kLn2;
  const auto n = static_cast<std::int64_t>(scaled < 0 ? scaled - 0.5 : scaled + 0.5);
  const double r = x - static_cast<double>(n) * kLn2;
  double term = 1, sum = 1;
  for (int k = 1; k <= 18; ++k) {
    term = term * r / k;
    sum += term;
  }
  return sum * std::bit_cast<double>(static_cast<std::uint64_t>(n + 1023) << 52);
}

double log_exact(double x) {
  const std::uint64_t bits = std::bit_cast<std::uint64_t>(x);
  std::int64_t exponent = static_cast<std::int64_t>(bits >> 52) - 1023;
  double m = std::bit_cast<double>((bits & 0xfffffffffffffull) | 0x3ff0000000000000ull);
  if (m > 1.4142135623730951) {
    m *= 0.5;
    ++exponent;
  }
  const double z = (m - 1) / (m + 1), z2 = z * z;  // log m = 2 atanh z
  double power = z, sum = 0;
  for (int k = 0; k <= 14; ++k) {
    sum += power / (2 * k + 1);
    power *= z2;
  }
  return 2 * sum + static_cast<double>(exponent) * kLn2;
}

RopeTable::RopeTable(float theta, std::int64_t dim, const std::vector<float>& factors, float attention_factor,
                     std::int64_t positions)
    : half_(dim / 2), attention_factor_(static_cast<double>(attention_factor)) {
  frequencies_.reserve(half_);
  cos_.reserve(positions * half_);
  sin_.reserve(positions * half_);
  const double log_theta = log_exact(static_cast<double>(theta));
  for (std::int64_t i = 0; i < half_; ++i) {
    const double fraction = static_cast<double>(2 * i) / static_cast<double>(dim);
    double frequency = exp_exact(-fraction * log_theta);
    if (!factors.empty()) frequency /= static_cast<double>(factors[i]);
    frequencies_.push_back(frequency);
  }
}

void RopeTable::extend(std::int64_t end) {
  const auto have = std::ssize(cos_) / half_;
  if (end <= have) return;
  cos_.resize(end * half_);
  sin_.resize(end * half_);
  for (std::int64_t p = have; p < end; ++p) {
    for (std::int64_t i = 0; i < half_; ++i) {
      const SinCos v = sin_cos(static_cast<double>(p) * frequencies_[i]);
      cos_[p * half_ + i] = static_cast<float>(v.cos * attention_factor_);
      sin_[p * half_ + i] = static_cast<float>(v.sin * attention_factor_);
    }
  }
}

RopeTables::RopeTables(const ModelConfig& c, std::int64_t positions) {
  tables_.emplace_back(c.rope_theta, c.rotary_dim(), c.rope_factors, c.rope_attention_factor, positions);
  if (c.sliding_rope_theta > 0) {
    tables_.emplace_back(c.sliding_rope_theta, c.rotary_dim(), std::vector<float>{}, 1.0f, positions);
  }
}

void RopeTables::extend(std::int64_t end) {
  for (RopeTable& table : tables_) table.extend(end);
}

std::size_t RopeTables::bytes() const {
  std::size_t sum = 0;
  for (const RopeTable& table : tables_) sum += table.bytes();
  return sum;
}

}  // namespace jupiter

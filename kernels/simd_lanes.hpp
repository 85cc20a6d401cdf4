// Sixteen f32 lanes on any instruction set. Isa is a struct of static functions over its own registers of Isa::kLanes
// lanes (avx512.cpp, avx2.cpp, neon.cpp); everything above it is written once. Included only by those files, each of
// which gets a copy of its own: whatever a linker could share between files would carry the wrong instructions.
#pragma once

#include <cstdint>

#include "kernels/numerics.hpp"

#define JUPITER_INLINE inline __attribute__((always_inline))

namespace jupiter {
namespace {

constexpr int kWide = 16;

template <class Isa>
struct Lanes {
  static constexpr int kParts = kWide / Isa::kLanes;
  typename Isa::F v[kParts];
};

template <class Isa>
JUPITER_INLINE Lanes<Isa> load(const float* p) {
  Lanes<Isa> out;
  for (int i = 0; i < Lanes<Isa>::kParts; ++i) out.v[i] = Isa::load(p + i * Isa::kLanes);
  return out;
}
template <class Isa>
JUPITER_INLINE void store(float* p, const Lanes<Isa>& a) {
  for (int i = 0; i < Lanes<Isa>::kParts; ++i) Isa::store(p + i * Isa::kLanes, a.v[i]);
}
template <class Isa>
JUPITER_INLINE Lanes<Isa> set1(float x) {
  Lanes<Isa> out;
  for (int i = 0; i < Lanes<Isa>::kParts; ++i) out.v[i] = Isa::set1(x);
  return out;
}

// The first n lanes of memory, zeros behind; n <= 16.
template <class Isa>
JUPITER_INLINE Lanes<Isa> load_part(const float* p, std::int64_t n) {
  if (n == kWide) return load<Isa>(p);
  float all[kWide] = {};
  for (std::int64_t i = 0; i < n; ++i) all[i] = p[i];
  return load<Isa>(all);
}
template <class Isa>
JUPITER_INLINE void store_part(float* p, const Lanes<Isa>& a, std::int64_t n) {
  if (n == kWide) return store<Isa>(p, a);
  float all[kWide];
  store<Isa>(all, a);
  for (std::int64_t i = 0; i < n; ++i) p[i] = all[i];
}

#define JUPITER_LANEWISE(op)                                                         \
  template <class Isa>                                                               \
  JUPITER_INLINE Lanes<Isa> op(const Lanes<Isa>& a, const Lanes<Isa>& b) {           \
    Lanes<Isa> out;                                                                  \
    for (int i = 0; i < Lanes<Isa>::kParts; ++i) out.v[i] = Isa::op(a.v[i], b.v[i]); \
    return out;                                                                      \
  }
JUPITER_LANEWISE(add)
JUPITER_LANEWISE(sub)
JUPITER_LANEWISE(mul)
JUPITER_LANEWISE(div)
JUPITER_LANEWISE(larger)  // a > b ? a : b, so b where a is NaN
#undef JUPITER_LANEWISE

// a * b + c, rounded once
template <class Isa>
JUPITER_INLINE Lanes<Isa> fma(const Lanes<Isa>& a, const Lanes<Isa>& b, const Lanes<Isa>& c) {
  Lanes<Isa> out;
  for (int i = 0; i < Lanes<Isa>::kParts; ++i) out.v[i] = Isa::fma(a.v[i], b.v[i], c.v[i]);
  return out;
}

template <class Isa>
JUPITER_INLINE Lanes<Isa> negate(const Lanes<Isa>& a) {
  Lanes<Isa> out;
  for (int i = 0; i < Lanes<Isa>::kParts; ++i) out.v[i] = Isa::negate(a.v[i]);
  return out;
}

// NaN stays.
template <class Isa>
JUPITER_INLINE Lanes<Isa> at_most(const Lanes<Isa>& a, float limit) {
  Lanes<Isa> out;
  for (int i = 0; i < Lanes<Isa>::kParts; ++i) out.v[i] = Isa::at_most(a.v[i], Isa::set1(limit));
  return out;
}

// Halves are added until one lane is left.
template <class Isa>
JUPITER_INLINE float tree_sum(const Lanes<Isa>& a) {
  float s[kWide];
  store<Isa>(s, a);
  for (int half = kWide / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) s[i] += s[i + half];
  }
  return s[0];
}

// The steps of exp_reference, in its order.
template <class Isa>
JUPITER_INLINE typename Isa::F exp_native(typename Isa::F x) {
  using F = typename Isa::F;
  const F magic = Isa::set1(kRoundMagic);
  const F clamped = Isa::at_most(x, Isa::set1(kExpHigh));
  const F shifted = Isa::fma(clamped, Isa::set1(kLog2E), magic);
  const F n = Isa::sub(shifted, magic);
  const F r = Isa::fma(n, Isa::set1(-kLn2Low), Isa::fma(n, Isa::set1(-kLn2High), clamped));
  F p = Isa::set1(kExpPoly[0]);
  for (int i = 1; i < kExpTerms; ++i) p = Isa::fma(p, r, Isa::set1(kExpPoly[i]));
  return Isa::zero_if_less(x, Isa::set1(kExpLow), Isa::mul(p, Isa::power_of_two(shifted)));
}
template <class Isa>
JUPITER_INLINE Lanes<Isa> exp(const Lanes<Isa>& x) {
  Lanes<Isa> out;
  for (int i = 0; i < Lanes<Isa>::kParts; ++i) out.v[i] = exp_native<Isa>(x.v[i]);
  return out;
}

// cap * tanh(x / cap), in the steps of the reference.
template <class Isa>
JUPITER_INLINE Lanes<Isa> capped(const Lanes<Isa>& x, float cap) {
  const auto e = exp<Isa>(mul<Isa>(x, set1<Isa>(2.0f / cap)));
  return sub<Isa>(set1<Isa>(cap), div<Isa>(set1<Isa>(cap + cap), add<Isa>(e, set1<Isa>(1.0f))));
}

}  // namespace
}  // namespace jupiter

// Constants that every table of kernels computes with. Plain data: the files of an instruction set include it too.
#pragma once

#include <cstdint>

namespace jupiter {

inline constexpr std::uint32_t kInfinityBits = 0x7f800000u;
inline constexpr std::uint32_t kOneBits = 0x3f800000u;

// x + kRoundMagic rounds |x| < 2^22 to the nearest even integer, which is then in the low bits.
inline constexpr float kRoundMagic = 0x1.8p23f;
inline constexpr std::int32_t kRoundMagicBits = 0x4b400000;

// A group of activations below this counts as zero: 127 / amax must not overflow.
inline constexpr float kSmallestAmax = 0x1p-100f;

// e^x = 2^n * p(r), n = nearest integer to x / ln 2, r = x - n ln 2 in two parts (Cody & Waite).
inline constexpr float kExpLow = -87.0f;  // below: 0; 2^n stays a normal number
inline constexpr float kExpHigh = 88.0f;  // above: e^88
inline constexpr float kLog2E = 0x1.715476p+0f;
inline constexpr float kLn2High = 0x1.62e43p-1f;
inline constexpr float kLn2Low = -0x1.05c61p-29f;
// Highest power first. Fitted to the smallest largest relative error over |r| <= 0.35 with p(0) = p'(0) = 1.
inline constexpr int kExpTerms = 7;
inline constexpr float kExpPoly[kExpTerms] = {
    0x1.6a1a72p-10f, 0x1.123fc6p-7f, 0x1.555916p-5f, 0x1.55548ap-3f, 0x1.fffffcp-2f, 1.0f, 1.0f};

// GELU in its tanh form is x / (1 + e^-u), u = 2 sqrt(2 / pi) (x + 0.044715 x^3).
inline constexpr float kGeluLinear = 0x1.988454p+0f;
inline constexpr float kGeluCubic = 0x1.2444f2p-4f;

// gpt-oss's SwiGLU: the bound of its inputs, and the slope of its sigmoid.
inline constexpr float kBound = 7.0f;
inline constexpr float kBoundedSlope = 1.702f;

}  // namespace jupiter

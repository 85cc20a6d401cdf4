// Groups of 32 columns, each on its own.
#include "io/model/quantize.hpp"

#include <algorithm>
#include <cmath>

#include "io/float16.hpp"

namespace jupiter {

namespace {

struct Q4Group {
  f16_t scale;
  f16_t min;
  double error;
};

std::uint8_t q4_of(float x, float scale, float min) {
  const float q = scale > 0 ? std::nearbyintf((x - min) / scale) : 0.0f;
  return static_cast<std::uint8_t>(std::clamp(q, 0.0f, 15.0f));
}

Q4Group try_range(const float* x, float low, float high) {
  Q4Group g{f32_to_f16((high - low) / 15.0f), f32_to_f16(low), 0};
  const float scale = f16_to_f32(g.scale), min = f16_to_f32(g.min);
  for (std::int64_t i = 0; i < kGroupCols; ++i) {
    const double d = static_cast<double>(x[i]) - static_cast<double>(scale * q4_of(x[i], scale, min) + min);
    g.error += d * d;
  }
  return g;
}

}  // namespace

void quantize_q8(const float* x, std::int64_t cols, QuantizedRow& out) {
  for (std::int64_t g = 0; g < cols / kGroupCols; ++g, x += kGroupCols) {
    float largest = 0;
    for (std::int64_t i = 0; i < kGroupCols; ++i) largest = std::max(largest, std::fabs(x[i]));
    out.scales[g] = f32_to_f16(largest / 127.0f);
    const float scale = f16_to_f32(out.scales[g]);
    for (std::int64_t i = 0; i < kGroupCols; ++i) {
      const float q = scale > 0 ? std::clamp(std::nearbyintf(x[i] / scale), -127.0f, 127.0f) : 0.0f;
      out.q[g * kGroupCols + i] = static_cast<std::uint8_t>(static_cast<int>(q) + zero_point(Format::q8));
    }
  }
}

void quantize_q4m(const float* x, std::int64_t cols, QuantizedRow& out) {
  for (std::int64_t g = 0; g < cols / kGroupCols; ++g, x += kGroupCols) {
    const auto [low, high] = std::minmax_element(x, x + kGroupCols);
    Q4Group best = try_range(x, *low, *high);
    for (int shrink = 1; shrink <= 4; ++shrink) {  // clipping the extremes often lowers the sum of errors
      const float cut = (*high - *low) * 0.02f * static_cast<float>(shrink);
      for (const auto& [l, h] :
           {std::pair{*low + cut, *high}, std::pair{*low, *high - cut}, std::pair{*low + cut, *high - cut}}) {
        const Q4Group candidate = try_range(x, l, h);
        if (candidate.error < best.error) best = candidate;
      }
    }
    out.scales[g] = best.scale;
    out.mins[g] = best.min;
    for (std::int64_t i = 0; i < kGroupCols; ++i) {
      out.q[g * kGroupCols + i] = q4_of(x[i], f16_to_f32(best.scale), f16_to_f32(best.min));
    }
  }
}

}  // namespace jupiter

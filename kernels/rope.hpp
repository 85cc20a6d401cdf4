// Rotary position embedding tables (Su et al., RoFormer, 2021), made without libm so that they are the same everywhere.
#pragma once

#include <cstdint>
#include <vector>

#include "io/model/model_config.hpp"

namespace jupiter {

class RopeTable {
 public:
  // frequency i is theta^(-2 i / dim) / factors[i]; no factors: all are 1. positions: for how many room is made at
  // once; more may come.
  RopeTable(float theta, std::int64_t dim, const std::vector<float>& factors, float attention_factor,
            std::int64_t positions);

  // Makes rows for positions below `end`; call before cos() and sin() of them.
  void extend(std::int64_t end);
  const float* cos(std::int64_t position) const { return &cos_[position * half_]; }
  const float* sin(std::int64_t position) const { return &sin_[position * half_]; }
  std::size_t bytes() const {
    return frequencies_.capacity() * sizeof(double) + (cos_.capacity() + sin_.capacity()) * sizeof(float);
  }

 private:
  std::int64_t half_;  // of the elements of a head that are rotated
  double attention_factor_;
  std::vector<double> frequencies_;  // [half], radians per position
  std::vector<float> cos_, sin_;     // [positions][half]
};

// The tables of a model: most have one, and some another for layers with a sliding window.
class RopeTables {
 public:
  explicit RopeTables(const ModelConfig& config, std::int64_t positions = 0);

  void extend(std::int64_t end);
  // Null for layers without rotation.
  const RopeTable* of(const LayerKind& kind) const {
    return kind.rope == LayerKind::Rope::none ? nullptr : &tables_[kind.rope == LayerKind::Rope::sliding ? 1 : 0];
  }
  std::size_t bytes() const;

 private:
  std::vector<RopeTable> tables_;
};

// sine and cosine of x >= 0 (radians, below 2^30), in double arithmetic with a fixed order of operations.
struct SinCos {
  double sin;
  double cos;
};
SinCos sin_cos(double x);
// exp(x) for |x| < 700 in double arithmetic with a fixed order of operations.
double exp_exact(double x);
// natural logarithm of x > 0, likewise.
double log_exact(double x);

}  // namespace jupiter

// The residual as it travels between stages: exact, or rounded to 8 bits on request.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include "io/buffer.hpp"
#include "io/model/model_config.hpp"
#include "kernels/runtime.hpp"

namespace jupiter {

// exact: in the model's own precision, to which the residual was rounded before, so no bit changes.
// q8: groups of 32 as int8 with an f16 scale, 17/32 of the bytes of f16. It gives other bits and other answers
// (opt-in).
enum class Wire : std::uint8_t { exact, q8 };
std::string_view name(Wire wire);
std::optional<Wire> wire_from_name(std::string_view text);

// Bytes of one row. UsageError where q8 does not divide `dim`.
std::int64_t wire_row_bytes(Wire wire, const ModelConfig& config);

// x: [rows][dim]; bytes: rows * wire_row_bytes. RunError where a value does not fit.
void to_wire(const Runtime& rt, Wire wire, Precision precision, MatrixView<const float> x, std::byte* bytes);
void from_wire(const Runtime& rt, Wire wire, Precision precision, const std::byte* bytes, MatrixView<float> x);

}  // namespace jupiter

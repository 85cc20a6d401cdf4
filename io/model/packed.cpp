// The packed layout, written plainly: packing at conversion, unpacking for tests and the embedding lookup.
#include "io/model/packed.hpp"

#include <array>
#include <bit>
#include <cassert>
#include <cstring>

#include "io/enum_names.hpp"
#include "io/float16.hpp"

namespace jupiter {

namespace {

constexpr std::array<std::string_view, index_of(kLastFormat) + 1> kNames = {
    "f32", "f16", "bf16", "q4", "q4m", "q5", "q5m", "q8", "q4k", "q5k", "q6k", "q2k", "q3k", "iq4nl", "iq4xs", "mxfp4"};

std::size_t element_bytes(Format f) {
  return f == Format::f32 ? 4 : 2;
}
// q2k's scales and minima have four bits each and share bytes.
bool has_shared_bytes(const FormatParts& p) {
  return p.min && p.scales_per_group == 2;
}

std::uint16_t load_u16(const std::byte* p) {
  std::uint16_t v;
  std::memcpy(&v, p, 2);
  return v;
}
void store_u16(std::byte* p, std::uint16_t v) {
  std::memcpy(p, &v, 2);
}
unsigned load_u8(const std::byte* p) {
  return std::to_integer<unsigned>(*p);
}

// Copies a column of an [n][16] table between the panel and a plain array.
void put_u16(const Buffer<std::uint16_t>& from, std::size_t offset, std::int64_t i, std::byte* panel) {
  for (std::size_t g = 0; g < from.size(); ++g) store_u16(panel + offset + (g * kPanelRows + i) * 2, from[g]);
}
void get_u16(const std::byte* panel, std::size_t offset, std::int64_t i, Buffer<std::uint16_t>& to) {
  for (std::size_t g = 0; g < to.size(); ++g) to[g] = load_u16(panel + offset + (g * kPanelRows + i) * 2);
}
void put_u8(const Buffer<std::uint8_t>& from, std::size_t offset, std::int64_t i, std::byte* panel) {
  for (std::size_t g = 0; g < from.size(); ++g) panel[offset + g * kPanelRows + i] = std::byte{from[g]};
}
void get_u8(const std::byte* panel, std::size_t offset, std::int64_t i, Buffer<std::uint8_t>& to) {
  for (std::size_t g = 0; g < to.size(); ++g) {
    to[g] = static_cast<std::uint8_t>(load_u8(panel + offset + g * kPanelRows + i));
  }
}

// Bytes of a group of a panel with n bits for each weight.
constexpr std::size_t section_bytes(int n) {
  return static_cast<std::size_t>(kPanelRows * kGroupCols * n / 8);
}

// Where some bits of one column lie inside a panel.
struct Bits {
  std::size_t byte = 0;
  int shift = 0;
  unsigned mask = 0;  // 0: there are none

  unsigned get(const std::byte* panel) const { return mask == 0 ? 0 : (load_u8(panel + byte) >> shift) & mask; }
  void put(unsigned q, std::byte* panel) const {
    if (mask != 0) panel[byte] |= static_cast<std::byte>((q & mask) << shift);
  }
};

// Bits of column `col` of row i in a section that begins at `start` and has `n` bits for each.
Bits bits_at(std::size_t start, int n, std::int64_t i, std::int64_t col) {
  const std::int64_t g = col / kGroupCols, k = col % kGroupCols, quad = k / 4, lane = i * 4 + k % 4;
  const std::size_t group = start + static_cast<std::size_t>(g) * section_bytes(n);
  switch (n) {
    case 8:
      return {group + quad * 64 + lane, 0, 255};
    case 4:
      return {group + (quad % 4) * 64 + lane, quad < 4 ? 0 : 4, 15};
    case 2:
      return {group + (quad / 4) * 64 + lane, static_cast<int>(quad % 4) * 2, 3};
    case 1:
      return {group + quad * 8 + lane / 8, static_cast<int>(lane % 8), 1};
    default:
      return {};
  }
}

}  // namespace

std::string_view name(Format format) {
  return kNames[index_of(format)];
}

std::optional<Format> format_from_name(std::string_view text) {
  return enum_from_name<Format>(kNames, text);
}

PanelLayout panel_layout(Format f, std::int64_t cols) {
  assert(cols > 0 && cols % col_multiple(f) == 0);
  PanelLayout at;
  std::size_t end = 0;
  const auto section = [&end](std::int64_t bytes) {
    const std::size_t start = end;
    end += (static_cast<std::size_t>(bytes) + kCacheLine - 1) / kCacheLine * kCacheLine;
    return start;
  };
  if (is_float(f)) {
    section(kPanelRows * cols * static_cast<std::int64_t>(element_bytes(f)));
    at.bytes = end;
    return at;
  }
  const FormatParts p = parts(f);
  const std::int64_t groups = cols / kGroupCols, superblocks = cols / kSuperblockCols;
  if (p.scales == Scales::two_level) {
    at.super_scales = section(superblocks * kPanelRows * 2);
    if (p.min) at.super_mins = section(superblocks * kPanelRows * 2);
  }
  const std::int64_t scale_bytes = p.scales == Scales::half ? 2 : 1;
  at.scales = section(groups * p.scales_per_group * kPanelRows * scale_bytes);
  if (p.min && !has_shared_bytes(p)) at.mins = section(groups * kPanelRows * scale_bytes);
  at.low = section(groups * static_cast<std::int64_t>(section_bytes(p.low_bits)));
  if (p.high_bits > 0) at.high = section(groups * static_cast<std::int64_t>(section_bytes(p.high_bits)));
  at.bytes = end;
  return at;
}

QuantizedRow::QuantizedRow(Format f, std::int64_t cols) : q(static_cast<std::size_t>(cols)) {
  const std::size_t groups = cols / kGroupCols, superblocks = cols / kSuperblockCols;
  const FormatParts p = parts(f);
  if (p.scales == Scales::half) {
    scales = Buffer<std::uint16_t>(groups);
    if (p.min) mins = Buffer<std::uint16_t>(groups);
    return;
  }
  sub_scales = Buffer<std::uint8_t>(groups * p.scales_per_group);
  if (p.scales == Scales::exponent) return;
  super_scales = Buffer<std::uint16_t>(superblocks);
  if (!p.min) return;
  super_mins = Buffer<std::uint16_t>(superblocks);
  sub_mins = Buffer<std::uint8_t>(groups * p.scales_per_group);
}

void pack_row(Format f, std::int64_t cols, const QuantizedRow& row, std::int64_t i, std::byte* panel) {
  const PanelLayout at = panel_layout(f, cols);
  const FormatParts p = parts(f);
  put_u16(row.scales, at.scales, i, panel);
  put_u16(row.mins, at.mins, i, panel);
  put_u16(row.super_scales, at.super_scales, i, panel);
  put_u16(row.super_mins, at.super_mins, i, panel);
  if (has_shared_bytes(p)) {
    Buffer<std::uint8_t> both(row.sub_scales.size());
    for (std::size_t g = 0; g < both.size(); ++g) {
      both[g] = static_cast<std::uint8_t>(row.sub_scales[g] | (row.sub_mins[g] << 4));
    }
    put_u8(both, at.scales, i, panel);
  } else {
    put_u8(row.sub_scales, at.scales, i, panel);
    put_u8(row.sub_mins, at.mins, i, panel);
  }
  for (std::int64_t col = 0; col < cols; ++col) {
    bits_at(at.low, p.low_bits, i, col).put(row.q[col], panel);
    bits_at(at.high, p.high_bits, i, col).put(unsigned{row.q[col]} >> p.low_bits, panel);
  }
}

void unpack_row(Format f, std::int64_t cols, const std::byte* panel, std::int64_t i, QuantizedRow& row) {
  const PanelLayout at = panel_layout(f, cols);
  const FormatParts p = parts(f);
  get_u16(panel, at.scales, i, row.scales);
  get_u16(panel, at.mins, i, row.mins);
  get_u16(panel, at.super_scales, i, row.super_scales);
  get_u16(panel, at.super_mins, i, row.super_mins);
  get_u8(panel, at.scales, i, row.sub_scales);
  if (has_shared_bytes(p)) {
    for (std::size_t g = 0; g < row.sub_scales.size(); ++g) {
      row.sub_mins[g] = row.sub_scales[g] >> 4;
      row.sub_scales[g] &= 15u;
    }
  } else {
    get_u8(panel, at.mins, i, row.sub_mins);
  }
  for (std::int64_t col = 0; col < cols; ++col) {
    const unsigned low = bits_at(at.low, p.low_bits, i, col).get(panel);
    const unsigned high = bits_at(at.high, p.high_bits, i, col).get(panel);
    row.q[col] = static_cast<std::uint8_t>(low | (high << p.low_bits));
  }
}

void pack_zero_row(Format f, std::int64_t cols, std::int64_t i, std::byte* panel) {
  if (is_float(f)) return;  // the panel starts zeroed
  QuantizedRow zero(f, cols);
  // Scales are zero but for mxfp4, whose powers of two never are: its first level is.
  std::memset(zero.q.data(), parts(f).levels ? 0 : zero_point(f), zero.q.size());
  pack_row(f, cols, zero, i, panel);
}

namespace {
void dequantize_float_row(const PackedMatrix& m, std::int64_t row, float* out) {
  const std::byte* from = m.data + static_cast<std::size_t>(row * m.cols) * element_bytes(m.format);
  if (m.format == Format::f32) {
    std::memcpy(out, from, static_cast<std::size_t>(m.cols) * 4);
    return;
  }
  for (std::int64_t c = 0; c < m.cols; ++c) {
    const std::uint16_t bits = load_u16(from + 2 * c);
    out[c] = m.format == Format::f16 ? f16_to_f32(bits) : bf16_to_f32(bits);
  }
}
}  // namespace

float exponent_scale(std::uint8_t exponent) {
  // Half of 2^(exponent - 127): the smallest, 2^-128, is below the exponents of normal numbers.
  const std::uint32_t doubled = exponent == 0 ? 1u << 22 : std::uint32_t{exponent} << 23;
  return std::bit_cast<float>(doubled) * 0.5f;
}

void dequantize_row(Format format, std::int64_t cols, const QuantizedRow& r, float* out) {
  const FormatParts p = parts(format);
  const std::int64_t scale_cols = kGroupCols / p.scales_per_group;
  for (std::int64_t c = 0; c < cols; ++c) {
    const std::int64_t g = c / scale_cols, s = c / kSuperblockCols;
    const float q = static_cast<float>(weight_integer(format, r.q[c]));
    if (p.scales == Scales::half) {
      out[c] = f16_to_f32(r.scales[g]) * q + (p.min ? f16_to_f32(r.mins[g]) : 0.0f);
    } else if (p.scales == Scales::exponent) {
      out[c] = exponent_scale(r.sub_scales[g]) * q;
    } else {
      const int scale = p.signed_scales ? int{static_cast<std::int8_t>(r.sub_scales[g])} : int{r.sub_scales[g]};
      out[c] = f16_to_f32(r.super_scales[s]) * static_cast<float>(scale) * q;
      if (p.min) out[c] -= f16_to_f32(r.super_mins[s]) * static_cast<float>(r.sub_mins[g]);
    }
  }
}

void dequantize_row(const PackedMatrix& m, std::int64_t row, float* out) {
  if (is_float(m.format)) return dequantize_float_row(m, row, out);
  QuantizedRow r(m.format, m.cols);
  unpack_row(m.format, m.cols, m.panel(row / kPanelRows), row % kPanelRows, r);
  dequantize_row(m.format, m.cols, r, out);
}

}  // namespace jupiter

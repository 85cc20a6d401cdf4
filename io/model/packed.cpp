// The packed layout, written plainly: packing at conversion, unpacking for tests and the embedding lookup.
#include "io/model/packed.hpp"

#include <array>
#include <cassert>
#include <cstring>

#include "io/enum_names.hpp"
#include "io/float16.hpp"

namespace jupiter {

namespace {

constexpr std::array<std::string_view, 11> kNames = {"f32", "f16", "bf16", "q4",  "q4m", "q5",
                                                     "q5m", "q8",  "q4k",  "q5k", "q6k"};

std::size_t element_bytes(Format f) {
  return f == Format::f32 ? 4 : 2;
}
bool has_low_nibbles(Format f) {
  return f != Format::q8;
}
bool has_fifth_bit(Format f) {
  return f == Format::q5 || f == Format::q5m || f == Format::q5k;
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

// Place of one column's bits inside a panel.
struct Place {
  std::size_t low;   // byte
  int low_shift;     // 0 or 4
  std::size_t high;  // byte
  int high_shift;
};
Place place(Format f, const PanelLayout& at, std::int64_t i, std::int64_t col) {
  const std::int64_t g = col / kGroupCols, k = col % kGroupCols, quad = k / 4, lane = i * 4 + k % 4;
  Place p{};
  if (f == Format::q8) {
    p.low = at.low + g * 512 + quad * 64 + lane;
    return p;
  }
  p.low = at.low + g * 256 + (quad % 4) * 64 + lane;
  p.low_shift = quad < 4 ? 0 : 4;
  if (has_fifth_bit(f)) {
    p.high = at.high + g * 64 + quad * 8 + lane / 8;
    p.high_shift = static_cast<int>(lane % 8);
  } else if (f == Format::q6k) {
    p.high = at.high + g * 128 + (quad / 4) * 64 + lane;
    p.high_shift = static_cast<int>(quad % 4) * 2;
  }
  return p;
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
  const std::int64_t groups = cols / kGroupCols, superblocks = cols / kSuperblockCols;
  if (is_k_quant(f)) {
    at.super_scales = section(superblocks * kPanelRows * 2);
    if (has_min(f)) at.super_mins = section(superblocks * kPanelRows * 2);
    at.scales = section(groups * kPanelRows * (f == Format::q6k ? 2 : 1));
    if (has_min(f)) at.mins = section(groups * kPanelRows);
  } else {
    at.scales = section(groups * kPanelRows * 2);
    if (has_min(f)) at.mins = section(groups * kPanelRows * 2);
  }
  at.low = section(groups * (has_low_nibbles(f) ? 256 : 512));
  if (has_fifth_bit(f)) at.high = section(groups * 64);
  if (f == Format::q6k) at.high = section(groups * 128);
  at.bytes = end;
  return at;
}

QuantizedRow::QuantizedRow(Format f, std::int64_t cols) : q(static_cast<std::size_t>(cols)) {
  const std::size_t groups = cols / kGroupCols, superblocks = cols / kSuperblockCols;
  if (is_k_quant(f)) {
    super_scales = Buffer<std::uint16_t>(superblocks);
    sub_scales = Buffer<std::uint8_t>(f == Format::q6k ? 2 * groups : groups);
    if (has_min(f)) {
      super_mins = Buffer<std::uint16_t>(superblocks);
      sub_mins = Buffer<std::uint8_t>(groups);
    }
  } else {
    scales = Buffer<std::uint16_t>(groups);
    if (has_min(f)) mins = Buffer<std::uint16_t>(groups);
  }
}

void pack_row(Format f, std::int64_t cols, const QuantizedRow& row, std::int64_t i, std::byte* panel) {
  const PanelLayout at = panel_layout(f, cols);
  put_u16(row.scales, at.scales, i, panel);
  put_u16(row.mins, at.mins, i, panel);
  put_u16(row.super_scales, at.super_scales, i, panel);
  put_u16(row.super_mins, at.super_mins, i, panel);
  put_u8(row.sub_scales, at.scales, i, panel);
  put_u8(row.sub_mins, at.mins, i, panel);
  for (std::int64_t col = 0; col < cols; ++col) {
    const Place p = place(f, at, i, col);
    const unsigned q = row.q[col];
    if (f == Format::q8) {
      panel[p.low] = static_cast<std::byte>(q);
      continue;
    }
    panel[p.low] |= static_cast<std::byte>((q & 15u) << p.low_shift);
    if (at.high != 0) panel[p.high] |= static_cast<std::byte>((q >> 4) << p.high_shift);
  }
}

void unpack_row(Format f, std::int64_t cols, const std::byte* panel, std::int64_t i, QuantizedRow& row) {
  const PanelLayout at = panel_layout(f, cols);
  get_u16(panel, at.scales, i, row.scales);
  get_u16(panel, at.mins, i, row.mins);
  get_u16(panel, at.super_scales, i, row.super_scales);
  get_u16(panel, at.super_mins, i, row.super_mins);
  get_u8(panel, at.scales, i, row.sub_scales);
  get_u8(panel, at.mins, i, row.sub_mins);
  for (std::int64_t col = 0; col < cols; ++col) {
    const Place p = place(f, at, i, col);
    unsigned q = load_u8(panel + p.low);
    if (f != Format::q8) q = (q >> p.low_shift) & 15u;
    if (at.high != 0) q |= ((load_u8(panel + p.high) >> p.high_shift) & (f == Format::q6k ? 3u : 1u)) << 4;
    row.q[col] = static_cast<std::uint8_t>(q);
  }
}

void pack_zero_row(Format f, std::int64_t cols, std::int64_t i, std::byte* panel) {
  if (is_float(f)) return;  // the panel starts zeroed
  QuantizedRow zero(f, cols);
  std::memset(zero.q.data(), zero_point(f), zero.q.size());
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

void dequantize_row(Format format, std::int64_t cols, const QuantizedRow& r, float* out) {
  const int zero = zero_point(format);
  for (std::int64_t c = 0; c < cols; ++c) {
    const std::int64_t g = c / kGroupCols, s = c / kSuperblockCols;
    const float q = static_cast<float>(int{r.q[c]} - zero);
    if (format == Format::q6k) {
      const float scale = static_cast<float>(static_cast<std::int8_t>(r.sub_scales[c / 16]));
      out[c] = f16_to_f32(r.super_scales[s]) * scale * q;
    } else if (is_k_quant(format)) {
      const float scale = f16_to_f32(r.super_scales[s]) * static_cast<float>(r.sub_scales[g]);
      const float min = f16_to_f32(r.super_mins[s]) * static_cast<float>(r.sub_mins[g]);
      out[c] = scale * q - min;
    } else {
      out[c] = f16_to_f32(r.scales[g]) * q + (has_min(format) ? f16_to_f32(r.mins[g]) : 0.0f);
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

// Block layouts of GGUF's tensor types. Every quantised type goes through QuantizedRow, so there is one reader a type.
#include "io/formats/gguf_quants.hpp"

#include <array>
#include <bit>
#include <cassert>
#include <cstring>

#include "io/float16.hpp"

namespace jupiter {

static_assert(std::endian::native == std::endian::little, "GGUF and safetensors are read in place");

namespace {

struct TypeInfo {
  GgufType type;
  Format format;
  GgufBlock block;
};

constexpr std::array<TypeInfo, 16> kTypes = {{
    {GgufType::f32, Format::f32, {1, 4}},
    {GgufType::f16, Format::f16, {1, 2}},
    {GgufType::bf16, Format::bf16, {1, 2}},
    {GgufType::q8_0, Format::q8, {32, 34}},
    {GgufType::q4_0, Format::q4, {32, 18}},
    {GgufType::q4_1, Format::q4m, {32, 20}},
    {GgufType::q5_0, Format::q5, {32, 22}},
    {GgufType::q5_1, Format::q5m, {32, 24}},
    {GgufType::q2_k, Format::q2k, {256, 84}},
    {GgufType::q3_k, Format::q3k, {256, 110}},
    {GgufType::q4_k, Format::q4k, {256, 144}},
    {GgufType::q5_k, Format::q5k, {256, 176}},
    {GgufType::q6_k, Format::q6k, {256, 210}},
    {GgufType::iq4_nl, Format::iq4nl, {32, 18}},
    {GgufType::iq4_xs, Format::iq4xs, {256, 136}},
    {GgufType::mxfp4, Format::mxfp4, {32, 17}},
}};

const TypeInfo& info(GgufType type) {
  for (const TypeInfo& t : kTypes) {
    if (t.type == type) return t;
  }
  assert(false && "a GgufType outside the enumeration");
  return kTypes[0];
}

std::uint16_t load_u16(const std::byte* p) {
  std::uint16_t v;
  std::memcpy(&v, p, 2);
  return v;
}
std::uint32_t load_u32(const std::byte* p) {
  std::uint32_t v;
  std::memcpy(&v, p, 4);
  return v;
}
unsigned load_u8(const std::byte* p) {
  return std::to_integer<unsigned>(*p);
}

// 32 nibbles in 16 bytes: lower nibbles are columns 0-15, upper nibbles 16-31.
void read_nibbles(const std::byte* from, std::uint8_t* q) {
  for (int j = 0; j < 16; ++j) {
    q[j] = static_cast<std::uint8_t>(load_u8(from + j) & 15u);
    q[j + 16] = static_cast<std::uint8_t>(load_u8(from + j) >> 4);
  }
}

// MXFP4: the exponent of the scale, nibbles.
void read_mxfp4_block(const std::byte* block, std::int64_t group, QuantizedRow& out) {
  out.sub_scales[group] = static_cast<std::uint8_t>(load_u8(block));
  read_nibbles(block + 1, out.q.data() + group * kGroupCols);
}

// The types with one scale for 32 columns: [scale][min?][32 fifth bits?][quants].
void read_simple_block(Format format, const std::byte* block, std::int64_t group, QuantizedRow& out) {
  std::uint8_t* q = out.q.data() + group * kGroupCols;
  out.scales[group] = load_u16(block);
  block += 2;
  if (has_min(format)) {
    out.mins[group] = load_u16(block);
    block += 2;
  }
  if (format == Format::q8) {  // signed in the file, our stored integers are unsigned
    for (int j = 0; j < 32; ++j) q[j] = static_cast<std::uint8_t>(load_u8(block + j) ^ 128u);
    return;
  }
  const bool fifth_bit = format == Format::q5 || format == Format::q5m;
  const std::uint32_t high = fifth_bit ? load_u32(block) : 0;
  if (fifth_bit) block += 4;
  read_nibbles(block, q);
  for (int j = 0; j < 32; ++j) q[j] = static_cast<std::uint8_t>(q[j] | (((high >> j) & 1u) << 4));
}

// Eight 6-bit scales and eight 6-bit minima in 12 bytes: the first four of each lie in the lower six bits of bytes
// 0-3 and 4-7; of the last four, bytes 8-11 hold the lower four bits and the first eight bytes' spare bits the rest.
void read_k_scales(const std::byte* from, std::uint8_t* scales, std::uint8_t* mins) {
  for (int j = 0; j < 4; ++j) {
    const unsigned s = load_u8(from + j), m = load_u8(from + j + 4), low = load_u8(from + j + 8);
    scales[j] = static_cast<std::uint8_t>(s & 63u);
    mins[j] = static_cast<std::uint8_t>(m & 63u);
    scales[j + 4] = static_cast<std::uint8_t>((low & 15u) | ((s >> 6) << 4));
    mins[j + 4] = static_cast<std::uint8_t>((low >> 4) | ((m >> 6) << 4));
  }
}

// Q4_K: d, dmin, scales, quants; Q5_K has 32 bytes before the quants: bit g of byte c is the fifth bit of column c of
// group g. Quants: 32 bytes hold two groups, the first in the lower nibbles.
void read_q45k_block(Format format, const std::byte* block, std::int64_t s, QuantizedRow& out) {
  out.super_scales[s] = load_u16(block);
  out.super_mins[s] = load_u16(block + 2);
  read_k_scales(block + 4, out.sub_scales.data() + s * 8, out.sub_mins.data() + s * 8);
  const std::byte* high = format == Format::q5k ? block + 16 : nullptr;
  const std::byte* low = block + (high != nullptr ? 48 : 16);
  std::uint8_t* q = out.q.data() + s * kSuperblockCols;
  for (int g = 0; g < 8; ++g) {
    for (int c = 0; c < 32; ++c) {
      unsigned v = (load_u8(low + g / 2 * 32 + c) >> (g % 2 * 4)) & 15u;
      if (high != nullptr) v |= ((load_u8(high + c) >> g) & 1u) << 4;
      q[g * 32 + c] = static_cast<std::uint8_t>(v);
    }
  }
}

// Q6_K: 128 bytes of lower nibbles, 64 of upper bit pairs, 16 signed scales, d. Each half of 128 columns: group t of
// four takes its nibbles from 64 bytes (t and t+2 share 32 of them), its bit pairs at bits 2t of 32 bytes.
void read_q6k_block(const std::byte* block, std::int64_t s, QuantizedRow& out) {
  std::memcpy(out.sub_scales.data() + s * 16, block + 192, 16);
  out.super_scales[s] = load_u16(block + 208);
  for (int half = 0; half < 2; ++half) {
    const std::byte* low = block + half * 64;
    const std::byte* high = block + 128 + half * 32;
    std::uint8_t* q = out.q.data() + s * kSuperblockCols + half * 128;
    for (int t = 0; t < 4; ++t) {
      for (int c = 0; c < 32; ++c) {
        const unsigned nibble = (load_u8(low + t % 2 * 32 + c) >> (t / 2 * 4)) & 15u;
        const unsigned pair = (load_u8(high + c) >> (2 * t)) & 3u;
        q[t * 32 + c] = static_cast<std::uint8_t>(nibble | (pair << 4));
      }
    }
  }
}

// 64 bytes of bit pairs: each 32 of them hold four groups, group t at bits 2t.
void read_pairs(const std::byte* from, std::uint8_t* q) {
  for (int g = 0; g < 8; ++g) {
    for (int c = 0; c < 32; ++c) {
      q[g * 32 + c] = static_cast<std::uint8_t>((load_u8(from + g / 4 * 32 + c) >> (g % 4 * 2)) & 3u);
    }
  }
}

// Q2_K: 16 bytes with a scale in the lower and a minimum in the upper nibble, 64 of bit pairs, d, dmin.
void read_q2k_block(const std::byte* block, std::int64_t s, QuantizedRow& out) {
  for (std::int64_t j = 0; j < 16; ++j) {
    out.sub_scales[s * 16 + j] = static_cast<std::uint8_t>(load_u8(block + j) & 15u);
    out.sub_mins[s * 16 + j] = static_cast<std::uint8_t>(load_u8(block + j) >> 4);
  }
  read_pairs(block + 16, out.q.data() + s * kSuperblockCols);
  out.super_scales[s] = load_u16(block + 80);
  out.super_mins[s] = load_u16(block + 82);
}

// Q3_K: 32 bytes in which bit g of byte c is the third bit of column c of group g, 64 of bit pairs, 12 of scales, d.
// 16 scales of six bits, less 32: the lower four are the nibbles of bytes 0-7, lower ones first; the upper two of scale
// j are bits 2(j / 4) of byte 8 + j % 4.
void read_q3k_block(const std::byte* block, std::int64_t s, QuantizedRow& out) {
  std::uint8_t* q = out.q.data() + s * kSuperblockCols;
  read_pairs(block + 32, q);
  for (int c = 0; c < 256; ++c) {
    q[c] = static_cast<std::uint8_t>(q[c] | (((load_u8(block + c % 32) >> (c / 32)) & 1u) << 2));
  }
  const std::byte* scales = block + 96;
  for (int j = 0; j < 16; ++j) {
    const unsigned low = (load_u8(scales + j % 8) >> (j / 8 * 4)) & 15u;
    const unsigned high = (load_u8(scales + 8 + j % 4) >> (j / 4 * 2)) & 3u;
    out.sub_scales[s * 16 + j] = static_cast<std::uint8_t>(static_cast<int>(low | (high << 4)) - 32);
  }
  out.super_scales[s] = load_u16(block + 108);
}

// IQ4_XS: d; eight scales of six bits, less 32, whose upper two bits are a u16 and whose lower four are nibbles of four
// bytes; nibbles of the eight groups.
void read_iq4xs_block(const std::byte* block, std::int64_t s, QuantizedRow& out) {
  out.super_scales[s] = load_u16(block);
  const unsigned upper = load_u16(block + 2);
  for (int g = 0; g < 8; ++g) {
    const unsigned low = (load_u8(block + 4 + g / 2) >> (g % 2 * 4)) & 15u, high = (upper >> (2 * g)) & 3u;
    out.sub_scales[s * 8 + g] = static_cast<std::uint8_t>(static_cast<int>(low | (high << 4)) - 32);
    read_nibbles(block + 8 + g * 16, out.q.data() + s * kSuperblockCols + g * kGroupCols);
  }
}

void read_block(Format format, const std::byte* block, std::int64_t b, QuantizedRow& out) {
  switch (format) {
    case Format::q2k:
      return read_q2k_block(block, b, out);
    case Format::q3k:
      return read_q3k_block(block, b, out);
    case Format::q4k:
    case Format::q5k:
      return read_q45k_block(format, block, b, out);
    case Format::q6k:
      return read_q6k_block(block, b, out);
    case Format::iq4xs:
      return read_iq4xs_block(block, b, out);
    case Format::mxfp4:
      return read_mxfp4_block(block, b, out);
    default:
      return read_simple_block(format, block, b, out);
  }
}

}  // namespace

std::optional<GgufType> gguf_type_from_number(std::uint32_t number) {
  for (const TypeInfo& t : kTypes) {
    if (static_cast<std::uint32_t>(t.type) == number) return t.type;
  }
  return std::nullopt;
}

std::string gguf_type_name(std::uint32_t number) {
  static constexpr std::array<std::string_view, 40> kNames = {
      "F32",    "F16",   "Q4_0",  "Q4_1",   "Q4_2",  "Q4_3",  "Q5_0",    "Q5_1",   "Q8_0",    "Q8_1",
      "Q2_K",   "Q3_K",  "Q4_K",  "Q5_K",   "Q6_K",  "Q8_K",  "IQ2_XXS", "IQ2_XS", "IQ3_XXS", "IQ1_S",
      "IQ4_NL", "IQ3_S", "IQ2_S", "IQ4_XS", "I8",    "I16",   "I32",     "I64",    "F64",     "IQ1_M",
      "BF16",   "",      "",      "",       "TQ1_0", "TQ2_0", "",        "",       "",        "MXFP4"};
  if (number < kNames.size() && !kNames[number].empty()) return std::string(kNames[number]);
  return "type " + std::to_string(number);
}

std::string_view gguf_type_list() {
  return "one of F32 F16 BF16 Q8_0 Q4_0 Q4_1 Q5_0 Q5_1 Q2_K Q3_K Q4_K Q5_K Q6_K IQ4_NL IQ4_XS MXFP4";
}

GgufBlock gguf_block(GgufType type) {
  return info(type).block;
}

std::size_t gguf_row_bytes(GgufType type, std::int64_t cols) {
  const GgufBlock block = gguf_block(type);
  assert(cols % block.cols == 0);
  return static_cast<std::size_t>(cols / block.cols) * block.bytes;
}

std::int64_t StoredTensor::rows() const {
  std::int64_t rows = 1;
  for (std::size_t d = 1; d < shape.size(); ++d) rows *= shape[d];
  return rows;
}

std::optional<Format> packed_format(GgufType type) {
  return info(type).format;
}

void read_gguf_row(GgufType type, const std::byte* row, std::int64_t cols, QuantizedRow& out) {
  const TypeInfo& t = info(type);
  assert(!is_float(t.format) && cols % t.block.cols == 0 && std::ssize(out.q) == cols);
  for (std::int64_t b = 0; b < cols / t.block.cols; ++b) {
    read_block(t.format, row + static_cast<std::size_t>(b) * t.block.bytes, b, out);
  }
}

void dequantize_gguf_row(GgufType type, const std::byte* row, std::int64_t cols, float* out) {
  const Format format = info(type).format;
  if (format == Format::f32) {
    std::memcpy(out, row, static_cast<std::size_t>(cols) * 4);
  } else if (is_float(format)) {
    for (std::int64_t c = 0; c < cols; ++c) {
      const std::uint16_t bits = load_u16(row + 2 * c);
      out[c] = format == Format::f16 ? f16_to_f32(bits) : bf16_to_f32(bits);
    }
  } else {
    QuantizedRow split(format, cols);
    read_gguf_row(type, row, cols, split);
    dequantize_row(format, cols, split, out);
  }
}

}  // namespace jupiter

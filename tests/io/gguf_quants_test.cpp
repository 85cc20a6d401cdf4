// Every GGUF type against values that the gguf Python package reads (tests/fixtures/make_gguf_blocks.py).
#include "io/formats/gguf_quants.hpp"

#include <gtest/gtest.h>

#include <cstring>
#include <nlohmann/json.hpp>

#include "io/files.hpp"
#include "test_files.hpp"

namespace jupiter {
namespace {

constexpr std::int64_t kCols = 512;

std::vector<std::byte> from_hex(const std::string& text) {
  std::vector<std::byte> bytes;
  for (std::size_t i = 0; i < text.size(); i += 2) {
    bytes.push_back(static_cast<std::byte>(std::stoi(text.substr(i, 2), nullptr, 16)));
  }
  return bytes;
}

class GgufQuants : public testing::Test {
 protected:
  const nlohmann::json cases_ = nlohmann::json::parse(read_file(test::data_path("gguf_blocks.json")));
};

TEST_F(GgufQuants, DequantisesEveryTypeBitForBit) {
  ASSERT_EQ(cases_.size(), 16u);
  for (const auto& c : cases_) {
    const GgufType type = gguf_type_from_number(c["type"]).value();
    const test::ExactCopy row(from_hex(c["row"]));
    ASSERT_EQ(row.bytes().size(), gguf_row_bytes(type, kCols));
    std::vector<float> expected(kCols), got(kCols);
    std::memcpy(expected.data(), from_hex(c["values"]).data(), kCols * sizeof(float));
    dequantize_gguf_row(type, row.bytes().data(), kCols, got.data());
    for (std::int64_t i = 0; i < kCols; ++i) ASSERT_EQ(got[i], expected[i]) << c["name"] << " column " << i;
  }
}

// Splitting a row, packing it and reading the packed matrix gives the same values: nothing is lost on the way.
TEST_F(GgufQuants, PackedFormsKeepEveryValue) {
  for (const auto& c : cases_) {
    const GgufType type = gguf_type_from_number(c["type"]).value();
    const Format format = packed_format(type).value();
    if (is_float(format)) continue;
    const test::ExactCopy row(from_hex(c["row"]));
    QuantizedRow split(format, kCols);
    read_gguf_row(type, row.bytes().data(), kCols, split);
    Buffer<std::byte> panel(panel_layout(format, kCols).bytes);
    pack_row(format, kCols, split, 5, panel.data());
    std::vector<float> expected(kCols), got(kCols);
    std::memcpy(expected.data(), from_hex(c["values"]).data(), kCols * sizeof(float));
    dequantize_row(PackedMatrix{format, 16, kCols, panel.data()}, 5, got.data());
    for (std::int64_t i = 0; i < kCols; ++i) ASSERT_EQ(got[i], expected[i]) << c["name"] << " column " << i;
  }
}

TEST(GgufTypes, Names) {
  EXPECT_EQ(gguf_type_name(GgufType::q6_k), "Q6_K");
  EXPECT_EQ(gguf_type_name(10u), "Q2_K");
  EXPECT_EQ(gguf_type_name(GgufType::mxfp4), "MXFP4");
  EXPECT_EQ(gguf_type_name(16u), "IQ2_XXS");
  EXPECT_EQ(gguf_type_name(31u), "type 31");
  EXPECT_EQ(gguf_type_name(1000u), "type 1000");
  EXPECT_FALSE(gguf_type_from_number(16).has_value());
}

}  // namespace
}  // namespace jupiter

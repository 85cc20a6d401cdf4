// Safetensors files, whole and damaged.
#include "io/formats/safetensors.hpp"

#include <gtest/gtest.h>

#include <cstring>

#include "io/error.hpp"
#include "test_files.hpp"

namespace jupiter {
namespace {

using test::ExactCopy;
using Bytes = std::vector<std::byte>;

Bytes file_of(const std::string& header, std::size_t data_bytes) {
  const std::uint64_t size = header.size();
  Bytes out(8 + header.size() + data_bytes);
  std::memcpy(out.data(), &size, 8);
  std::memcpy(out.data() + 8, header.data(), header.size());
  for (std::size_t i = 0; i < data_bytes; ++i) out[8 + header.size() + i] = static_cast<std::byte>(i);
  return out;
}

const std::string kHeader =
    R"({"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},)"
    R"("b":{"dtype":"BF16","shape":[4],"data_offsets":[24,32]},"c":{"dtype":"I64","shape":[1],"data_offsets":[32,40]}})";

std::string parse_error(const Bytes& bytes) {
  const ExactCopy copy(bytes);
  try {
    parse_safetensors(copy.bytes(), "w.safetensors");
  } catch (const FormatError& e) {
    return e.what();
  }
  ADD_FAILURE() << "no FormatError";
  return {};
}
void expect_error(const std::string& header, std::size_t data_bytes, const std::string& part) {
  const std::string message = parse_error(file_of(header, data_bytes));
  EXPECT_NE(message.find(part), std::string::npos) << message;
  EXPECT_TRUE(message.starts_with("w.safetensors")) << message;
}

TEST(Safetensors, ReadsTensors) {
  const Bytes bytes = file_of(kHeader, 40);
  const Safetensors file = parse_safetensors(bytes, "w.safetensors");
  EXPECT_EQ(file.names(), (std::vector<std::string_view>{"a", "b", "c"}));
  const StoredTensor a = file.tensor("a");
  EXPECT_EQ(a.type, GgufType::f32);
  EXPECT_EQ(a.cols(), 3);
  EXPECT_EQ(a.rows(), 2);
  EXPECT_EQ(a.data, bytes.data() + 8 + kHeader.size());
  const StoredTensor b = file.tensor("b");
  EXPECT_EQ(b.type, GgufType::bf16);
  EXPECT_EQ(b.data, a.data + 24);
  EXPECT_THROW(file.tensor("c"), FormatError);  // I64: present, but not to be computed with
  EXPECT_THROW(file.tensor("d"), FormatError);
}

TEST(Safetensors, HandsOutBytesOfTheShapeThatIsAskedFor) {
  const Bytes bytes = file_of(R"({"a":{"dtype":"U8","shape":[2,3],"data_offsets":[0,6]},)"
                              R"("b":{"dtype":"I8","shape":[2],"data_offsets":[6,8]}})",
                              8);
  const Safetensors file = parse_safetensors(bytes, "w.safetensors");
  const auto a = file.bytes("a", {2, 3});
  EXPECT_EQ(a.size(), 6u);
  EXPECT_EQ(a[5], std::byte{5});
  EXPECT_THROW(file.bytes("c", {1}), FormatError);
  for (const auto& [name, shape] : {std::pair{"a", std::vector<std::int64_t>{3, 2}}, {"a", {6}}, {"b", {2}}}) {
    try {
      file.bytes(name, shape);
      ADD_FAILURE() << "no FormatError";
    } catch (const FormatError& e) {
      EXPECT_NE(std::string(e.what()).find("expected U8 ["), std::string::npos) << e.what();
    }
  }
}

TEST(Safetensors, EveryTruncationIsAFormatError) {
  const Bytes bytes = file_of(kHeader, 40);
  for (std::size_t size = 0; size < bytes.size(); ++size) {
    const ExactCopy copy(std::span<const std::byte>(bytes).first(size));
    EXPECT_THROW(parse_safetensors(copy.bytes(), "w"), FormatError) << size;
  }
}

TEST(Safetensors, EveryDamagedByteIsReadOrRefused) {
  const Bytes whole = file_of(kHeader, 40);
  for (std::size_t at = 0; at < 8 + kHeader.size(); ++at) {
    for (const unsigned change : {0x01u, 0x10u, 0x80u, 0xFFu}) {
      Bytes bytes = whole;
      bytes[at] ^= static_cast<std::byte>(change);
      const ExactCopy copy(bytes);
      try {
        const Safetensors file = parse_safetensors(copy.bytes(), "w");
        for (const std::string_view name : file.names()) file.tensor(name);
      } catch (const FormatError&) {
      }
    }
  }
}

TEST(Safetensors, RefusesBadLayouts) {
  const auto one = [](const std::string& fields) { return R"({"a":{)" + fields + "}}"; };
  expect_error(one(R"("dtype":"F32","shape":[2],"data_offsets":[0,16])"), 8, "data_offsets");
  expect_error(one(R"("dtype":"F32","shape":[2],"data_offsets":[8,0])"), 8, "data_offsets");
  expect_error(one(R"("dtype":"F32","shape":[2],"data_offsets":[-8,0])"), 8, "data_offsets");
  expect_error(one(R"("dtype":"F32","shape":[2],"data_offsets":[0,18446744073709551615])"), 8, "data_offsets");
  expect_error(one(R"("dtype":"F32","shape":[2],"data_offsets":[0])"), 8, "data_offsets");
  expect_error(one(R"("dtype":"F32","shape":[3],"data_offsets":[0,8])"), 8, "12 bytes");
  expect_error(one(R"("dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,8])"), 8, "shape");
  expect_error(one(R"("dtype":"F32","shape":[0,4,4611686018427387904,1],"data_offsets":[0,0])"), 8, "shape");
  expect_error(one(R"("dtype":"F32","shape":[-2],"data_offsets":[0,8])"), 8, "shape");
  expect_error(one(R"("dtype":"F32","shape":2,"data_offsets":[0,8])"), 8, "shape");
  expect_error(one(R"("dtype":3,"shape":[2],"data_offsets":[0,8])"), 8, "dtype");
  expect_error(one(R"("shape":[2],"data_offsets":[0,8])"), 8, "dtype");
  expect_error(one(R"("dtype":"F32","shape":[2],"data_offsets":[0,8])"), 12, "left over");
  expect_error(
      R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[4],"data_offsets":[2,6]}})", 6,
      "overlap");
  expect_error(
      R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[4],"data_offsets":[5,9]}})", 9,
      "hole");
}

TEST(Safetensors, RefusesBadHeaders) {
  expect_error("", 0, "JSON");
  expect_error("[]", 0, "a JSON object");
  expect_error("{\"a\":1}", 0, "a JSON object");
  expect_error("{\"a\"", 0, "not valid JSON");
  expect_error("{\"\xff\":{}}", 0, "not valid JSON");
  expect_error(std::string(100000, '['), 0, "nested");
  Bytes long_header(16);
  const std::uint64_t size = ~0ull;
  std::memcpy(long_header.data(), &size, 8);
  EXPECT_NE(parse_error(long_header).find("header length"), std::string::npos);
}

}  // namespace
}  // namespace jupiter

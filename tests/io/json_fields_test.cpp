// Limits of JSON texts: depth, size, and the length of what messages show.
#include "io/json_fields.hpp"

#include <gtest/gtest.h>

#include "io/error.hpp"

namespace jupiter {
namespace {

std::string nested(std::int64_t levels, bool closed) {
  const auto n = static_cast<std::size_t>(levels);
  return std::string(n, '[') + (closed ? std::string(n, ']') : "");
}

std::string problem_of(const std::string& text, std::uint64_t max_bytes = kMaxJsonBytes) {
  try {
    parse_json(text, "FILE", max_bytes);
    return "";
  } catch (const FormatError& e) {
    return e.what();
  }
}

TEST(Json, DepthIsLimited) {
  EXPECT_EQ(problem_of(nested(kMaxJsonDepth, true)), "");
  for (const bool closed : {true, false}) {
    for (const std::int64_t levels : {kMaxJsonDepth + 1, std::int64_t{200'000}, std::int64_t{5'000'000}}) {
      EXPECT_NE(problem_of(nested(levels, closed)).find("FILE: JSON: expected values nested at most 64"),
                std::string::npos);
    }
  }
  std::string objects;
  for (int i = 0; i < 200'000; ++i) objects += "{\"a\":";
  EXPECT_NE(problem_of(objects + "1" + std::string(200'000, '}')).find("nested"), std::string::npos);
}

TEST(Json, BracketsInStringsAreNoDepth) {
  EXPECT_EQ(problem_of("\"" + nested(1000, false) + "\""), "");
  EXPECT_EQ(problem_of("[\"\\\"" + nested(1000, false) + "\\\\\"]"), "");
  EXPECT_NE(problem_of("[\"\\\\\"," + nested(1000, true) + "]").find("nested"), std::string::npos);
  EXPECT_EQ(problem_of("[" + std::string(500, ' ') + "[],[],[[]]]"), "");
}

TEST(Json, SizeIsLimited) {
  EXPECT_EQ(problem_of("[1,2]", 5), "");
  EXPECT_NE(problem_of("[1,2]", 4).find("at most 4 bytes, found 5"), std::string::npos);
}

TEST(Json, MessagesAreShort) {
  const std::string large(1'000'000, 'x');
  EXPECT_LT(problem_of("{\"" + large).size(), 400u);
  const JsonObject o = parse_json_object("{\"a\":\"" + large + "\",\"n\":7}", "FILE");
  EXPECT_LT(json_text(o.value()).size(), 90u);
  for (const auto& read : {std::function<void()>([&] { o.find_int("a"); }), std::function<void()>([&] { o.ints("a"); }),
                           std::function<void()>([&] { o.fail("a", "little", large); })}) {
    try {
      read();
      FAIL();
    } catch (const FormatError& e) {
      EXPECT_LT(std::string(e.what()).size(), 300u);
    }
  }
  EXPECT_EQ(o.find_int("n", 0, 7), 7);
  EXPECT_THROW(o.find_int("n", 0, 6), FormatError);
  EXPECT_THROW(o.find_int("n", 8, 9), FormatError);
  EXPECT_FALSE(o.find_int("m", 8, 9).has_value());
}

}  // namespace
}  // namespace jupiter

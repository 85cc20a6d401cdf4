// Outlines and points as models write them: their points do not depend on how the text comes in pieces.
#include "fuzz_target.hpp"
#include "parallel/outline/outline_text.hpp"

namespace jupiter::fuzz {
namespace {

std::string shown(std::string_view text, std::size_t piece) {
  PointText point;
  std::string out;
  for (std::size_t at = 0; at < text.size() && !point.ended(); at += piece) {
    out += point.push(std::string(text.substr(at, piece)));
  }
  return out;
}

const Target target("outline", [](Input input) {
  Pieces pieces(input);
  const std::size_t length = 1 + pieces.below(9);
  const std::string text(as_text(pieces.rest()));
  const auto all = parse_outline(text, 10);
  expect(all.size() <= 10, "too many points");
  const auto first = parse_outline(text.substr(0, text.find('\n')), 10);
  for (std::size_t i = 0; i < first.size(); ++i) expect(i < all.size() && all[i] == first[i], "first points change");
  const std::string one = shown(text, 1), more = shown(text, length);
  expect(one.starts_with(more) || more.starts_with(one), "pieces of a text show another text");
});

}  // namespace
}  // namespace jupiter::fuzz

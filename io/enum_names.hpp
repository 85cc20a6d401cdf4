// Names of an enumeration's values, in the order of their numbers from 0 on.
#pragma once

#include <array>
#include <cstddef>
#include <optional>
#include <string_view>
#include <type_traits>

namespace jupiter {

// The place of a value in such a list, or in an array with an element for each value.
template <typename Enum>
constexpr std::size_t index_of(Enum value) {
  static_assert(std::is_enum_v<Enum>);
  return static_cast<std::size_t>(value);
}

template <typename Enum, std::size_t N>
constexpr std::optional<Enum> enum_from_name(const std::array<std::string_view, N>& names, std::string_view text) {
  for (std::size_t i = 0; i < N; ++i) {
    if (names[i] == text) return static_cast<Enum>(i);
  }
  return std::nullopt;
}

}  // namespace jupiter

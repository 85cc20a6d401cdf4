// Which boards hold how many layers: an exact search, whose time grows with the numbers of boards and layers but not
// with the number of orders of boards.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "io/enum_names.hpp"

namespace jupiter {

// Boards in the order of the pipeline, and how many layers each holds.
struct Split {
  std::vector<int> boards;
  std::vector<std::int64_t> layers;
};

// Where a board stands in a pipeline. Its cost depends on that and on its number of layers alone, because a hop into a
// board costs the same from everywhere (Profile::hop_into()). So the order of the boards between the ends does not
// matter.
enum class Role : std::uint8_t { between, last, first, alone };
inline constexpr std::size_t kRoles = 4;
constexpr Role role_of(bool first, bool last) {
  return static_cast<Role>((first ? 2 : 0) + (last ? 1 : 0));
}

// What a board adds to a split's cost with n layers: fixed + n * layer, where 1 <= n <= most_layers.
struct BoardCost {
  struct Line {
    double fixed = 0;
    double layer = 0;
    double at(std::int64_t layers) const { return fixed + static_cast<double>(layers) * layer; }
  };
  struct Standing {
    Line sum;                      // u
    Line max;                      // v; it grows with the number of layers
    std::int64_t most_layers = 0;  // that memory holds; 0: the board cannot stand here
  };
  std::array<Standing, kRoles> roles;
  bool needed = false;  // the board must hold layers
  const Standing& as(Role role) const { return roles[index_of(role)]; }
};

struct FoundSplit {
  Split split;  // boards are indices of the given costs; those between the ends are in ascending order
  double cost = 0;
  std::size_t solved = 0;  // number of dynamic programmes that the search took
};

// The split that minimises sum_r u_r + weight * max_r v_r, with weight >= 0. None where nothing fits.
std::optional<FoundSplit> search_split(std::span<const BoardCost> boards, std::int64_t n_layers, double weight);

}  // namespace jupiter

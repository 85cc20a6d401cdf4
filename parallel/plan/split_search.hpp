// Which boards hold how many layers: exact search, in time that grows with boards and layers, not with orders of
// boards.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace jupiter {

// Boards in the order of the pipeline, and how many layers each holds.
struct Split {
  std::vector<int> boards;
  std::vector<std::int64_t> layers;
};

// Where a board stands in a pipeline. What it costs depends on that and on its layers alone: a hop into a board is the
// same from everywhere (Profile::hop_into), so the order of those between the ends does not matter.
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
    Line max;                      // v; grows with layers
    std::int64_t most_layers = 0;  // that memory holds; 0: cannot stand here
  };
  std::array<Standing, kRoles> roles;
  bool needed = false;  // must hold layers
  const Standing& as(Role role) const { return roles[static_cast<std::size_t>(role)]; }
};

struct FoundSplit {
  Split split;  // boards: indices of the costs given; those between the ends in their order
  double cost = 0;
  std::size_t solved = 0;  // dynamic programmes that it took
};

// The split that minimises sum u + weight * max v; none where nothing fits. weight >= 0.
std::optional<FoundSplit> search_split(std::span<const BoardCost> boards, std::int64_t n_layers, double weight);

}  // namespace jupiter

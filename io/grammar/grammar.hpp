// A grammar as a network over the bytes of UTF-8: what may stand in a text, byte by byte. Rules may call each other and
// themselves, so a place in a text is a node of the network and a stack of nodes to return to (matcher.hpp).
#pragma once

#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "io/grammar/gbnf.hpp"

namespace jupiter {

constexpr std::size_t kMostGrammarNodes = 300'000;

class Grammar {
 public:
  enum class Kind : std::uint8_t {
    end,    // of a rule
    bytes,  // one byte, by the node's edges
    fork,   // any of the node's targets, for nothing
    call,   // the rule that begins at `first`, then `next`
  };
  struct Edge {
    std::uint8_t low, high;  // both belong to it
    std::int32_t next;
  };
  struct Node {
    Kind kind = Kind::end;
    std::int32_t first = 0, count = 0;  // bytes: its edges; fork: its targets; call: `first` alone
    std::int32_t next = 0;              // call
  };
  static constexpr std::int32_t kEnd = 0;  // the only node of Kind::end

  // From GBNF. UsageError that names `source`, line and column where the text is wrong, where a rule calls itself
  // before it takes a byte (left recursion) or can never end, or where the network would be too large.
  static Grammar parse(std::string_view text, std::string_view source = "grammar");

  std::int32_t start() const { return start_; }
  const Node& node(std::int32_t i) const { return nodes_[i]; }
  const Edge* edges(const Node& n) const { return edges_.data() + n.first; }
  const std::int32_t* targets(const Node& n) const { return targets_.data() + n.first; }
  std::size_t nodes() const { return nodes_.size(); }

 private:
  friend class GrammarCompiler;
  std::vector<Node> nodes_;
  std::vector<Edge> edges_;
  std::vector<std::int32_t> targets_;
  std::int32_t start_ = kEnd;
};

}  // namespace jupiter

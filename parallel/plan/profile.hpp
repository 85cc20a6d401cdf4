// What a cluster can do: times of layers, embedding and output head on every board, its memory, and the links. `jupiter
// profile` measures it and saves it as JSON; the planner and the simulator read it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "io/model/model_config.hpp"

namespace jupiter {

// Seconds by number of rows: measured points by ascending rows, with straight lines between and beyond them.
struct CostCurve {
  std::vector<std::int64_t> rows;
  std::vector<double> seconds;
  double at(std::int64_t n) const;
  bool empty() const { return rows.empty(); }
};

// Time of one layer for n rows after c tokens of context:
//   t(n, c) = base(n) + per_context_s c + per_row_context_s n c
// base(n) includes the attention within the n rows, and whatever else depends on n alone.
struct LayerCost {
  CostCurve base;
  double per_context_s = 0;
  double per_row_context_s = 0;
  double fit_error = 0;  // relative error at the point that the fit did not see
  double at(std::int64_t rows, std::int64_t context) const;
};

// Seconds for which a message keeps a board from computing: copies, MPI, and the system's network code.
struct TransferCost {
  double message_s = 0;
  double byte_s = 0;
  double at(double bytes) const { return message_s + bytes * byte_s; }
};

struct BoardProfile {
  std::string host;
  int slot = 0;  // which of this host's ranks, from 0 on
  int threads = 0;
  std::string kernels;
  std::uint64_t memory_bytes = 0;  // that it may use: what was free, or a given budget
  LayerCost layer;
  CostCurve half_layer;   // base of a slice of half the rows (tensor groups), without gathers; empty: not measured
  CostCurve embedding;    // empty where the board has no such shard
  CostCurve output_head;  // up to 16 rows; more rows pass in pieces of 16
  double score_s = 0;     // of the likelihood of one token from a row of logits, as evaluation computes it
  TransferCost send;
  TransferCost receive;
  double wake_s = 0;  // by how much computing takes longer after a wait, since cores slept and others used the caches
  double spread = 0;  // (slowest - fastest) / median of one measurement over the whole profile; it tells load or heat

  // Seconds of a slice of `share` of a layer's rows. Between a half and the whole the time is measured, below it goes
  // on in a straight line: what every board of a group does (norms, quantisation), and what it has its share of.
  double slice_s(double share, std::int64_t rows, std::int64_t context) const;
};

struct LinkProfile {
  int from = 0;  // index of a board
  int to = 0;
  double latency_s = 0;  // mean from the sender's call until the receiver has the message, over moments of any kind
  double bytes_per_s = 0;
  double seconds(double bytes) const { return latency_s + bytes / bytes_per_s; }
};

// A gather among the first `boards` boards of a profile, all of which compute a little before it and wait for it.
struct GatherCost {
  int boards = 0;
  double latency_s = 0;  // of a small one: by how much computing and gathering take longer than computing
  double byte_s = 0;     // more for each byte that a board receives
  double at(double bytes) const { return latency_s + bytes * byte_s; }
};

inline constexpr int kProfileFormat = 4;  // since 4 there are half_layer and gathers

struct Profile {
  std::string version;  // of the program that measured it
  std::string model_hash;
  std::vector<BoardProfile> boards;
  std::vector<LinkProfile> links;   // both directions of every pair
  std::vector<GatherCost> gathers;  // of 2, 3, ... boards

  // Among so many boards, by the nearest number that was measured. None where nothing was.
  std::optional<GatherCost> gather_of(int boards) const;
  // A hop into a board: the medians of latency and rate of the links to it. Links of a switched network differ by the
  // board at their end, so this is all that a plan needs to know, whatever the order of boards.
  LinkProfile hop_into(int board) const;
};

std::string to_json(const Profile& profile);
// FormatError names the field; `file` is for messages.
Profile parse_profile(const std::string& text, const std::string& file);

// Removes a host's boards and their links. Returns the number of these boards.
std::size_t leave_out(Profile& profile, const std::string& host);

}  // namespace jupiter

// What a cluster can do: times of layers, embedding and output head on every board, memory, links. Measured by `jupiter
// profile`, read by the planner and the simulator; a value that is saved as JSON.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "io/model/model_config.hpp"

namespace jupiter {

// Seconds by number of rows: measured points in ascending order of rows, straight lines between and beyond them.
struct CostCurve {
  std::vector<std::int64_t> rows;
  std::vector<double> seconds;
  double at(std::int64_t n) const;
  bool empty() const { return rows.empty(); }
};

// Time of one layer for n rows after c tokens of context: t(n, c) = base(n) + per_context c + per_row_context n c.
// base(n) holds what attention costs inside the n rows, and whatever grows with n alone.
struct LayerCost {
  CostCurve base;
  double per_context_s = 0;
  double per_row_context_s = 0;
  double fit_error = 0;  // largest relative error on samples that the fit did not see
  double at(std::int64_t rows, std::int64_t context) const;
};

// Seconds for which a board's computing stands still because of a message: copying it, MPI, the system's network code.
struct TransferCost {
  double message_s = 0;
  double byte_s = 0;
  double at(double bytes) const { return message_s + bytes * byte_s; }
};

struct BoardProfile {
  std::string host;
  int slot = 0;  // which of this host's ranks
  int threads = 0;
  std::string kernels;
  std::uint64_t memory_bytes = 0;  // that it may use: what was free, or the given budget
  LayerCost layer;
  CostCurve embedding;    // empty: the board has no such shard
  CostCurve output_head;  // up to 16 rows; more rows pass in pieces of 16
  double score_s = 0;     // likelihood of a token from one row of logits, as evaluation wants it of every row
  TransferCost send;
  TransferCost receive;
  double wake_s = 0;  // what computing takes longer after a wait: sleeping cores, caches that others used
  double spread = 0;  // (slowest - fastest) / median of the same measurement over the whole profile: load or heat
};

struct LinkProfile {
  int from = 0;  // board
  int to = 0;
  double latency_s = 0;  // mean over moments of any kind: from the sender's call until the receiver has the message
  double bytes_per_s = 0;
  double seconds(double bytes) const { return latency_s + bytes / bytes_per_s; }
};

inline constexpr int kProfileFormat = 3;  // 3: score_s

struct Profile {
  std::string version;  // of the program that measured
  std::string model_hash;
  std::vector<BoardProfile> boards;
  std::vector<LinkProfile> links;  // both directions of every pair

  // A hop into a board: the median of its links (latency and rate on their own). A switched network's links differ by
  // the board at their end, so this is what a plan needs to know, whatever the order of boards.
  LinkProfile hop_into(int board) const;
};

std::string to_json(const Profile& profile);
// FormatError names the field. `file` is for messages.
Profile parse_profile(const std::string& text, const std::string& file);

// Takes a host's boards and their links out; how many boards that were.
std::size_t leave_out(Profile& profile, const std::string& host);

}  // namespace jupiter

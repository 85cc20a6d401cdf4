// A small model, and clusters of made-up boards, for tests of the planner.
#pragma once

#include <string>
#include <vector>

#include "io/hash.hpp"
#include "parallel/plan/planner.hpp"

namespace jupiter {

inline Manifest small_manifest(std::int64_t n_layers) {
  Manifest m;
  m.config.dim = 64;
  m.config.hidden_dim = 128;
  m.config.n_layers = n_layers;
  m.config.n_heads = 4;
  m.config.n_kv_heads = 2;
  m.config.head_dim = 16;
  m.config.vocab_size = 1000;
  m.config.max_seq_len = 2048;
  m.config.tied_embeddings = true;
  const auto file = [](const std::string& name, std::uint64_t bytes) {
    FileInfo f;
    f.name = name;
    f.datasets.push_back({"x", DatasetInfo::Kind::bytes, Format::f32, 1, static_cast<std::int64_t>(bytes), bytes, 0});
    return f;
  };
  m.files = {file(embed_file_name(), 3 << 20), file(output_file_name(), 1 << 10)};
  for (std::int64_t i = 0; i < n_layers; ++i) m.files.push_back(file(layer_file_name(i), 2 << 20));
  m.hash = 42;
  return m;
}

// A board that is `slow` times as slow as the first.
inline BoardProfile board(const std::string& host, double slow, std::uint64_t memory_mib = 1000) {
  BoardProfile b;
  b.host = host;
  b.threads = 1;
  b.memory_bytes = memory_mib << 20;
  b.layer.base = {{1, 8, 64, 512}, {1e-3 * slow, 1.5e-3 * slow, 6e-3 * slow, 50e-3 * slow}};
  b.layer.per_context_s = 1e-7 * slow;
  b.layer.per_row_context_s = 2e-8 * slow;
  b.embedding = {{1, 512}, {1e-5 * slow, 1e-3 * slow}};
  b.output_head = {{1, 16}, {2e-3 * slow, 6e-3 * slow}};
  return b;
}

inline Profile cluster(const std::vector<double>& slow, double latency_s = 1e-3, double rate = 1e7) {
  Profile p;
  p.model_hash = hex(42);
  for (std::size_t i = 0; i < slow.size(); ++i) p.boards.push_back(board("b" + std::to_string(i), slow[i]));
  for (int a = 0; a < static_cast<int>(slow.size()); ++a) {
    for (int b = 0; b < static_cast<int>(slow.size()); ++b) {
      if (a != b) p.links.push_back({a, b, latency_s, rate});
    }
  }
  return p;
}

}  // namespace jupiter

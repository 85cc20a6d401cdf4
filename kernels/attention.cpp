// Tiles of query rows walk over the blocks of 32 keys that they see, in ascending order; a block is widened once a
// tile.
#include "kernels/attention.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

namespace jupiter {

namespace {

using PerThread = AttentionScratch::PerThread;

// Rows [first, first + positions) of a run, one KV head.
struct Tile {
  const RowRun* run;
  std::int64_t first;      // row of the run
  std::int64_t batch_row;  // the same row of the batch
  std::int64_t positions;
  std::int64_t kv_head;  // of this board, from 0 on
  IndexRange heads;      // the query heads that read it, from this board's first one on

  std::int64_t position(std::int64_t i) const { return run->position(first + i); }
  const TreeRow* tree_row(std::int64_t i) const { return run->tree.empty() ? nullptr : &run->tree[first + i]; }
  // Blocks that some row sees: [first, last].
  std::pair<std::int64_t, std::int64_t> blocks(std::int64_t window) const {
    std::int64_t lowest = position(0), highest = lowest;
    for (std::int64_t i = 1; i < positions; ++i) {
      lowest = std::min(lowest, position(i));
      highest = std::max(highest, position(i));
    }
    const std::int64_t oldest = window > 0 ? std::max<std::int64_t>(0, lowest - window + 1) : 0;
    return {oldest / kKvBlock, highest / kKvBlock};
  }
};

struct Lanes {
  std::int32_t first, end;
};

Lanes visible_lanes(std::int64_t position, std::int64_t window, std::int64_t block_start) {
  const std::int64_t oldest = window > 0 ? std::max<std::int64_t>(0, position - window + 1) : 0;
  const auto first = static_cast<std::int32_t>(std::clamp<std::int64_t>(oldest - block_start, 0, kKvBlock));
  const auto end = static_cast<std::int32_t>(std::clamp<std::int64_t>(position + 1 - block_start, 0, kKvBlock));
  return {first, std::max(first, end)};
}

// Whether a row's path leaves the home slots in this block.
bool has_detour(const TreeRow* row, std::int64_t block) {
  return row != nullptr && std::any_of(row->detours.begin(), row->detours.end(),
                                       [&](const Detour& d) { return d.position / kKvBlock == block; });
}

std::vector<Tile> make_tiles(const std::vector<RowRun>& runs, const AttentionShape& shape) {
  std::vector<Tile> tiles;
  std::int64_t batch_row = 0;
  for (const RowRun& run : runs) {
    for (std::int64_t at = 0; at < run.rows; at += AttentionScratch::kTilePositions) {
      const std::int64_t n = std::min(AttentionScratch::kTilePositions, run.rows - at);
      for (std::int64_t h = 0; h < shape.kv_heads.size(); ++h) {
        const IndexRange heads = shape.heads_of(h);
        if (heads.size() > 0) tiles.push_back({&run, at, batch_row + at, n, h, heads});
      }
    }
    batch_row += run.rows;
  }
  return tiles;
}

// Copies the tile's queries, scaled, to [position][head of the group][head_dim].
void gather_queries(const Tile& tile, const AttentionShape& shape, MatrixView<const float> q, PerThread& s) {
  const std::int64_t width = tile.heads.size() * shape.head_dim;
  for (std::int64_t i = 0; i < tile.positions; ++i) {
    const float* from = q.row(tile.batch_row + i) + tile.heads.first * shape.head_dim;
    float* to = s.queries.data() + i * width;
    for (std::int64_t d = 0; d < width; ++d) to[d] = from[d] * shape.scale;
  }
}

// Rows whose path leaves the home slots see nothing of the shared block; they get their own.
bool set_visible_lanes(const Tile& tile, const AttentionShape& shape, std::int64_t block, PerThread& s) {
  const std::int64_t group = tile.heads.size();
  bool detours = false;
  for (std::int64_t i = 0; i < tile.positions; ++i) {
    const bool apart = has_detour(tile.tree_row(i), block);
    const Lanes lanes = visible_lanes(tile.position(i), shape.window, block * kKvBlock);
    std::fill_n(s.first.data() + i * group, group, lanes.first);
    std::fill_n(s.end.data() + i * group, group, apart ? lanes.first : lanes.end);
    detours |= apart;
  }
  return detours;
}

// Where a tile stands in its walk over the blocks.
struct Walk {
  const Runtime& rt;
  const KvCache& cache;
  std::int64_t layer;
  const Tile& tile;
  const AttentionShape& shape;
  PerThread& s;
};

// `rows` query rows from `first_row` on meet one block.
void attend_rows(const Walk& w, const float* keys, const float* values, std::int64_t first_row, std::int64_t rows) {
  const std::int64_t dim = w.shape.head_dim;
  w.rt.kernels.attend_block({.keys = keys,
                             .values = values,
                             .head_dim = dim,
                             .rows = rows,
                             .queries = w.s.queries.data() + first_row * dim,
                             .first_visible = w.s.first.data() + first_row,
                             .end_visible = w.s.end.data() + first_row,
                             .max = w.s.max.data() + first_row,
                             .sums = w.s.sums.data() + first_row * kSumLanes,
                             .outputs = w.s.outputs.data() + first_row * dim,
                             .softcap = w.shape.softcap});
}

// Rows of a tree that see a block of their own: the shared one with the lanes of their path replaced.
void attend_detours(const Walk& w, std::int64_t block, const float* keys, const float* values) {
  const std::int64_t group = w.tile.heads.size();
  const auto bytes = static_cast<std::size_t>(w.shape.head_dim * kKvBlock) * sizeof(float);
  for (std::int64_t i = 0; i < w.tile.positions; ++i) {
    const TreeRow* row = w.tile.tree_row(i);
    if (!has_detour(row, block)) continue;
    std::memcpy(w.s.own_keys.data(), keys, bytes);
    std::memcpy(w.s.own_values.data(), values, bytes);
    for (const Detour& d : row->detours) {
      if (d.position / kKvBlock != block) continue;
      w.cache.patch_keys(w.layer, d.slot, w.tile.kv_head, d.position % kKvBlock, w.s.own_keys.data());
      w.cache.patch_values(w.layer, d.slot, w.tile.kv_head, d.position % kKvBlock, w.s.own_values.data());
    }
    const Lanes lanes = visible_lanes(row->position, w.shape.window, block * kKvBlock);
    std::fill_n(w.s.first.data() + i * group, group, lanes.first);
    std::fill_n(w.s.end.data() + i * group, group, lanes.end);
    attend_rows(w, w.s.own_keys.data(), w.s.own_values.data(), i * group, group);
  }
}

// Nothing is seen yet but the sink, whose own weight is e^(sink - max) = 1.
void start_softmax(const Tile& tile, const AttentionShape& shape, PerThread& s) {
  const std::int64_t group = tile.heads.size(), rows = tile.positions * group;
  std::fill_n(s.max.data(), rows, -std::numeric_limits<float>::infinity());
  std::fill_n(s.sums.data(), rows * kSumLanes, 0.0f);
  std::fill_n(s.outputs.data(), rows * shape.head_dim, 0.0f);
  for (std::int64_t i = 0; shape.sinks != nullptr && i < rows; ++i) {
    s.max[i] = shape.sinks[tile.heads.first + i % group];
    s.sums[i * kSumLanes] = 1.0f;
  }
}

void attend_tile(const Runtime& rt, const KvCache& cache, std::int64_t layer, const Tile& tile,
                 const AttentionShape& shape, MatrixView<const float> q, MatrixView<float> out, PerThread& s) {
  const std::int64_t rows = tile.positions * tile.heads.size();
  gather_queries(tile, shape, q, s);
  start_softmax(tile, shape, s);

  const Walk walk{rt, cache, layer, tile, shape, s};
  const auto [first_block, last_block] = tile.blocks(shape.window);
  for (std::int64_t b = first_block; b <= last_block; ++b) {
    const BlockId block = tile.run->sequence->blocks[b];
    if (b < last_block) cache.prefetch(layer, tile.run->sequence->blocks[b + 1], tile.kv_head);
    const bool detours = set_visible_lanes(tile, shape, b, s);
    const float* keys = cache.keys(rt.kernels, layer, block, tile.kv_head, s.keys.data());
    const float* values = cache.values(rt.kernels, layer, block, tile.kv_head, s.values.data());
    attend_rows(walk, keys, values, 0, rows);
    if (detours) attend_detours(walk, b, keys, values);
  }
  rt.kernels.attend_finish(rows, shape.head_dim, s.sums.data(), s.outputs.data());
  const std::int64_t width = tile.heads.size() * shape.head_dim;
  for (std::int64_t i = 0; i < tile.positions; ++i) {
    std::memcpy(out.row(tile.batch_row + i) + tile.heads.first * shape.head_dim, s.outputs.data() + i * width,
                static_cast<std::size_t>(width) * sizeof(float));
  }
}

}  // namespace

AttentionShape attention_shape(const ModelConfig& c, const TensorSlice& slice, const LayerKind& kind,
                               const float* sinks) {
  const float inverse_sqrt = 1.0f / std::sqrt(static_cast<float>(c.head_dim));  // both round correctly everywhere
  return {.heads = slice.heads,
          .kv_heads = slice.kv_heads,
          .group = c.n_heads / c.n_kv_heads,
          .head_dim = c.head_dim,
          .window = kind.window,
          .scale = c.attention_scale > 0 ? c.attention_scale : inverse_sqrt,
          .softcap = c.attention_softcap,
          .sinks = sinks};
}

AttentionScratch::AttentionScratch(const AttentionShape& shape, int threads) {
  const auto rows = static_cast<std::size_t>(kTilePositions * shape.group);
  const auto block = static_cast<std::size_t>(shape.head_dim * kKvBlock);
  for (int t = 0; t < threads; ++t) {
    threads_.push_back({Buffer<float>(block), Buffer<float>(block), Buffer<float>(block), Buffer<float>(block),
                        Buffer<float>(rows * shape.head_dim), Buffer<float>(rows * shape.head_dim), Buffer<float>(rows),
                        Buffer<float>(rows * kSumLanes), Buffer<std::int32_t>(rows), Buffer<std::int32_t>(rows)});
  }
}

std::size_t AttentionScratch::bytes() const {
  std::size_t sum = 0;
  for (const PerThread& t : threads_) {
    sum += t.keys.bytes() + t.values.bytes() + t.own_keys.bytes() + t.own_values.bytes() + t.queries.bytes() +
           t.outputs.bytes() + t.max.bytes() + t.sums.bytes() + t.first.bytes() + t.end.bytes();
  }
  return sum;
}

void attend(const Runtime& rt, const KvCache& cache, std::int64_t layer, const std::vector<RowRun>& runs,
            const AttentionShape& shape, MatrixView<const float> q, MatrixView<float> out, AttentionScratch& scratch) {
  const std::vector<Tile> tiles = make_tiles(runs, shape);
  const auto work = [&](int thread, int stride) {
    // Dealt out in turn: later tiles see more keys, so slices would be unequal.
    for (std::size_t i = static_cast<std::size_t>(thread); i < tiles.size(); i += static_cast<std::size_t>(stride)) {
      attend_tile(rt, cache, layer, tiles[i], shape, q, out, scratch.of(thread));
      rt.pool.poll(thread);
    }
  };
  if (tiles.size() <= 1 || rt.pool.size() == 1) return work(0, 1);
  rt.pool.run([&](int thread) { work(thread, rt.pool.size()); });
}

}  // namespace jupiter

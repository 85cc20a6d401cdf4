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
  std::int64_t batch_row;  // of the tile's first row
  std::int64_t first_position;
  std::int64_t positions;
  std::int64_t kv_head;
};

std::vector<Tile> make_tiles(const std::vector<RowRun>& runs, const AttentionShape& shape) {
  std::vector<Tile> tiles;
  std::int64_t batch_row = 0;
  for (const RowRun& run : runs) {
    for (std::int64_t at = 0; at < run.rows; at += AttentionScratch::kTilePositions) {
      const std::int64_t n = std::min(AttentionScratch::kTilePositions, run.rows - at);
      for (std::int64_t h = 0; h < shape.n_kv_heads; ++h) {
        tiles.push_back({&run, batch_row + at, run.first_position + at, n, h});
      }
    }
    batch_row += run.rows;
  }
  return tiles;
}

float inverse_sqrt(std::int64_t head_dim) {
  return 1.0f / std::sqrt(static_cast<float>(head_dim));  // both operations round correctly on every machine
}

// Copies the tile's queries, scaled, to [position][head of the group][head_dim].
void gather_queries(const Tile& tile, const AttentionShape& shape, MatrixView<const float> q, PerThread& s) {
  const float scale = inverse_sqrt(shape.head_dim);
  const std::int64_t width = shape.group() * shape.head_dim;
  for (std::int64_t i = 0; i < tile.positions; ++i) {
    const float* from = q.row(tile.batch_row + i) + tile.kv_head * width;
    float* to = s.queries.data() + i * width;
    for (std::int64_t d = 0; d < width; ++d) to[d] = from[d] * scale;
  }
}

void set_visible_lanes(const Tile& tile, const AttentionShape& shape, std::int64_t block_start, PerThread& s) {
  const std::int64_t group = shape.group();
  for (std::int64_t i = 0; i < tile.positions; ++i) {
    const std::int64_t position = tile.first_position + i;
    const std::int64_t oldest = shape.window > 0 ? std::max<std::int64_t>(0, position - shape.window + 1) : 0;
    const auto first = static_cast<std::int32_t>(std::clamp<std::int64_t>(oldest - block_start, 0, kKvBlock));
    const auto end = static_cast<std::int32_t>(std::clamp<std::int64_t>(position + 1 - block_start, 0, kKvBlock));
    std::fill_n(s.first.data() + i * group, group, first);
    std::fill_n(s.end.data() + i * group, group, std::max(first, end));
  }
}

void attend_tile(const Runtime& rt, const KvCache& cache, std::int64_t layer, const Tile& tile,
                 const AttentionShape& shape, MatrixView<const float> q, MatrixView<float> out, PerThread& s) {
  const std::int64_t rows = tile.positions * shape.group();
  gather_queries(tile, shape, q, s);
  std::fill_n(s.max.data(), rows, -std::numeric_limits<float>::infinity());
  std::fill_n(s.sums.data(), rows * kSumLanes, 0.0f);
  std::fill_n(s.outputs.data(), rows * shape.head_dim, 0.0f);

  const std::int64_t last = tile.first_position + tile.positions - 1;
  const std::int64_t oldest = shape.window > 0 ? std::max<std::int64_t>(0, tile.first_position - shape.window + 1) : 0;
  for (std::int64_t b = oldest / kKvBlock; b <= last / kKvBlock; ++b) {
    const BlockId block = tile.run->sequence->blocks[static_cast<std::size_t>(b)];
    if (b < last / kKvBlock) {
      cache.prefetch(layer, tile.run->sequence->blocks[static_cast<std::size_t>(b + 1)], tile.kv_head);
    }
    set_visible_lanes(tile, shape, b * kKvBlock, s);
    rt.kernels.attend_block({.keys = cache.keys(rt.kernels, layer, block, tile.kv_head, s.keys.data()),
                             .values = cache.values(rt.kernels, layer, block, tile.kv_head, s.values.data()),
                             .head_dim = shape.head_dim,
                             .rows = rows,
                             .queries = s.queries.data(),
                             .first_visible = s.first.data(),
                             .end_visible = s.end.data(),
                             .max = s.max.data(),
                             .sums = s.sums.data(),
                             .outputs = s.outputs.data()});
  }
  rt.kernels.attend_finish(rows, shape.head_dim, s.sums.data(), s.outputs.data());
  const std::int64_t width = shape.group() * shape.head_dim;
  for (std::int64_t i = 0; i < tile.positions; ++i) {
    std::memcpy(out.row(tile.batch_row + i) + tile.kv_head * width, s.outputs.data() + i * width,
                static_cast<std::size_t>(width) * sizeof(float));
  }
}

}  // namespace

AttentionScratch::AttentionScratch(const AttentionShape& shape, int threads) {
  const auto rows = static_cast<std::size_t>(kTilePositions * shape.group());
  const auto block = static_cast<std::size_t>(shape.head_dim * kKvBlock);
  for (int t = 0; t < threads; ++t) {
    threads_.push_back({Buffer<float>(block), Buffer<float>(block), Buffer<float>(rows * shape.head_dim),
                        Buffer<float>(rows * shape.head_dim), Buffer<float>(rows), Buffer<float>(rows * kSumLanes),
                        Buffer<std::int32_t>(rows), Buffer<std::int32_t>(rows)});
  }
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
  if (tiles.size() == 1 || rt.pool.size() == 1) return work(0, 1);
  rt.pool.run([&](int thread) { work(thread, rt.pool.size()); });
}

}  // namespace jupiter

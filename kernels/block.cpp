// The textbook steps in order; loops and threads live below.
#include "kernels/block.hpp"

#include <array>
#include <atomic>
#include <cstring>
#include <string>

#include "io/error.hpp"

namespace jupiter {

namespace {

std::size_t product(std::int64_t a, std::int64_t b) {
  return static_cast<std::size_t>(a * b);
}

void norm_rows(const Runtime& rt, MatrixView<const float> x, const float* weight, float eps, MatrixView<float> out) {
  for_rows(rt, x.rows, 8, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t i = first; i < last; ++i) rt.kernels.rms_norm(x.row(i), weight, x.cols, eps, out.row(i));
  });
}

void add_rows(const Runtime& rt, MatrixView<float> x, MatrixView<const float> y) {
  for_rows(rt, x.rows, 8, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t i = first; i < last; ++i) rt.kernels.add(x.row(i), y.row(i), x.cols);
  });
}

// Rounds to the precision of the wire, so that a layer boundary inside a rank gives the same bits as one between two.
void round_residual(const Runtime& rt, Precision precision, MatrixView<float> x, std::string_view where) {
  if (precision == Precision::f32) return;
  std::atomic<bool> fits = true;
  for_rows(rt, x.rows, 8, [&](std::int64_t first, std::int64_t last) {
    std::vector<std::uint16_t> bits(x.cols);
    for (std::int64_t i = first; i < last; ++i) {
      if (!rt.kernels.narrow(precision, x.row(i), x.cols, bits.data())) fits = false;
      rt.kernels.widen(precision, bits.data(), x.cols, x.row(i));
    }
  });
  if (!fits) {
    throw RunError("residual after " + std::string(where) + ": a value does not fit " + std::string(name(precision)) +
                   " (or is not a number); convert the model with --residual bf16 or f32");
  }
}

// Rotates and normalises the heads of one row in place.
void prepare_heads(const BlockContext& c, const float* norm, std::int64_t position, std::int64_t n_heads, float* row) {
  const std::int64_t dim = c.config.head_dim;
  for (std::int64_t h = 0; h < n_heads; ++h, row += dim) {
    if (norm != nullptr) c.rt.kernels.rms_norm(row, norm, dim, c.config.norm_eps, row);
    c.rt.kernels.rope(row, c.rope.cos(position), c.rope.sin(position), dim);
  }
}

std::vector<std::pair<const RowRun*, std::int64_t>> rows_of(const std::vector<RowRun>& runs) {
  std::vector<std::pair<const RowRun*, std::int64_t>> rows;
  for (const RowRun& run : runs) {
    for (std::int64_t i = 0; i < run.rows; ++i) rows.emplace_back(&run, i);
  }
  return rows;
}

// Rotary embedding of q and k, then keys and values into the cache.
void rotate_and_store(const BlockContext& c, const LayerWeights& w, std::int64_t layer, const std::vector<RowRun>& runs,
                      MatrixView<float> q, MatrixView<float> k, MatrixView<float> v) {
  const auto rows = rows_of(runs);
  const TensorSlice& mine = c.group.mine();
  std::atomic<bool> fits = true;
  for_rows(c.rt, q.rows, 8, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t i = first; i < last; ++i) {
      const auto [run, of_run] = rows[i];
      const std::int64_t position = run->position(of_run);
      prepare_heads(c, w.q_norm, position, mine.heads.size(), q.row(i));
      prepare_heads(c, w.k_norm, position, mine.kv_heads.size(), k.row(i));
      if (!c.cache.write(layer, run->slot(of_run), k.row(i), v.row(i))) fits = false;
    }
  });
  if (!fits) {
    throw RunError("KV cache of layer " + std::to_string(layer) +
                   " of this stage: a value does not fit its type; run with -ctk f32 -ctv f32");
  }
}

// The columns of a wide matrix that a slice computes.
MatrixView<float> part_of(MatrixView<float> x, const IndexRange& columns) {
  return x.columns(columns.first, columns.size());
}

}  // namespace

BlockScratch::BlockScratch(const ModelConfig& c, const TensorSlice& slice, std::int64_t max_rows, int threads)
    : normed(product(max_rows, c.dim)),
      q(product(max_rows, slice.heads.size() * c.head_dim)),
      k(product(max_rows, slice.kv_heads.size() * c.head_dim)),
      v(product(max_rows, slice.kv_heads.size() * c.head_dim)),
      attended(product(max_rows, c.q_dim())),
      projected(product(max_rows, c.dim)),
      gate(product(max_rows, c.hidden_dim)),
      up(product(max_rows, slice.hidden.size())),
      input(max_rows, std::max({c.dim, c.q_dim(), c.hidden_dim})),
      attention(attention_shape(c, slice), threads),
      max_rows_(max_rows) {}

std::size_t BlockScratch::bytes() const {
  return normed.bytes() + q.bytes() + k.bytes() + v.bytes() + attended.bytes() + projected.bytes() + gate.bytes() +
         up.bytes() + input.bytes() + attention.bytes();
}

void forward_block(const BlockContext& c, const LayerWeights& w, std::int64_t layer, const std::vector<RowRun>& runs,
                   MatrixView<float> x) {
  BlockScratch& s = c.scratch;
  const ModelConfig& m = c.config;
  const TensorGroup& g = c.group;
  const TensorSlice& mine = g.mine();
  const std::int64_t n = x.rows;
  const auto normed = s.view(s.normed, n, m.dim), projected = s.view(s.projected, n, m.dim);
  const auto q = s.view(s.q, n, mine.heads.size() * m.head_dim);
  const auto k = s.view(s.k, n, mine.kv_heads.size() * m.head_dim), v = s.view(s.v, n, k.cols);
  const auto attended = s.view(s.attended, n, m.q_dim()), hidden = s.view(s.gate, n, m.hidden_dim);
  const auto my_heads = attended.columns(mine.heads.first * m.head_dim, q.cols);
  const auto gate = part_of(hidden, mine.hidden), up = s.view(s.up, n, mine.hidden.size());

  norm_rows(c.rt, x, w.attn_norm, m.norm_eps, normed);
  multiply(c.rt, s.input, normed, std::array{Product{w.wq, q, w.bq}, Product{w.wk, k, w.bk}, Product{w.wv, v, w.bv}});
  rotate_and_store(c, w, layer, runs, q, k, v);
  attend(c.rt, c.cache, layer, runs, attention_shape(m, mine), q, my_heads, s.attention);
  multiply(c.rt, s.input, g, g.attended, attended, std::array{Product{w.wo, part_of(projected, mine.attention_out)}});
  add_rows(c.rt, part_of(x, mine.attention_out), part_of(projected, mine.attention_out));
  gather(g, g.attention_out, x);

  norm_rows(c.rt, x, w.ffn_norm, m.norm_eps, normed);
  multiply(c.rt, s.input, normed, std::array{Product{w.w_gate, gate}, Product{w.w_up, up}});
  for_rows(c.rt, n, 2, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t i = first; i < last; ++i) {
      c.rt.kernels.swiglu(gate.row(i), up.row(i), gate.cols, gate.row(i));
    }
  });
  multiply(c.rt, s.input, g, g.hidden, hidden,
           std::array{Product{w.w_down, part_of(projected, mine.feed_forward_out)}});
  add_rows(c.rt, part_of(x, mine.feed_forward_out), part_of(projected, mine.feed_forward_out));
  round_residual(c.rt, m.residual, part_of(x, mine.feed_forward_out), "a layer");
  gather(c.rt.kernels, g, g.feed_forward_out, m.residual, x);
}

void embed(const BlockContext& c, const PackedMatrix& embedding, std::span<const std::int32_t> tokens,
           MatrixView<float> x) {
  for_rows(c.rt, x.rows, 8, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t i = first; i < last; ++i) dequantize_row(embedding, tokens[i], x.row(i));
  });
  round_residual(c.rt, c.config.residual, x, "the embedding");
}

MatrixView<const float> final_norm(const BlockContext& c, const OutputHeadWeights& w, MatrixView<const float> x,
                                   std::span<const std::int64_t> rows) {
  const auto n = std::ssize(rows);
  const MatrixView<float> normed = c.scratch.view(c.scratch.normed, n, c.config.dim);
  for (std::int64_t i = 0; i < n; ++i) {
    c.rt.kernels.rms_norm(x.row(rows[i]), w.norm, c.config.dim, c.config.norm_eps, normed.row(i));
  }
  return normed;
}

MatrixView<const float> forward_output_head(const BlockContext& c, const OutputHeadWeights& w,
                                            MatrixView<const float> x, std::span<const std::int64_t> rows,
                                            MatrixView<float> logits) {
  const MatrixView<const float> normed = final_norm(c, w, x, rows);
  multiply(c.rt, c.scratch.input, normed, std::array{Product{w.output, logits}});
  return normed;
}

}  // namespace jupiter

// The textbook steps in order; loops and threads live below.
#include "kernels/block.hpp"

#include <algorithm>
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

void scale_rows(const Runtime& rt, float factor, MatrixView<float> x) {
  if (factor == 1) return;
  for_rows(rt, x.rows, 8, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t i = first; i < last; ++i) {
      float* row = x.row(i);
      for (std::int64_t n = 0; n < x.cols; ++n) row[n] *= factor;
    }
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

// Normalises and rotates the heads of one row in place. rope: null where the layer does not rotate.
void prepare_heads(const BlockContext& c, const float* norm, const RopeTable* rope, std::int64_t position,
                   std::int64_t n_heads, float* row) {
  const std::int64_t dim = c.config.head_dim;
  if (c.config.qk_norm_whole) {
    c.rt.kernels.rms_norm(row, norm, n_heads * dim, c.config.norm_eps, row);
    norm = nullptr;
  }
  for (std::int64_t h = 0; h < n_heads; ++h, row += dim) {
    if (norm != nullptr) c.rt.kernels.rms_norm(row, norm, dim, c.config.norm_eps, row);
    if (rope != nullptr) c.rt.kernels.rope(row, rope->cos(position), rope->sin(position), c.config.rotary_dim());
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
  const RopeTable* rope = c.rope.of(w.kind);
  std::atomic<bool> fits = true;
  for_rows(c.rt, q.rows, 8, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t i = first; i < last; ++i) {
      const auto [run, of_run] = rows[i];
      const std::int64_t position = run->position(of_run);
      prepare_heads(c, w.q_norm, rope, position, mine.heads.size(), q.row(i));
      prepare_heads(c, w.k_norm, rope, position, mine.kv_heads.size(), k.row(i));
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

// This board's columns of what the feed-forward part makes of `normed`: of the one that all rows share, of experts, or
// the sum of both.
void feed_forward(const BlockContext& c, const LayerWeights& w, MatrixView<float> normed, MatrixView<float> projected) {
  BlockScratch& s = c.scratch;
  const TensorSlice& mine = c.group.mine();
  const auto branch = part_of(projected, mine.feed_forward_out);
  if (c.config.hidden_dim > 0) {
    const auto hidden = s.view(s.gate, normed.rows, c.config.hidden_dim), gate = part_of(hidden, mine.hidden);
    const auto up = s.view(s.up, normed.rows, mine.hidden.size());
    multiply(c.rt, s.input, normed, std::array{Product{w.w_gate, gate}, Product{w.w_up, up}});
    gate_rows(c.rt, c.config.activation, gate, up);
    multiply(c.rt, s.input, c.group, c.group.hidden, hidden, std::array{Product{w.w_down, branch}});
    if (c.config.shared_expert_gate) weigh_shared_expert(c.rt, w, normed, branch, s.experts);
  } else {
    for (std::int64_t i = 0; i < branch.rows; ++i) std::fill_n(branch.row(i), branch.cols, 0.0f);
  }
  if (c.config.n_experts > 0) add_experts(c.rt, c.config, c.group, w, normed, branch, s.experts);
}

// Adds the columns `mine` of a branch (attention, feed-forward) to the residual x, and returns the columns of x that it
// added to. A norm behind the branch reads all columns of a row: then they are gathered before it, every board adds all
// of them, and no gather needs to follow.
MatrixView<float> add_branch(const BlockContext& c, const float* post_norm, std::span<const IndexRange> columns,
                             const IndexRange& mine, MatrixView<float> branch, MatrixView<float> x) {
  if (post_norm != nullptr) {
    gather(c.group, columns, branch);
    norm_rows(c.rt, branch, post_norm, c.config.norm_eps, branch);
  }
  const IndexRange added = post_norm != nullptr ? IndexRange{0, x.cols} : mine;
  scale_rows(c.rt, c.config.residual_scale, part_of(branch, added));
  add_rows(c.rt, part_of(x, added), part_of(branch, added));
  return part_of(x, added);
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
      experts(c, slice, max_rows),
      max_rows_(max_rows) {}

std::size_t BlockScratch::bytes() const {
  return normed.bytes() + q.bytes() + k.bytes() + v.bytes() + attended.bytes() + projected.bytes() + gate.bytes() +
         up.bytes() + input.bytes() + attention.bytes() + experts.bytes();
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
  const auto attended = s.view(s.attended, n, m.q_dim());
  const auto my_heads = attended.columns(mine.heads.first * m.head_dim, q.cols);

  norm_rows(c.rt, x, w.attn_norm, m.norm_eps, normed);
  multiply(c.rt, s.input, normed, std::array{Product{w.wq, q, w.bq}, Product{w.wk, k, w.bk}, Product{w.wv, v, w.bv}});
  rotate_and_store(c, w, layer, runs, q, k, v);
  attend(c.rt, c.cache, layer, runs, attention_shape(m, mine, w.kind, w.sinks), q, my_heads, s.attention);
  multiply(c.rt, s.input, g, g.attended, attended,
           std::array{Product{w.wo, part_of(projected, mine.attention_out), w.bo}});
  add_branch(c, w.attn_post_norm, g.attention_out, mine.attention_out, projected, x);
  if (w.attn_post_norm == nullptr) gather(g, g.attention_out, x);

  norm_rows(c.rt, x, w.ffn_norm, m.norm_eps, normed);
  feed_forward(c, w, normed, projected);
  const auto added = add_branch(c, w.ffn_post_norm, g.feed_forward_out, mine.feed_forward_out, projected, x);
  round_residual(c.rt, m.residual, added, "a layer");
  if (w.ffn_post_norm == nullptr) gather(c.rt.kernels, g, g.feed_forward_out, m.residual, x);
}

void embed(const BlockContext& c, const PackedMatrix& embedding, std::span<const std::int32_t> tokens,
           MatrixView<float> x) {
  for_rows(c.rt, x.rows, 8, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t i = first; i < last; ++i) dequantize_row(embedding, tokens[i], x.row(i));
  });
  scale_rows(c.rt, c.config.embedding_scale, x);
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
  scale_rows(c.rt, c.config.logit_scale, logits);
  if (c.config.logit_softcap > 0) {
    for (std::int64_t i = 0; i < logits.rows; ++i) {
      c.rt.kernels.softcap(c.config.logit_softcap, logits.cols, logits.row(i));
    }
  }
  return normed;
}

}  // namespace jupiter

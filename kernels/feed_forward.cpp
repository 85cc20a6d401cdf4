// Rows are copied to the places of their entries, so that each expert reads and writes rows that follow each other. A
// product's bits do not depend on the rows beside a row, so they do not depend on the grouping either.
#include "kernels/feed_forward.hpp"

#include <algorithm>
#include <array>
#include <cstring>

namespace jupiter {

namespace {

std::size_t product(std::int64_t a, std::int64_t b) {
  return static_cast<std::size_t>(a * b);
}

std::int64_t widest(const ModelConfig& c) {
  return c.n_experts > 0 ? std::max(c.dim, c.expert_hidden_dim) : 0;
}

// Index of the largest logit that is not taken; the lowest one of equals. NaN is never larger.
std::int64_t best_left(const float* logits, std::int64_t count, const std::vector<bool>& taken) {
  std::int64_t best = -1;
  for (std::int64_t e = 0; e < count; ++e) {
    if (!taken[e] && (best < 0 || logits[e] > logits[best])) best = e;
  }
  return best;
}

// Softmax weights of the chosen, in the ranking's order. The sum runs over all by rising index, or over the chosen.
void weigh(const KernelTable& kernels, const float* logits, std::int64_t count, bool normalised,
           std::span<const std::int64_t> chosen, float* weights) {
  const float max = logits[chosen[0]];
  std::vector<float> powers(count);
  for (std::int64_t e = 0; e < count; ++e) powers[e] = logits[e] - max;
  kernels.exponential(powers.data(), count, powers.data());
  float sum = 0;
  if (normalised) {
    for (const std::int64_t e : chosen) sum += powers[e];
  } else {
    for (const float power : powers) sum += power;
  }
  for (std::size_t r = 0; r < chosen.size(); ++r) weights[r] = powers[chosen[r]] / sum;
}

// Counting sort of the entries by expert.
void group_entries(std::int64_t n_experts, Routing& routing) {
  std::vector<std::int64_t> next(n_experts + 1);
  for (const std::int64_t e : routing.expert) ++next[e + 1];
  for (std::int64_t e = 0; e < n_experts; ++e) {
    if (next[e + 1] > 0) routing.groups.push_back({e, next[e], next[e + 1]});
    next[e + 1] += next[e];
  }
  for (const std::int64_t e : routing.expert) routing.place.push_back(next[e]++);
}

// Rows [first, first + rows) of x and the same as integers, which lie in blocks of their own.
class GroupedInput {
 public:
  // All columns are there.
  GroupedInput(const Runtime& rt, const Routing& routing, MatrixView<const float> x, bool quantised,
               QuantizedBuffer& buffer)
      : x_(x) {
    if (quantised) quantize(rt, routing, {0, x.cols}, buffer);
  }
  // Boards of a tensor group have columns each, which they gather as they read them (LinearInput::gather()).
  GroupedInput(const Runtime& rt, const Routing& routing, const TensorGroup& group, MatrixView<float> x, bool quantised,
               QuantizedBuffer& buffer)
      : x_(x) {
    const std::vector<IndexRange>& columns = group.expert_hidden;
    if (columns.empty() || !quantised || !in_groups(columns)) {
      gather(group, columns, x);
      if (quantised) quantize(rt, routing, {0, x.cols}, buffer);
    } else {
      quantize(rt, routing, columns[group.board], buffer);
      gather(group, columns, integers_);
    }
  }
  LinearView of(std::int64_t group, const Routing::Group& g) const {
    return {x_.slice(g.first, g.rows), integers_.empty() ? QuantizedRows{} : integers_[group]};
  }

 private:
  void quantize(const Runtime& rt, const Routing& routing, const IndexRange& columns, QuantizedBuffer& buffer) {
    const QuantizedRows all = buffer.view(x_.rows, x_.cols);
    for (const Routing::Group& g : routing.groups) {
      const std::int64_t at = g.first * all.groups();
      integers_.push_back({g.rows, x_.cols, all.values + at * kGroupCols, all.scales + at, all.offsets + at,
                           all.half_offsets + 2 * at, all.scaled_sums + at});
    }
    for_rows(rt, std::ssize(routing.groups), 1, [&](std::int64_t first, std::int64_t last) {
      for (std::int64_t i = first; i < last; ++i) {
        const auto rows = x_.slice(routing.groups[i].first, routing.groups[i].rows);
        for (std::int64_t b = 0; b < integers_[i].blocks(); ++b) {
          quantize_block(rt.kernels, rows, columns, integers_[i], b);
        }
      }
    });
  }
  MatrixView<const float> x_;
  std::vector<QuantizedRows> integers_;  // by group
};

// The product of x with rows of one expert's matrix among those of all. bias: of all rows of all experts, or null.
BoundProduct of_expert(const LinearView& x, const PackedMatrix& all, const float* bias, std::int64_t n_experts,
                       std::int64_t expert, const IndexRange& rows, MatrixView<float> out) {
  const std::int64_t first = expert * (all.rows / n_experts);
  return {
      x,
      {all.slice(first + rows.first, first + rows.last), out, bias == nullptr ? nullptr : bias + first + rows.first}};
}

// Copies the rows of x to the places of their entries.
void copy_to_places(const Runtime& rt, const Routing& routing, MatrixView<const float> x, MatrixView<float> grouped) {
  const std::int64_t used = grouped.rows / x.rows;
  for_rows(rt, grouped.rows, 8, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t i = first; i < last; ++i) {
      std::memcpy(grouped.row(routing.place[i]), x.row(i / used), static_cast<std::size_t>(x.cols) * sizeof(float));
    }
  });
}

void sum_entries(const Runtime& rt, const Routing& routing, MatrixView<const float> given, MatrixView<float> branch) {
  const std::int64_t used = given.rows / branch.rows;
  for_rows(rt, branch.rows, 2, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t i = first; i < last; ++i) {
      float* sum = branch.row(i);
      for (std::int64_t entry = i * used; entry < (i + 1) * used; ++entry) {
        const float weight = routing.weight[entry];
        const float* row = given.row(routing.place[entry]);
        for (std::int64_t n = 0; n < branch.cols; ++n) sum[n] += weight * row[n];
      }
    }
  });
}

auto gate_kernel(const KernelTable& kernels, Activation activation) {
  switch (activation) {
    case Activation::gelu:
      return kernels.geglu;
    case Activation::bounded_silu:
      return kernels.bounded_swiglu;
    default:
      return kernels.swiglu;
  }
}

}  // namespace

void gate_rows(const Runtime& rt, Activation activation, MatrixView<float> gate, MatrixView<const float> up) {
  const auto kernel = gate_kernel(rt.kernels, activation);
  for_rows(rt, gate.rows, 2, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t i = first; i < last; ++i) kernel(gate.row(i), up.row(i), gate.cols, gate.row(i));
  });
}

Routing route(const KernelTable& kernels, MatrixView<const float> logits, std::int64_t used, bool normalised) {
  Routing routing;
  routing.weight.resize(product(logits.rows, used));
  for (std::int64_t i = 0; i < logits.rows; ++i) {
    std::vector<bool> taken(logits.cols);
    for (std::int64_t r = 0; r < used; ++r) {
      routing.expert.push_back(best_left(logits.row(i), logits.cols, taken));
      taken[routing.expert.back()] = true;
    }
    const std::span<const std::int64_t> chosen(&routing.expert[i * used], static_cast<std::size_t>(used));
    weigh(kernels, logits.row(i), logits.cols, normalised, chosen, &routing.weight[i * used]);
  }
  group_entries(logits.cols, routing);
  return routing;
}

ExpertScratch::ExpertScratch(const ModelConfig& c, const TensorSlice& slice, std::int64_t max_rows)
    : logits(product(max_rows, c.n_experts)),
      shared_weight(product(max_rows, c.shared_expert_gate ? 1 : 0)),
      grouped(product(max_rows, c.n_experts_used * c.dim)),
      hidden(product(max_rows, c.n_experts_used * c.expert_hidden_dim)),
      up(product(max_rows, c.n_experts_used * slice.expert_hidden.size())),
      integers(max_rows * c.n_experts_used, widest(c)) {}

std::size_t ExpertScratch::bytes() const {
  return logits.bytes() + shared_weight.bytes() + grouped.bytes() + hidden.bytes() + up.bytes() + integers.bytes();
}

void add_experts(const Runtime& rt, const ModelConfig& c, const TensorGroup& g, const LayerWeights& w,
                 MatrixView<const float> normed, MatrixView<float> branch, ExpertScratch& s) {
  const TensorSlice& mine = g.mine();
  const std::int64_t entries = normed.rows * c.n_experts_used;
  const MatrixView<float> logits(s.logits.data(), normed.rows, c.n_experts);
  multiply(rt, {normed, {}}, std::array{Product{w.router, logits, w.router_bias}});
  const Routing routing = route(rt.kernels, logits, c.n_experts_used, c.normalised_expert_weights);

  const MatrixView<float> grouped(s.grouped.data(), entries, c.dim);
  const MatrixView<float> hidden(s.hidden.data(), entries, c.expert_hidden_dim);
  const MatrixView<float> up(s.up.data(), entries, mine.expert_hidden.size());
  const auto gate = hidden.columns(mine.expert_hidden.first, mine.expert_hidden.size());
  copy_to_places(rt, routing, normed, grouped);
  const auto for_groups = [&](const GroupedInput& input, const auto& add_products) {
    std::vector<BoundProduct> products;
    for (std::int64_t i = 0; i < std::ssize(routing.groups); ++i) {
      add_products(routing.groups[i], input.of(i, routing.groups[i]), products);
    }
    multiply(rt, products);
  };
  const bool quantised = !is_float(w.w_gate_experts.format) || !is_float(w.w_up_experts.format);
  for_groups(GroupedInput(rt, routing, grouped, quantised, s.integers),
             [&](const Routing::Group& of, const LinearView& x, std::vector<BoundProduct>& products) {
               products.push_back(of_expert(x, w.w_gate_experts, w.b_gate_experts, c.n_experts, of.expert,
                                            mine.expert_hidden, gate.slice(of.first, of.rows)));
               products.push_back(of_expert(x, w.w_up_experts, w.b_up_experts, c.n_experts, of.expert,
                                            mine.expert_hidden, up.slice(of.first, of.rows)));
             });
  gate_rows(rt, c.activation, gate, up);
  const auto given = grouped.columns(mine.feed_forward_out.first, mine.feed_forward_out.size());
  for_groups(GroupedInput(rt, routing, g, hidden, !is_float(w.w_down_experts.format), s.integers),
             [&](const Routing::Group& of, const LinearView& x, std::vector<BoundProduct>& products) {
               products.push_back(of_expert(x, w.w_down_experts, w.b_down_experts, c.n_experts, of.expert,
                                            mine.feed_forward_out, given.slice(of.first, of.rows)));
             });
  sum_entries(rt, routing, given, branch);
}

void weigh_shared_expert(const Runtime& rt, const LayerWeights& w, MatrixView<const float> normed,
                         MatrixView<float> branch, ExpertScratch& s) {
  const MatrixView<float> weight(s.shared_weight.data(), normed.rows, 1);
  multiply(rt, {normed, {}}, std::array{Product{w.shared_router, weight}});
  for (std::int64_t i = 0; i < branch.rows; ++i) {
    float power = -weight.row(i)[0];
    rt.kernels.exponential(&power, 1, &power);
    const float sigmoid = 1.0f / (1.0f + power);
    for (std::int64_t n = 0; n < branch.cols; ++n) branch.row(i)[n] *= sigmoid;
  }
}

}  // namespace jupiter

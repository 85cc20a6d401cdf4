// Digests by panel, and candidates of a part of the vocabulary.
#include "parallel/pipeline/output_head.hpp"

#include <algorithm>
#include <limits>

#include "io/hash.hpp"
#include "io/model/packed.hpp"
#include "parallel/plan/stage_memory.hpp"

namespace jupiter {

namespace {

struct TokenLogit {
  std::int32_t token;
  float logit;
};

std::span<const float> row_of(MatrixView<const float> m, std::int64_t row) {
  return {m.row(row), static_cast<std::size_t>(m.cols)};
}

// The best of a row, equal ones by rising token, numbered from `first` on. A value that is not a number counts as the
// best, so that whoever draws the token finds it.
std::vector<TokenLogit> best_of(std::span<const float> logits, std::int64_t first, std::int64_t count) {
  std::vector<TokenLogit> all(logits.size());
  for (std::size_t i = 0; i < all.size(); ++i) {
    all[i] = {static_cast<std::int32_t>(first + static_cast<std::int64_t>(i)), logits[i]};
  }
  const auto key = [](float x) { return x == x ? x : std::numeric_limits<float>::infinity(); };
  const auto better = [&](const TokenLogit& a, const TokenLogit& b) {
    return key(a.logit) != key(b.logit) ? key(a.logit) > key(b.logit) : a.token < b.token;
  };
  const auto n = std::min<std::int64_t>(count, std::ssize(all));
  if (n == 1) return {*std::min_element(all.begin(), all.end(), better)};
  std::partial_sort(all.begin(), all.begin() + n, all.end(), better);
  all.resize(static_cast<std::size_t>(n));
  return all;
}

PeerError unexpected(const std::string& expected, std::int64_t found) {
  return PeerError("output head: expected " + expected + ", found " + std::to_string(found));
}

}  // namespace

std::uint64_t OutputHeadRows::digest(std::int64_t row) const {
  return digests.empty() ? row_digest(row_of(logits, row)) : digests[static_cast<std::size_t>(row)];
}

std::uint64_t row_digest(std::span<const float> logits, std::int64_t first) {
  std::uint64_t sum = 0, panel = static_cast<std::uint64_t>(first / kPanelRows);
  for (std::size_t at = 0; at < logits.size(); at += kPanelRows, ++panel) {
    const std::size_t n = std::min<std::size_t>(kPanelRows, logits.size() - at);
    sum += hash_bytes(logits.data() + at, n * sizeof(float), panel);
  }
  return sum;
}

Message encode_head_rows(const HeadRows& asked) {
  Message m{MessageKind::head_rows, 0, {}};
  PayloadWriter w(m.payload);
  w.value(asked.candidates);
  w.array(std::span<const std::int64_t>(asked.rows));
  return m;
}

HeadRows decode_head_rows(const Message& message, std::int64_t rows) {
  PayloadReader r(message.payload);
  HeadRows asked;
  asked.candidates = r.value<std::int64_t>();
  asked.rows = r.array<std::int64_t>(kMaxDrawnRows);
  r.end();
  if (asked.candidates < 0) throw unexpected("a number of candidates", asked.candidates);
  for (const std::int64_t row : asked.rows) {
    if (row < 0 || row >= rows) throw unexpected("rows below " + std::to_string(rows), row);
  }
  return asked;
}

Message encode_head_states(const HeadStates& asked) {
  Message m{MessageKind::head_states, 0, {}};
  PayloadWriter w(m.payload);
  w.value(asked.rows);
  w.value(asked.candidates);
  w.array(std::span<const std::byte>(asked.residual));
  return m;
}

HeadStates decode_head_states(const Message& message, std::int64_t row_bytes) {
  PayloadReader r(message.payload);
  HeadStates asked;
  asked.rows = r.value<std::int64_t>();
  asked.candidates = r.value<std::int64_t>();
  asked.residual = r.array<std::byte>(static_cast<std::size_t>(kMaxDrawnRows * row_bytes));
  r.end();
  if (asked.rows < 1 || asked.rows > kMaxDrawnRows) {
    throw unexpected("up to " + std::to_string(kMaxDrawnRows) + " rows", asked.rows);
  }
  if (asked.candidates < 1) throw unexpected("a number of candidates", asked.candidates);
  if (std::ssize(asked.residual) != asked.rows * row_bytes) {
    throw unexpected(std::to_string(asked.rows * row_bytes) + " bytes of rows", std::ssize(asked.residual));
  }
  return asked;
}

Message encode_head_logits(MatrixView<const float> logits, std::int64_t first, std::int64_t candidates) {
  Message m{MessageKind::head_logits, 0, {}};
  PayloadWriter w(m.payload);
  for (std::int64_t i = 0; i < logits.rows; ++i) {
    const std::span<const float> row = row_of(logits, i);
    w.value(row_digest(row, first));
    if (candidates > 0) {
      w.array(std::span<const TokenLogit>(best_of(row, first, candidates)));
    } else {
      w.array(row);
    }
  }
  return m;
}

void take_head_logits(const Message& message, std::int64_t first, std::int64_t last, std::int64_t candidates,
                      MatrixView<float> logits, std::span<std::uint64_t> digests) {
  PayloadReader r(message.payload);
  const std::int64_t count = last - first;
  for (std::int64_t i = 0; i < logits.rows; ++i) {
    digests[static_cast<std::size_t>(i)] += r.value<std::uint64_t>();
    float* row = logits.row(i) + first;
    if (candidates > 0) {
      std::fill_n(row, count, -std::numeric_limits<float>::infinity());
      for (const TokenLogit& c : r.array<TokenLogit>(static_cast<std::size_t>(std::min(candidates, count)))) {
        if (c.token < first || c.token >= last)
          throw unexpected("tokens from " + std::to_string(first) + " on", c.token);
        logits.row(i)[c.token] = c.logit;
      }
    } else {
      const auto all = r.array<float>(static_cast<std::size_t>(count));
      if (std::ssize(all) != count) throw unexpected(std::to_string(count) + " logits", std::ssize(all));
      std::copy(all.begin(), all.end(), row);
    }
  }
  r.end();
}

}  // namespace jupiter

// The stage's way from a frame to the next one.
#include "parallel/stage.hpp"

#include <algorithm>

#include "io/error.hpp"

namespace jupiter {

namespace {

constexpr std::int64_t kMaxDrawnRows = 16;  // logits kept at a time: 16 rows of a 150k vocabulary are 10 MB

KvShape kv_shape(const ModelConfig& c, const ModelPart& part, const StageOptions& o) {
  return {part.last_layer - part.first_layer, c.n_kv_heads, c.head_dim, o.keys, o.values};
}

}  // namespace

Stage::Stage(const ModelConfig& config, ModelFiles files, const StageOptions& options, ThreadPool& pool)
    : config_(config),
      files_(std::move(files)),
      options_(options),
      rt_{kernels(), pool, options.exact},
      cache_(kv_shape(config, files_.part(), options), options.cache_tokens / kKvBlock),
      rope_(config),
      scratch_(config, options.max_rows, pool.size()),
      residual_(static_cast<std::size_t>(options.max_rows * config.dim)),
      logits_(files_.part().head ? static_cast<std::size_t>(kMaxDrawnRows * config.vocab_size) : 0) {
  set_blas_threads(pool.size());
}

std::int64_t Stage::private_bytes(const ModelConfig& c, const ModelPart& part, const StageOptions& o) {
  const std::int64_t kv = KvCache::bytes_per_block(kv_shape(c, part, o)) * (o.cache_tokens / kKvBlock);
  const std::int64_t row_floats = 3 * c.dim + 2 * c.q_dim() + 2 * c.kv_dim() + 2 * c.hidden_dim;
  const std::int64_t widest = std::max({c.dim, c.q_dim(), c.hidden_dim});
  const std::int64_t head = part.head ? kMaxDrawnRows * c.vocab_size * 4 : 0;
  return kv + o.max_rows * (row_floats * 4 + widest * 2) + head;
}

FrameLimits Stage::limits() const {
  return {options_.max_rows, options_.context_tokens, config_.vocab_size,
          part().first_layer == 0 && part().embedding ? 0 : wire_row_bytes(options_.wire, config_)};
}

Stage::State& Stage::state(SequenceId sequence) {
  const auto it = states_.find(sequence);
  if (it == states_.end()) throw PeerError("frame of sequence " + std::to_string(sequence) + ", which is not open");
  return it->second;
}

void Stage::open(SequenceId sequence, const SamplingOptions& sampling) {
  const auto [it, fresh] = states_.try_emplace(sequence);
  if (!fresh) throw PeerError("sequence " + std::to_string(sequence) + " is open already");
  it->second.sampling = sampling;
}

std::uint64_t Stage::close(SequenceId sequence) {
  State& s = state(sequence);
  cache_.truncate(s.cache, 0);
  const std::uint64_t digest = s.logits.digest();
  states_.erase(sequence);
  return digest;
}

// Makes room in the cache and says where each row's keys lie.
std::vector<RowRun> Stage::place(const Frame& frame) {
  std::vector<RowRun> runs;
  std::size_t row = 0;
  for (const FrameRun& run : frame.runs) {
    State& s = state(run.sequence);
    if (run.first_position > s.cache.length) {
      throw PeerError("frame at position " + std::to_string(run.first_position) + " of a sequence that ends at " +
                      std::to_string(s.cache.length));
    }
    cache_.truncate(s.cache, run.first_position);
    cache_.reserve(s.cache, run.first_position + run.rows);
    s.cache.length = run.first_position + run.rows;
    rope_.extend(s.cache.length);
    if (part().head) {
      s.history.resize(static_cast<std::size_t>(run.first_position));
      s.history.insert(s.history.end(), frame.tokens.begin() + static_cast<std::ptrdiff_t>(row),
                       frame.tokens.begin() + static_cast<std::ptrdiff_t>(row) + run.rows);
    }
    row += static_cast<std::size_t>(run.rows);
    runs.push_back({&s.cache, run.first_position, run.rows});
  }
  return runs;
}

std::vector<SampledToken> Stage::forward(Frame& frame) {
  const auto start = std::chrono::steady_clock::now();
  const MatrixView<float> x(residual_.data(), frame.rows(), config_.dim);
  const std::vector<RowRun> runs = place(frame);
  const BlockContext context{rt_, config_, cache_, rope_, scratch_};
  if (part().embedding) {
    embed(context, files_.embedding(), frame.tokens, x);
  } else {
    from_wire(rt_, options_.wire, config_.residual, frame.residual.data(), x);
  }
  for (std::size_t i = 0; i < files_.layers().size(); ++i) {
    forward_block(context, files_.layers()[i], static_cast<std::int64_t>(i), runs, x);
  }
  std::vector<SampledToken> tokens;
  if (part().head) {
    tokens = draw(frame, context, x);
  } else {
    frame.residual.resize(static_cast<std::size_t>(x.rows * wire_row_bytes(options_.wire, config_)));
    to_wire(rt_, options_.wire, config_.residual, x, frame.residual.data());
  }
  compute_s_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return tokens;
}

std::vector<Stage::HeadRow> Stage::head_rows(const Frame& frame) {
  std::vector<HeadRow> rows;
  std::int64_t begin = 0;
  for (const FrameRun& run : frame.runs) {
    const bool all = (run.flags & FrameRun::every_row) != 0;
    if (all || (run.flags & FrameRun::sample) != 0) {
      for (std::int64_t i = all ? 0 : run.rows - 1; i < run.rows; ++i) {
        rows.push_back({&run, begin + i, run.first_position + i});
      }
    }
    begin += run.rows;
  }
  return rows;
}

std::vector<SampledToken> Stage::draw(const Frame& frame, const BlockContext& context, MatrixView<float> x) {
  std::vector<SampledToken> drawn;
  const std::vector<HeadRow> wanted = head_rows(frame);
  std::vector<std::int64_t> rows;
  for (std::size_t at = 0; at < wanted.size(); at += rows.size()) {
    rows.clear();
    for (std::size_t i = at; i < std::min(wanted.size(), at + kMaxDrawnRows); ++i) rows.push_back(wanted[i].row);
    const MatrixView<float> logits(logits_.data(), static_cast<std::int64_t>(rows.size()), config_.vocab_size);
    forward_head(context, files_.head(), x, rows, logits);
    for (std::size_t i = 0; i < rows.size(); ++i) {
      const HeadRow& from = wanted[at + i];
      const std::span<const float> row(logits.row(static_cast<std::int64_t>(i)), static_cast<std::size_t>(logits.cols));
      if ((from.run->flags & FrameRun::every_row) != 0 && sink_) sink_(from.run->sequence, from.position, row);
      if ((from.run->flags & FrameRun::sample) == 0 || from.position + 1 != from.run->first_position + from.run->rows) {
        continue;
      }
      State& s = state(from.run->sequence);
      s.logits.update(row.data(), row.size_bytes());
      drawn.push_back({from.run->sequence, sample(rt_.kernels, row, s.sampling, s.history, s.cache.length)});
    }
  }
  return drawn;
}

}  // namespace jupiter

// What a stage does with a frame: verdicts, pruning, places in the cache, layers, output head.
#include "parallel/pipeline/stage.hpp"

#include <algorithm>
#include <cstring>
#include <limits>
#include <numeric>
#include <utility>

#include "io/error.hpp"
#include "io/timer.hpp"

namespace jupiter {

namespace {

// Empties a frame that was given up. Its runs stay, so that every later stage and rank 0 know that it came by.
void drop_rows(Frame& frame) {
  frame.tokens.clear();
  frame.links.clear();
  frame.residual.clear();
  for (FrameRun& run : frame.runs) run.rows = 0;
}

template <typename Sequences>
auto& open_sequence(Sequences& sequences, SequenceId id) {
  const auto it = sequences.find(id);
  if (it == sequences.end()) throw PeerError("frame of sequence " + std::to_string(id) + ", which is not open");
  return it->second;
}

// A sequence without its blocks.
Sequence tail_of(const Sequence& s) {
  return {.blocks = {}, .length = s.length, .tip = s.tip, .decided = s.decided, .nodes = s.nodes, .spare = {}};
}

KvShape kv_shape(const ModelConfig& c, const ModelPart& part, const StageOptions& o) {
  return {part.last_layer - part.first_layer, part.rows(c).kv_heads.size(), c.head_dim, o.keys, o.values};
}

TensorGroup tensor_group(const ModelConfig& c, const std::optional<Stage::Group>& group) {
  return group ? TensorGroup(c, group->slices, group->channels->board(), *group->channels) : TensorGroup(c);
}

}  // namespace

Stage::Stage(const ModelConfig& config, ModelFiles files, const StageOptions& options, ThreadPool& pool, int stages,
             const std::optional<Group>& group)
    : config_(config),
      files_(std::move(files)),
      options_(options),
      rt_{kernels(), pool},
      channels_(group ? group->channels : nullptr),
      group_(tensor_group(config_, group)),
      cache_(kv_shape(config, files_.part(), options), options.cache_tokens / kKvBlock),
      rope_(config, options.context_tokens),
      scratch_(config, group_.mine(), options.max_rows, pool.size()),
      residual_(options.max_rows * config.dim),
      logits_(static_cast<std::size_t>(kMaxDrawnRows * logit_columns(config, files_.part(), leads()))),
      helped_rows_(static_cast<std::size_t>(files_.part().helps_with_output_head() ? kMaxDrawnRows * config.dim : 0)),
      decoder_(rt_.kernels, stages),
      invariants_(stages) {
  if (channels_ != nullptr) lanes_.emplace(config_, group_, *channels_, options.max_rows, pool.size());
}

StageBuffers Stage::buffers() const {
  return {cache_.allocated_bytes(), scratch_.bytes() + (lanes_ ? lanes_->bytes() : 0) + rope_.bytes() +
                                        residual_.bytes() + logits_.bytes() + helped_rows_.bytes()};
}

FrameLimits Stage::limits() const {
  return {options_.max_rows, options_.context_tokens, config_.vocab_size,
          part().first_layer == 0 && part().embedding ? 0 : wire_row_bytes(options_.wire, config_)};
}

Sequence& Stage::sequence(SequenceId id) {
  return open_sequence(sequences_, id);
}

const Sequence& Stage::sequence(SequenceId id) const {
  return open_sequence(sequences_, id);
}

void Stage::open(SequenceId id, const SequenceOptions& options) {
  if (sequences_.contains(id)) throw PeerError("sequence " + std::to_string(id) + " is open already");
  apply_verdicts();
  sequences_[id] = options.parent != 0 ? cache_.fork(sequence(options.parent), options.shared_tokens) : Sequence{};
  invariants_.opened(id, options.decode);
  if (decides()) decoder_.open(id, options);
}

SequenceEnd Stage::close(SequenceId id, const SequenceClose& close) {
  Sequence& s = sequence(id);
  if (close.kept_tokens > 0) {
    apply_verdicts();
    if (close.verdict.node != 0) apply(id, s, close.verdict);
    if (s.length < close.kept_tokens) {
      throw PeerError("kept sequence " + std::to_string(id) + ": expected at least " +
                      std::to_string(close.kept_tokens) + " positions, found " + std::to_string(s.length));
    }
    cache_.truncate(s, close.kept_tokens);
    invariants_.tree_forgotten(id);
  } else {
    cache_.truncate(s, 0);
    sequences_.erase(id);
    invariants_.closed(id);
  }
  return decides() ? decoder_.close(id, close) : SequenceEnd{};
}

void Stage::close_all() {
  while (!sequences_.empty()) close(sequences_.begin()->first, {});
}

// Makes room in the cache, and says where each row's keys and values go.
std::vector<RowRun> Stage::place(Frame& frame) {
  std::vector<RowRun> runs;
  std::size_t link = 0;
  for (FrameRun& run : frame.runs) {
    Sequence& s = sequence(run.sequence);
    RowRun placed{&s, run.first_position, run.rows, {}};
    if ((run.flags & FrameRun::tree) != 0) {
      for (std::int32_t i = 0; i < run.rows; ++i, ++link) {
        placed.tree.push_back(add_node(cache_, s, frame.links[link].node, frame.links[link].parent));
        const std::int64_t position = placed.tree.back().position;
        invariants_.row_placed(run.sequence, s, position);
        if (position >= options_.context_tokens) {
          throw PeerError("tree row: expected a position below " + std::to_string(options_.context_tokens) +
                          ", found " + std::to_string(position));
        }
        rope_.extend(position + 1);
      }
    } else {
      if (run.first_position > s.length) {
        throw PeerError("frame at position " + std::to_string(run.first_position) + " of a sequence that ends at " +
                        std::to_string(s.length));
      }
      cache_.truncate(s, run.first_position);
      invariants_.tree_forgotten(run.sequence);
      cache_.reserve(s, run.first_position, run.first_position + run.rows);
      s.length = run.first_position + run.rows;
      rope_.extend(s.length);
    }
    if (run.rows > 0) runs.push_back(std::move(placed));
  }
  return runs;
}

// The boards of a group apply the same verdicts at the same point of their order of commands.
void Stage::apply_verdicts() {
  for (const auto& [id, verdict] : verdicts_) {
    if (channels_ != nullptr && leads()) channels_->command(encode_verdict(0, {id, verdict}));
    const auto it = sequences_.find(id);
    if (it != sequences_.end()) apply(id, it->second, verdict);
  }
  verdicts_.clear();
}

void Stage::apply(SequenceId id, Sequence& s, const Verdict& verdict) {
  const Sequence before = tail_of(s);
  commit(cache_, s, verdict);
  invariants_.verdict_applied(id, before, s, verdict);
}

void Stage::apply_decided(SequenceId id, Sequence& s) {
  const Sequence before = tail_of(s);
  commit_decided(cache_, s);
  invariants_.verdict_applied(id, before, s, std::nullopt);
}

// Takes those rows of trees out of the frame that can no longer be right.
void Stage::prune(Frame& frame) {
  if (frame.links.empty()) return;
  const std::size_t row_bytes = frame.residual.size() / frame.tokens.size();
  std::vector<TreeLink> links;
  std::size_t row = 0, kept = 0, link = 0;
  for (FrameRun& run : frame.runs) {
    const bool tree = (run.flags & FrameRun::tree) != 0;
    const auto n = static_cast<std::size_t>(run.rows);
    std::vector<NodeId> live;  // in this run, because rows may descend from rows before them
    for (std::size_t i = 0; i < n; ++i, ++row) {
      if (tree) {
        const TreeLink& l = frame.links[link++];
        const bool keep = std::find(live.begin(), live.end(), l.parent) != live.end() ||
                          is_live(sequence(run.sequence), l.node, l.parent);
        invariants_.row_pruned(run.sequence, sequence(run.sequence), l, live, keep);
        if (!keep) continue;
        live.push_back(l.node);
        links.push_back(l);
      }
      if (kept != row) {
        frame.tokens[kept] = frame.tokens[row];
        std::memmove(frame.residual.data() + kept * row_bytes, frame.residual.data() + row * row_bytes, row_bytes);
      }
      ++kept;
    }
    if (tree) run.rows = static_cast<std::int32_t>(live.size());
  }
  frame.tokens.resize(kept);
  frame.residual.resize(kept * row_bytes);
  frame.links = std::move(links);
}

// Whether the verdicts that came while the frame is computed leave none of its rows live. They are applied only when
// the frame is done.
bool Stage::is_stale(const Frame& frame) {
  if (verdicts_.empty()) return false;
  std::size_t link = 0;
  for (const FrameRun& run : frame.runs) {
    if ((run.flags & FrameRun::tree) == 0) return false;
    const Sequence& s = sequence(run.sequence);
    const auto newest = std::find_if(verdicts_.rbegin(), verdicts_.rend(),
                                     [&](const auto& v) { return v.first == run.sequence && v.second.node > s.tip; });
    for (std::int32_t i = 0; i < run.rows; ++i, ++link) {
      if (newest == verdicts_.rend() || descends(s, frame.links[link].node, newest->second.node)) return false;
    }
  }
  return true;
}

// The layers of this stage over the rows in residual_. false: the frame was given up, which a group never does, since
// its boards would have to agree on where.
bool Stage::compute_layers(const Frame& frame, const std::vector<RowRun>& runs, MatrixView<float> x,
                           const std::function<void()>& on_layer_done) {
  const auto computing = invariants_.layers_begin();
  if (lanes_ && LanePass::suits(runs, x.rows)) {
    lanes_->run(context(), files_.layers(), runs, x);
    invariants_.frame_computed(frame);
    return true;
  }
  for (std::size_t i = 0; i < files_.layers().size(); ++i) {
    forward_block(context(), files_.layers()[i], static_cast<std::int64_t>(i), runs, x);
    if (!on_layer_done) continue;
    on_layer_done();
    if (channels_ != nullptr) continue;
    if (std::exchange(given_up_, false)) return false;
    if (is_stale(frame)) {
      invariants_.frame_given_up(frame);
      return false;
    }
  }
  invariants_.frame_computed(frame);
  return true;
}

// What the leader computes now: rows that are left, whose verdicts the others have already.
void Stage::tell_followers(const Frame& frame) {
  Frame told = frame;
  for (FrameRun& run : told.runs) run.verdict = {};
  told.cost.stage_s.clear();
  channels_->command(encode(told, 0));
}

FrameResult Stage::forward(Frame& frame, const std::function<void()>& on_layer_done) {
  const auto start = std::chrono::steady_clock::now();
  const auto elapsed = [&] { return seconds_since(start); };
  const std::size_t frame_runs = frame.runs.size();
  invariants_.frame_came(frame);
  for (const FrameRun& run : frame.runs) {
    if (run.verdict.node != 0) queue_verdict(run.sequence, run.verdict);
  }
  apply_verdicts();
  prune(frame);
  if (channels_ != nullptr && leads()) tell_followers(frame);
  const std::vector<RowRun> runs = place(frame);
  residual_rows_ = frame.rows();
  const MatrixView<float> x(residual_.data(), frame.rows(), config_.dim);
  bool alive = !runs.empty();
  if (alive && part().embedding) {
    embed(context(), files_.embedding(), frame.tokens, x);
  } else if (alive) {
    from_wire(rt_, options_.wire, config_.residual, frame.residual.data(), x);
  }
  alive = alive && compute_layers(frame, runs, x, on_layer_done);
  if (alive) {
    for (const FrameRun& run : frame.runs) apply_decided(run.sequence, sequence(run.sequence));
  } else {
    drop_rows(frame);
  }
  FrameResult result;
  if (decides()) {
    result = decoder_.decode(frame, elapsed(), [&](std::span<const std::int64_t> rows, const OutputHeadNeed& need) {
      return pass_output_head(x, rows, need);
    });
    for (const SequenceResult& r : result.sequences) {
      if (r.verdict.node != 0) queue_verdict(r.sequence, r.verdict);
    }
  } else if (alive && leads()) {
    frame.residual.resize(x.rows * wire_row_bytes(options_.wire, config_));
    to_wire(rt_, options_.wire, config_.residual, x, frame.residual.data());
  }
  add_cost(frame, elapsed());
  if (decides()) decoder_.observe(frame);
  result.cost = frame.cost;
  invariants_.frame_done(frame, frame_runs, decides() ? std::optional(result.sequences.size()) : std::nullopt);
  return result;
}

// A part of a large model is enough, and quick: a server that starts again keeps its users waiting. How much is
// measured follows from the model alone, because the boards of a tensor group must do it together.
void Stage::learn_widths() {
  constexpr SequenceId probe = 0;
  constexpr std::int64_t enough_weights = 200'000'000;  // no cache holds them, so they come from memory as in a run
  const ModelConfig& c = config_;
  const std::int64_t layer_weights = c.layer_multiplies();
  const std::int64_t layers = std::min(std::ssize(files_.layers()), enough_weights / layer_weights + 1);
  const int repeats = layers * layer_weights < enough_weights ? 4 : 2;  // the first one warms up
  std::vector<double> seconds;
  sequences_[probe] = {};
  for (const std::int64_t rows : StepCost::kShape) {
    double best = std::numeric_limits<double>::infinity();
    for (int i = 0; i < repeats; ++i) {
      const MatrixView<float> x(residual_.data(), rows, c.dim);
      for (std::int64_t n = 0; n < rows * c.dim; ++n) {  // different in every row: rows then use different experts
        residual_[n] = static_cast<float>(n * 2654435761 >> 8 & 1023) / 512.0f - 1.0f;
      }
      Frame f;
      f.runs.push_back(FrameRun::consecutive(probe, 0, rows));
      const std::vector<RowRun> runs = place(f);
      const auto start = std::chrono::steady_clock::now();
      for (std::int64_t l = 0; l < layers; ++l) {
        forward_block(context(), files_.layers()[static_cast<std::size_t>(l)], l, runs, x);
      }
      best = std::min(best, seconds_since(start));
    }
    seconds.push_back(best * static_cast<double>(files_.layers().size()) / static_cast<double>(layers));
  }
  cache_.truncate(sequences_[probe], 0);
  sequences_.erase(probe);
  decoder_.set_shape(seconds);
}

void Stage::add_cost(Frame& frame, double seconds) {
  compute_s_ += seconds;
  frame.cost.stage_s.push_back(seconds);
}

// Logits of whole rows that sampling needs are too much for a slow link: a last stage whose head others share computes
// them alone, since it has the whole head mapped for its drafters.
OutputHeadRows Stage::pass_output_head(MatrixView<const float> x, std::span<const std::int64_t> rows,
                                       const OutputHeadNeed& need) {
  if (!need.logits) return {{}, final_norm(context(), files_.output_head(), x, rows)};
  const MatrixView<float> logits(logits_.data(), std::ssize(rows), config_.vocab_size);
  if (channels_ == nullptr && (shared_head_ == nullptr || need.candidates == 0)) {
    const OutputHeadWeights all{files_.output_head().norm, files_.whole_output()};
    return {logits, forward_output_head(context(), all, x, rows, logits)};
  }
  ask_for_logits(x, rows, need.candidates);
  const IndexRange mine = part().rows(config_).vocabulary;
  const auto hidden =
      forward_output_head(context(), files_.output_head(), x, rows, logits.columns(mine.first, mine.size()));
  return {logits, hidden, take_logits(need.candidates, logits)};
}

void Stage::ask_for_logits(MatrixView<const float> x, std::span<const std::int64_t> rows, std::int64_t candidates) {
  if (channels_ != nullptr) return channels_->command(encode_head_rows({{rows.begin(), rows.end()}, candidates}));
  const std::int64_t row_bytes = wire_row_bytes(Wire::exact, config_);
  HeadStates asked{std::ssize(rows), candidates, std::vector<std::byte>(rows.size() * row_bytes)};
  for (std::size_t i = 0; i < rows.size(); ++i) {
    to_wire(rt_, Wire::exact, config_.residual, {x.row(rows[i]), 1, x.cols}, asked.residual.data() + i * row_bytes);
  }
  shared_head_->ask(encode_head_states(asked));
}

// The digests of whole rows, of which this board's part is there already.
std::vector<std::uint64_t> Stage::take_logits(std::int64_t candidates, MatrixView<float> logits) {
  const IndexRange mine = part().rows(config_).vocabulary;
  std::vector<std::uint64_t> digests;
  for (std::int64_t i = 0; i < logits.rows; ++i) {
    digests.push_back(row_digest({logits.row(i) + mine.first, static_cast<std::size_t>(mine.size())}, mine.first));
  }
  const std::vector<Message> answers =
      channels_ != nullptr ? channels_->answers(MessageKind::head_logits) : shared_head_->answers();
  for (std::size_t b = 0; b < answers.size(); ++b) {
    const IndexRange theirs =
        channels_ != nullptr ? group_.slices[b + 1].vocabulary : shared_head_->helpers()[b].vocabulary;
    take_head_logits(answers[b], theirs.first, theirs.last, candidates, logits, digests);
  }
  return digests;
}

Message Stage::head_logits(const Message& message) {
  const HeadRows asked = decode_head_rows(message, residual_rows_);
  const MatrixView<float> x(residual_.data(), residual_rows_, config_.dim);
  return my_logits(x, asked.rows, asked.candidates);
}

Message Stage::helped_logits(const Message& message) {
  const HeadStates asked = decode_head_states(message, wire_row_bytes(Wire::exact, config_));
  const MatrixView<float> x(helped_rows_.data(), asked.rows, config_.dim);
  from_wire(rt_, Wire::exact, config_.residual, asked.residual.data(), x);
  std::vector<std::int64_t> rows(static_cast<std::size_t>(asked.rows));
  std::iota(rows.begin(), rows.end(), 0);
  return my_logits(x, rows, asked.candidates);
}

Message Stage::my_logits(MatrixView<const float> x, std::span<const std::int64_t> rows, std::int64_t candidates) {
  const IndexRange mine = part().rows(config_).vocabulary;
  const MatrixView<float> logits(logits_.data(), std::ssize(rows), mine.size());
  forward_output_head(context(), files_.output_head(), x, rows, logits);
  return encode_head_logits(logits, mine.first, candidates);
}

}  // namespace jupiter

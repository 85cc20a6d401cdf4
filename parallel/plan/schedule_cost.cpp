// The flow-shop recurrence and the chunk planner on it.
#include "parallel/plan/schedule_cost.hpp"

#include <algorithm>
#include <limits>

#include "parallel/plan/stage_memory.hpp"

namespace jupiter {

double GroupCost::layer_s(std::int64_t n, std::int64_t context) const {
  double slowest = 0;
  for (const Member& m : members) {
    const double share = m.share + (1 - m.share) * repeated;
    slowest = std::max(slowest, m.board->slice_s(share, n, context));
  }
  return slowest + gathers * gather.latency_s + static_cast<double>(n) * row_bytes * gather.byte_s;
}

namespace {

constexpr double kAnswerBytes = 100;  // bytes of the last stage's answer, and of a frame besides its rows

// Of up to kMaxDrawnRows rows. The boards of a group answer their leader, as in two gathers; stages that share the head
// get the rows and send their best logits back.
double output_head_s(const StageCost& c, std::int64_t rows) {
  const double whole = c.board->output_head.at(rows);
  if (c.group) return whole * c.group->members.front().share + 2 * c.group->gather.latency_s;
  double mine = 1, slowest = 0;
  for (const StageCost::HeadHelper& h : c.head_helpers) {
    mine -= h.share;
    slowest = std::max(slowest, h.hop.seconds(static_cast<double>(rows) * c.row_bytes + kAnswerBytes) +
                                    h.share * h.board->output_head.at(rows) + c.hop.seconds(kAnswerBytes));
  }
  return std::max(mine * whole, slowest);
}

}  // namespace

double StageCost::compute_s(std::int64_t n, std::int64_t context, std::int64_t head_rows) const {
  double s = static_cast<double>(layers) * (group ? group->layer_s(n, context) : board->layer.at(n, context));
  if (group) s += group->gather.latency_s;  // the leader's command
  if (embedding) s += board->embedding.at(n);
  if (output_head && head_rows > 0) {
    const std::int64_t full = (head_rows - 1) / kMaxDrawnRows, last = head_rows - full * kMaxDrawnRows;
    s += output_head_s(*this, last) + static_cast<double>(full) * output_head_s(*this, kMaxDrawnRows);
    if (scores) s += static_cast<double>(head_rows) * board->score_s;
  }
  return s;
}

double StageCost::help_s(std::int64_t head_rows) const {
  if (head_share <= 0) return 0;
  return head_share * board->output_head.at(head_rows) +
         board->receive.at(kAnswerBytes + static_cast<double>(head_rows) * row_bytes) + board->send.at(kAnswerBytes);
}

double StageCost::receive_s(std::int64_t n) const {
  if (embedding && output_head) return 0;
  return board->receive.at(kAnswerBytes + (embedding ? 0 : static_cast<double>(n) * row_bytes));
}

double StageCost::send_s(std::int64_t n) const {
  if (embedding && output_head) return 0;
  return board->send.at(kAnswerBytes + (output_head ? 0 : static_cast<double>(n) * row_bytes));
}

double StageCost::decode_s(std::int64_t context, std::int64_t rows) const {
  return compute_s(rows, context, rows) + (embedding && output_head ? 0 : board->wake_s);
}

double StageCost::arrive_s(std::int64_t n) const {
  return hop.seconds(static_cast<double>(n) * row_bytes + kAnswerBytes);
}

namespace {

// What one chunk costs a stage, whatever happened before it.
struct ChunkCost {
  double receive_s, arrive_s, compute_s, send_s;
};

void cost_chunk(std::span<const StageCost> stages, std::int64_t n, std::int64_t context, std::int64_t head_rows,
                std::vector<ChunkCost>& costs) {
  costs.clear();
  for (const StageCost& s : stages) {
    costs.push_back({s.receive_s(n), s.arrive_s(n), s.compute_s(n, context, head_rows), s.send_s(n)});
  }
}

// C(i, r) = max(C(i-1, r) + send_s + receive_s, C(i, r-1) + arrive_s) + t_r. A busy_until_s of 0 means that the stage
// has not worked yet, so its first message costs it nothing more.
void pass(std::span<const ChunkCost> chunk, std::span<StageTimes> times) {
  for (std::size_t r = 0; r < chunk.size(); ++r) {
    StageTimes& t = times[r];
    const double busy = t.busy_until_s > 0 ? t.busy_until_s + chunk[r].receive_s : 0;
    t.start_s = std::max(busy, r > 0 ? times[r - 1].done_s + chunk[r].arrive_s : 0);
    t.done_s = t.start_s + chunk[r].compute_s;
    t.busy_until_s = t.done_s + chunk[r].send_s;
  }
}

}  // namespace

void pass_chunk(std::span<const StageCost> stages, std::int64_t n, std::int64_t context, std::int64_t head_rows,
                std::span<StageTimes> times) {
  std::vector<ChunkCost> costs;
  cost_chunk(stages, n, context, head_rows, costs);
  pass(costs, times);
}

namespace {

using Finish = std::vector<StageTimes>;  // times of the newest chunk, by stage

// Whether every stage is free at least as early with `a` as with `b`.
bool dominates(const Finish& a, const Finish& b) {
  for (std::size_t r = 0; r < a.size(); ++r) {
    if (a[r].busy_until_s > b[r].busy_until_s) return false;
  }
  return true;
}

// The best known way to cut the prompt up to a boundary, one of several.
struct Label {
  Finish finish;
  std::size_t from_boundary;
  std::size_t from_label;
};

double end(const Label& l) {
  return l.finish.back().busy_until_s;
}

// Keeps the labels that no other one dominates, and of these the `beam` that end first.
void insert(std::vector<Label>& labels, const Finish& finish, std::size_t from_boundary, std::size_t from_label,
            std::size_t beam) {
  for (const Label& l : labels) {
    if (dominates(l.finish, finish)) return;
  }
  std::erase_if(labels, [&](const Label& l) { return dominates(finish, l.finish); });
  labels.push_back({finish, from_boundary, from_label});
  if (labels.size() <= beam) return;
  const auto worst =
      std::max_element(labels.begin(), labels.end(), [](const Label& a, const Label& b) { return end(a) < end(b); });
  labels.erase(worst);
}

std::int64_t default_grain(std::int64_t prompt_tokens) {
  std::int64_t grain = 1;
  while (prompt_tokens / grain > 64) grain *= 2;
  return grain;
}

}  // namespace

double prefill_s(std::span<const StageCost> stages, std::span<const std::int64_t> chunks, bool every_row) {
  Finish times(stages.size());
  std::int64_t context = 0;
  for (std::size_t i = 0; i < chunks.size(); ++i) {
    const std::int64_t head_rows = every_row ? chunks[i] : i + 1 == chunks.size() ? 1 : 0;
    pass_chunk(stages, chunks[i], context, head_rows, times);
    context += chunks[i];
  }
  return times.back().done_s + (stages.size() > 1 ? stages[0].hop.latency_s : 0.0);
}

double decode_step_s(std::span<const StageCost> stages, std::int64_t context) {
  double s = 0;
  for (std::size_t r = 0; r < stages.size(); ++r) {
    s += stages[r].decode_s(context);
    if (r > 0) s += stages[r].arrive_s(1);
  }
  return s + (stages.size() > 1 ? stages[0].hop.latency_s : 0.0);
}

std::vector<std::int64_t> best_chunks(std::span<const StageCost> stages, std::int64_t prompt_tokens,
                                      std::int64_t max_chunk, bool every_row, std::int64_t grain, std::size_t beam) {
  if (grain <= 0) grain = default_grain(prompt_tokens);
  std::vector<std::int64_t> boundaries;
  for (std::int64_t b = 0; b < prompt_tokens; b += grain) boundaries.push_back(b);
  boundaries.push_back(prompt_tokens);

  // A label refers to the label that it came from by index, so the list of a boundary must not change after it was
  // read. It does not, because boundaries are visited in ascending order and every step leads to a later one.
  std::vector<std::vector<Label>> labels(boundaries.size());
  labels[0].push_back({Finish(stages.size()), 0, 0});
  std::vector<ChunkCost> costs;
  Finish times;
  for (std::size_t a = 0; a + 1 < boundaries.size(); ++a) {
    for (std::size_t b = a + 1; b < boundaries.size(); ++b) {
      const std::int64_t n = boundaries[b] - boundaries[a];
      if (n > max_chunk) break;
      const std::int64_t head_rows = every_row ? n : b + 1 == boundaries.size() ? 1 : 0;
      cost_chunk(stages, n, boundaries[a], head_rows, costs);
      for (std::size_t l = 0; l < labels[a].size(); ++l) {
        times = labels[a][l].finish;
        pass(costs, times);
        insert(labels[b], times, a, l, beam);
      }
    }
  }
  const auto& last = labels.back();
  const auto best =
      std::min_element(last.begin(), last.end(), [](const Label& x, const Label& y) { return end(x) < end(y); });
  std::vector<std::int64_t> chunks;
  const Label* at = &*best;
  for (std::size_t b = boundaries.size() - 1; b != 0;) {
    chunks.push_back(boundaries[b] - boundaries[at->from_boundary]);
    b = at->from_boundary;
    at = &labels[b][at->from_label];
  }
  std::reverse(chunks.begin(), chunks.end());
  return chunks;
}

}  // namespace jupiter

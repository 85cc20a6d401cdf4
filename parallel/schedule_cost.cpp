// The flow-shop recurrence and the chunk planner on it.
#include "parallel/schedule_cost.hpp"

#include <algorithm>
#include <limits>

namespace jupiter {

double StageCost::compute_s(std::int64_t n, std::int64_t context, std::int64_t head_rows) const {
  double s = static_cast<double>(layers) * board->layer.at(n, context);
  if (embedding) s += board->embedding.at(n);
  if (head) s += board->head.at(head_rows);
  return s;
}

namespace {

using Finish = std::vector<double>;  // of the last chunk, by stage

// Finish times after one more chunk of n rows.
void advance(std::span<const StageCost> stages, const Finish& before, std::int64_t n, std::int64_t context,
             std::int64_t head_rows, Finish& after) {
  double ready = 0;
  for (std::size_t r = 0; r < stages.size(); ++r) {
    if (r > 0) ready = after[r - 1] + stages[r].arrive_s(n);
    after[r] = std::max(before[r], ready) + stages[r].compute_s(n, context, head_rows);
  }
}

bool dominates(const Finish& a, const Finish& b) {
  for (std::size_t r = 0; r < a.size(); ++r) {
    if (a[r] > b[r]) return false;
  }
  return true;
}

struct Label {
  Finish finish;
  std::size_t from_boundary;
  std::size_t from_label;
};

// Keeps labels that no other beats at every stage, at most `beam` of them, those that end first.
void insert(std::vector<Label>& labels, Label&& fresh, std::size_t beam) {
  for (const Label& l : labels) {
    if (dominates(l.finish, fresh.finish)) return;
  }
  std::erase_if(labels, [&](const Label& l) { return dominates(fresh.finish, l.finish); });
  labels.push_back(std::move(fresh));
  if (labels.size() <= beam) return;
  const auto worst = std::max_element(labels.begin(), labels.end(),
                                      [](const Label& a, const Label& b) { return a.finish.back() < b.finish.back(); });
  labels.erase(worst);
}

std::int64_t default_grain(std::int64_t prompt_tokens) {
  std::int64_t grain = 1;
  while (prompt_tokens / grain > 64) grain *= 2;
  return grain;
}

}  // namespace

double prefill_s(std::span<const StageCost> stages, std::span<const std::int64_t> chunks, bool every_row) {
  Finish finish(stages.size(), 0.0), next(stages.size());
  std::int64_t context = 0;
  for (std::size_t i = 0; i < chunks.size(); ++i) {
    const std::int64_t head_rows = every_row ? chunks[i] : i + 1 == chunks.size() ? 1 : 0;
    advance(stages, finish, chunks[i], context, head_rows, next);
    finish.swap(next);
    context += chunks[i];
  }
  return finish.back() + (stages.size() > 1 ? stages[0].hop.latency_s : 0.0);
}

double decode_step_s(std::span<const StageCost> stages, std::int64_t context) {
  double s = 0;
  for (std::size_t r = 0; r < stages.size(); ++r) {
    s += stages[r].compute_s(1, context, 1);
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

  // Labels hold where they came from, so lists of finished boundaries must not change any more: boundaries are left in
  // ascending order, and every step goes forward.
  std::vector<std::vector<Label>> labels(boundaries.size());
  labels[0].push_back({Finish(stages.size(), 0.0), 0, 0});
  Finish next(stages.size());
  for (std::size_t a = 0; a + 1 < boundaries.size(); ++a) {
    for (std::size_t b = a + 1; b < boundaries.size(); ++b) {
      const std::int64_t n = boundaries[b] - boundaries[a];
      if (n > max_chunk) break;
      const std::int64_t head_rows = every_row ? n : b + 1 == boundaries.size() ? 1 : 0;
      for (std::size_t l = 0; l < labels[a].size(); ++l) {
        advance(stages, labels[a][l].finish, n, boundaries[a], head_rows, next);
        insert(labels[b], {next, a, l}, beam);
      }
    }
  }
  const auto& last = labels.back();
  const auto best = std::min_element(last.begin(), last.end(),
                                     [](const Label& x, const Label& y) { return x.finish.back() < y.finish.back(); });
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

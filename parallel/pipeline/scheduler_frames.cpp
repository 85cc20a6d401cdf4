// One frame at a time: what is ready, in groups that leave work for every stage.
#include <algorithm>

#include "parallel/pipeline/scheduler.hpp"

namespace jupiter {

namespace {

constexpr std::int64_t kRowsBesideDecoding = 32;  // of prompts, in a frame in which others decode

}  // namespace

// The prompt's own rows, then those of tokens that the answer had before: no frame holds both.
void Scheduler::set_chunks(Active& a) const {
  const auto add = [&](std::int64_t rows) {
    if (rows == 0) return;
    const auto lengths = options_.chunks(rows);
    a.chunks.insert(a.chunks.end(), lengths.begin(), lengths.end());
  };
  const auto tokens = std::ssize(a.prompt);
  if (a.job->out.tokens.empty()) return add(tokens - a.sent);
  add(a.first_digest_row() - a.sent);
  add(tokens - a.first_digest_row());
}

void Scheduler::add_segment(Frame& f, Active& a) {
  const Segment s = a.segments.pop(invariants_);
  f.runs.push_back(tree_run(a.sequence, s, a.segments.verdict()));
  f.tokens.insert(f.tokens.end(), s.tokens.begin(), s.tokens.end());
  f.links.insert(f.links.end(), s.links.begin(), s.links.end());
}

// Rows of sequences that decode: a group's share of them, those that waited longest first.
std::int64_t Scheduler::add_decodes(Frame& f) {
  if (decodes_in_flight_ >= 2 * stages_ + 1) return 0;
  const auto decoding = std::count_if(active_.begin(), active_.end(), [](const Active& a) { return a.decoding; });
  if (decoding > 1 && decodes_in_flight_ >= stages_) return 0;
  std::int64_t room = std::max<std::int64_t>(1, (decoding + stages_ - 1) / stages_);
  const std::int64_t max_rows = pipeline_.limits().max_rows;
  // Whoever had a turn goes to the end, where it must not get another one: a frame has one run of a sequence at most.
  Place a = active_.begin();
  for (std::size_t left = active_.size(); left > 0 && room > 0; --left) {
    const Place here = a++;
    if (!has_work(*here)) continue;
    const auto rows = here->next ? 1 : std::ssize(here->segments.front().tokens);
    if (f.rows() + rows > max_rows) break;
    if (here->next) {
      Job& job = *here->job;
      const auto position = std::ssize(job.request.prompt) + std::ssize(job.out.tokens) - 1;
      f.runs.push_back(FrameRun::consecutive(here->sequence, position, 1, FrameRun::sample));
      f.tokens.push_back(*here->next);
      here->next.reset();
      ++job.out.steps;
    } else {
      add_segment(f, *here);
    }
    --room;
    active_.splice(active_.end(), active_, here);
  }
  return f.rows();
}

void Scheduler::add_chunk(Frame& f, Active& a, std::int64_t rows) {
  const auto first = a.prompt.begin() + a.sent;
  const bool last = a.sent + rows == std::ssize(a.prompt);
  std::uint32_t flags = last ? std::uint32_t{FrameRun::sample} : 0;
  if (last && !is_plain(a.job->request)) flags |= FrameRun::draft;
  if (a.prompt.size() > a.job->request.prompt.size() && a.sent >= a.first_digest_row()) flags |= FrameRun::digest;
  f.runs.push_back(FrameRun::consecutive(a.sequence, a.sent, rows, flags));
  f.tokens.insert(f.tokens.end(), first, first + rows);
  a.sent += rows;
  a.decoding = last;
}

// Chunks of prompts, of several requests where they are short.
void Scheduler::add_prompts(Frame& f, std::int64_t decoding_rows) {
  const bool others = decodes_in_flight_ > 0 || decoding_rows > 0;
  const std::int64_t max_rows = pipeline_.limits().max_rows;
  std::int64_t longest = others ? kRowsBesideDecoding : max_rows;
  for (Active& a : active_) {
    if (a.chunks.empty()) continue;
    const std::int64_t room = std::min(longest, max_rows - f.rows());
    if (room < 1) return;
    const std::int64_t rows = std::min(a.chunks.front(), room);
    // The first chunk sets the length of the frame; a prompt is not cut to fill it up.
    if (rows < a.chunks.front() && !f.tokens.empty() && !others) return;
    if (!others && f.tokens.empty()) longest = std::max<std::int64_t>(rows, kRowsBesideDecoding);
    a.chunks.front() -= rows;
    if (a.chunks.front() == 0) a.chunks.pop_front();
    add_chunk(f, a, rows);
    longest -= rows;
  }
}

std::optional<Frame> Scheduler::next_frame() {
  secure_next_rows();
  Frame f;
  const std::int64_t decoding_rows = add_decodes(f);
  const bool full = decodes_in_flight_ > 0 && pipeline_.in_flight() > stages_;
  if (!full) add_prompts(f, decoding_rows);
  if (f.tokens.empty()) return std::nullopt;
  decode_frames_.push_back(decoding_rows > 0);
  if (decoding_rows > 0) ++decodes_in_flight_;
  return f;
}

}  // namespace jupiter

// Bookkeeping of one tree. Everything about costs is decided in best_width() and segments_in_flight().
#include "parallel/pipeline/speculation.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <queue>

#include "io/enum_names.hpp"
#include "io/timer.hpp"

namespace jupiter {

namespace {

constexpr std::size_t kChildren = 8;  // most children of a node
constexpr std::size_t kMaxTree = 48;  // most nodes that are grown at a time
// Most nodes that are grown where all stages are busy anyway, because drafting delays every sequence then.
constexpr std::size_t kMostBusy = 6;
constexpr double kLeastJoint = 0.004;  // a node that is less likely than this is not worth its bytes
// With so many sequences for each stage nothing is drafted: 16 sequences on 4 boards lost 20 % with drafts.
constexpr int kCrowd = 2;
constexpr double kLeastSegment = 0.05;  // a segment of fewer expected tokens is not sent behind another one

// Whether there is a sequence for every stage to work on.
bool is_full(const StepCost& cost, const PipelineLoad& load) {
  return load.sequences > 1 && load.sequences >= cost.stages();
}

}  // namespace

struct Speculation::Growth {
  std::vector<Candidate> expanded;  // [0] is the root
  std::vector<std::pair<double, Candidate>> heap;
  std::vector<TokenId> context;

  static bool less(const std::pair<double, Candidate>& a, const std::pair<double, Candidate>& b) {
    return a.first != b.first ? a.first < b.first : a.second.depth > b.second.depth;
  }
  void push(const Candidate& c) {
    heap.emplace_back(c.joint, c);
    std::push_heap(heap.begin(), heap.end(), less);
  }
  Candidate pop() {
    std::pop_heap(heap.begin(), heap.end(), less);
    const Candidate c = heap.back().second;
    heap.pop_back();
    return c;
  }
};

DraftStats& DraftStats::operator+=(const DraftStats& other) {
  steps += other.steps;
  rows += other.rows;
  accepted += other.accepted;
  misses += other.misses;
  for (std::size_t i = 0; i < kDraftSources; ++i) {
    sent_by[i] += other.sent_by[i];
    accepted_by[i] += other.accepted_by[i];
  }
  for (std::size_t i = 0; i < kDepths; ++i) {
    reached[i] += other.reached[i];
    right[i] += other.right[i];
  }
  draft_s += other.draft_s;
  neural += other.neural;
  return *this;
}

void Speculation::read(std::span<const TokenId> prompt) {
  for (const TokenId t : prompt) {
    drafters_.observe(history_, t);
    history_.push_back(t);
  }
  drafters_.prefetch(history_);
}

void Speculation::arrive(const FrameRun& run, std::span<const TreeLink> links) {
  if (run.epoch == epoch_ && outstanding_ > 0) --outstanding_;
  invariants_.segment_came_back(run.epoch);
  invariants_.outstanding_is(outstanding_);
  arrived_.assign(links.begin(), links.end());
  if (!links.empty()) {
    ++stats_.steps;
    stats_.rows += std::ssize(links);
  }
}

std::optional<std::size_t> Speculation::next_row() const {
  if (ended_) return std::nullopt;
  for (std::size_t i = 0; i < arrived_.size(); ++i) {
    if (arrived_[i].node == verdict_.node) return i;
  }
  return std::nullopt;
}

std::vector<std::size_t> Speculation::next_rows(std::size_t limit, double least_probability) const {
  const auto first = next_row();
  if (!first) return {};
  std::vector<std::size_t> rows = {*first};
  std::vector<std::pair<NodeId, double>> likely = {{verdict_.node, 1.0}};
  for (std::size_t i = 0; i < arrived_.size() && rows.size() < std::min<std::size_t>(limit, 8); ++i) {
    const auto parent =
        std::find_if(likely.begin(), likely.end(), [&](const auto& l) { return l.first == arrived_[i].parent; });
    if (parent == likely.end()) continue;
    const auto node =
        std::find_if(nodes_.begin(), nodes_.end(), [&](const Node& n) { return n.link.node == arrived_[i].node; });
    if (node == nodes_.end()) continue;
    const double p = parent->second * node->probability;
    if (p < least_probability) continue;
    likely.emplace_back(arrived_[i].node, p);
    rows.push_back(i);
  }
  return rows;
}

const Speculation::Node* Speculation::child(TokenId token) const {
  const auto it = std::find_if(nodes_.begin(), nodes_.end(),
                               [&](const Node& n) { return n.link.parent == verdict_.node && n.token == token; });
  return it == nodes_.end() ? nullptr : &*it;
}

std::optional<TokenId> Speculation::plausible_child(const std::function<bool(TokenId)>& accepted) const {
  for (const Node& n : nodes_) {
    if (n.link.parent == verdict_.node && accepted(n.token)) return n.token;
  }
  return std::nullopt;
}

void Speculation::descend_to(NodeId id) {
  verdict_ = {id, verdict_.node};
  std::vector<Node> kept;
  std::vector<NodeId> alive = {id};
  for (const Node& n : nodes_) {
    if (std::find(alive.begin(), alive.end(), n.link.parent) == alive.end()) continue;
    alive.push_back(n.link.node);
    kept.push_back(n);
  }
  nodes_ = std::move(kept);
}

void Speculation::accept(TokenId token, bool last) {
  const Node* hit = child(token);
  const bool is_hit = hit != nullptr;
  const std::size_t depth = std::min(depth_, DraftStats::kDepths - 1);
  if (verdict_.node != 0) ++stats_.reached[depth];
  if (is_hit) {
    ++stats_.accepted;
    ++stats_.accepted_by[index_of(hit->source)];
    ++stats_.right[depth];
    ++depth_;
    descend_to(hit->link.node);
  } else {
    if (verdict_.node != 0) ++stats_.misses;
    verdict_ = {next_id_++, verdict_.node};
    nodes_.clear();
    root_sent_ = false;
    ++epoch_;
    outstanding_ = 0;
    depth_ = 0;
  }
  drafters_.observe(history_, token);
  history_.push_back(token);
  fresh_.push_back(token);
  ended_ = last;
  invariants_.token_decided(is_hit, verdict_.node, epoch_, std::ssize(history_), last);
}

void Speculation::expand(Growth& g, std::int32_t index) {
  const Candidate from = g.expanded[index];
  // The position of a child.
  const auto position = std::ssize(history_) + from.depth;
  if (position >= options_.end_position) return;
  g.context.resize(history_.size());
  std::vector<TokenId> path;
  for (std::int32_t i = index; i > 0; i = g.expanded[i].up) {
    path.push_back(g.expanded[i].node.token);
  }
  g.context.insert(g.context.end(), path.rbegin(), path.rend());
  const auto add = [&](const Node& node, bool sent) {
    const double joint = from.joint * node.probability;
    const Constraint::State state = constraint_ != nullptr ? constraint_->after(from.state, node.token) : 0;
    if (joint >= kLeastJoint) g.push({node, joint, sent, index, from.depth + 1, state});
  };
  std::vector<TokenId> known;
  if (from.sent) {
    for (const Node& n : nodes_) {
      if (n.link.parent != from.node.link.node) continue;
      known.push_back(n.token);
      add(n, true);
    }
  }
  std::vector<Proposal> proposals = drafters_.propose(g.context, kChildren, {from.joint, token_s_});
  if (constraint_ != nullptr) constraint_->filter(from.state, kChildren, proposals);
  for (const Proposal& p : proposals) {
    if (std::find(known.begin(), known.end(), p.token) != known.end()) continue;
    add({{0, from.node.link.node}, p.token, p.probability, p.source}, false);
  }
}

// The `count` most likely nodes that are not sent yet, parents before children. Their `up` is an index into the result,
// or -1 where the parent was sent before.
std::vector<Speculation::Candidate> Speculation::grow(std::size_t count) {
  Growth g;
  g.context = history_;
  Candidate root;
  root.node.link = {verdict_.node, verdict_.parent};
  root.sent = true;
  if (constraint_ != nullptr) root.state = constraint_->follow(history_);
  g.expanded.push_back(root);
  std::vector<Candidate> chosen;
  std::vector<std::int32_t> place = {-1};  // index of each expanded node among the chosen ones
  expand(g, 0);
  while (!g.heap.empty() && chosen.size() < count) {
    const Candidate c = g.pop();
    g.expanded.push_back(c);
    place.push_back(-1);
    if (!c.sent) {
      place.back() = static_cast<std::int32_t>(chosen.size());
      chosen.push_back(c);
      chosen.back().up = place[c.up];
    }
    expand(g, static_cast<std::int32_t>(g.expanded.size()) - 1);
  }
  return chosen;
}

// The number of rows of a segment that promises most tokens a second,
//   rate(width) = (1 + sum of the nodes' joint probabilities) / (lap_s(rows) + sum over later segments of
//                 P(the accepted path reaches the segment) * slot_s(its rows)),
// which is the expected number of tokens until the next miss over the expected time until then. Where every stage has a
// sequence to work on, a row costs only what it adds to a slot, so slot_s(rows) stands in the place of lap_s(rows). All
// sequences of a frame choose in the same way. So each counts the rows of the others as if they had its own width;
// otherwise all would take too many. parallel/DESIGN.md, decision 9, says what is gained by several segments at once.
std::size_t Speculation::best_width(const std::vector<Candidate>& nodes, const StepCost& cost, const PipelineLoad& load,
                                    std::size_t in_flight) const {
  const auto most = static_cast<std::size_t>(options_.draft_max) + 1;
  if (options_.fixed_width > 0) return std::min(static_cast<std::size_t>(options_.fixed_width), most);
  std::size_t best = 1;
  double best_rate = 0;
  for (std::size_t width = 1; width <= std::min(most, nodes.size() + 1); ++width) {
    const std::int64_t rows = static_cast<std::int64_t>(width) * (1 + load.others_in_frame) + load.prompt_rows;
    double tokens = 1;
    double seconds = is_full(cost, load) ? cost.slot_s(rows) : cost.lap_s(rows);
    std::size_t at = 0;
    for (std::size_t segment = 0; at < nodes.size() && (in_flight > 1 || segment == 0); ++segment) {
      const std::size_t end = std::min(nodes.size(), at + width - (segment == 0 ? 1 : 0));
      double reached = 0, expected = 0;
      for (std::size_t i = at; i < end; ++i) {
        expected += nodes[i].joint;
        if (nodes[i].up < static_cast<std::int32_t>(at)) reached += nodes[i].joint;
      }
      if (segment > 0 && expected < kLeastSegment) break;
      tokens += expected;
      if (segment > 0) seconds += std::min(reached, 1.0) * cost.slot_s(static_cast<std::int64_t>(end - at));
      at = end;
    }
    if (tokens / seconds > best_rate) {
      best_rate = tokens / seconds;
      best = width;
    }
  }
  return best;
}

// ids: numbers of the chosen nodes that were sent so far.
void Speculation::send(std::span<const Candidate> nodes, std::vector<NodeId>& ids, std::vector<Segment>& out) {
  Segment s;
  s.epoch = epoch_;
  if (!root_sent_) {
    s.links.push_back({verdict_.node, verdict_.parent});
    s.tokens.push_back(history_.back());
    root_sent_ = true;
  }
  for (const Candidate& c : nodes) {
    Node n = c.node;
    n.link.node = next_id_++;
    if (c.up >= 0) n.link.parent = ids[c.up];
    ids.push_back(n.link.node);
    s.links.push_back(n.link);
    s.tokens.push_back(n.token);
    nodes_.push_back(n);
    ++stats_.sent_by[index_of(n.source)];
  }
  ++outstanding_;
  out.push_back(std::move(s));
}

// How many segments may be on their way at once, lap_s(1) / slot_s(1) rounded: as many as a lap holds slots, because
// more of them would wait before the slowest stage. Sequences share them.
std::size_t Speculation::segments_in_flight(const StepCost& cost, const PipelineLoad& load) const {
  if (options_.mode != DecodeMode::continuous) return 1;
  const double slots = cost.lap_s(1) / std::max(cost.slot_s(1), 1e-9) + 0.5;
  const double most = std::clamp(slots, 1.0, static_cast<double>(cost.stages() + 1));
  return std::max<std::size_t>(1,
                               static_cast<std::size_t>(most) / static_cast<std::size_t>(std::max(1, load.sequences)));
}

SequenceResult Speculation::result(SequenceId sequence, const StepCost& cost, const PipelineLoad& load) {
  SequenceResult r{sequence, std::move(fresh_), verdict_, epoch_, {}};
  fresh_.clear();
  timed_extend(r, cost, load, false);
  return r;
}

void Speculation::timed_extend(SequenceResult& r, const StepCost& cost, const PipelineLoad& load, bool late) {
  const auto start = std::chrono::steady_clock::now();
  extend(r, cost, load, late);
  stats_.draft_s += seconds_since(start);
}

std::optional<SequenceResult> Speculation::late_result(SequenceId sequence, const StepCost& cost,
                                                       const PipelineLoad& load) {
  if (verdict_.node == 0 || ended_ || !drafters_.has_news()) return std::nullopt;
  SequenceResult r{sequence, {}, verdict_, epoch_, {}};
  timed_extend(r, cost, load, true);
  if (r.segments.empty()) return std::nullopt;
  return r;
}

// late: the root has left already, and what is found now follows it; in lap mode as the second half of the lap's tree.
void Speculation::extend(SequenceResult& r, const StepCost& cost, const PipelineLoad& load, bool late) {
  const auto root_position = std::ssize(history_) - 1;
  if (ended_ || root_position >= options_.end_position) return;
  std::size_t in_flight = segments_in_flight(cost, load);
  if (late && options_.mode == DecodeMode::lap) ++in_flight;
  if (outstanding_ >= in_flight) return;
  const double tokens =
      1 + static_cast<double>(stats_.accepted) / static_cast<double>(std::max<std::int64_t>(1, stats_.steps));
  // Where every stage is busy anyway, a token takes only its share of a slot.
  const auto width = static_cast<std::int64_t>(std::max<std::size_t>(1, width_));
  const std::int64_t rows = width * (1 + load.others_in_frame) + load.prompt_rows;
  token_s_ = is_full(cost, load) ? cost.slot_s(rows) / (tokens * static_cast<double>(1 + load.others_in_frame))
                                 : cost.lap_s(width) / tokens;
  const bool crowded = load.sequences > 1 && load.sequences >= kCrowd * cost.stages();
  const std::vector<Candidate> nodes = (drafters_.empty() && constraint_ == nullptr) || crowded
                                           ? std::vector<Candidate>{}
                                           : grow(is_full(cost, load) ? kMostBusy : kMaxTree);
  // A root that was sent alone says nothing about the best width of what is known now.
  if (!root_sent_ || late) width_ = best_width(nodes, cost, load, in_flight);
  std::vector<NodeId> ids;
  std::size_t at = 0;
  while (outstanding_ < in_flight && (at < nodes.size() || !root_sent_)) {
    const std::size_t room = std::max<std::size_t>(1, width_) - (root_sent_ ? 0 : 1);
    const std::size_t end = std::min(nodes.size(), at + room);
    double expected = 0;
    for (std::size_t i = at; i < end; ++i) expected += nodes[i].joint;
    if (root_sent_ && outstanding_ > 0 && expected < kLeastSegment) break;
    send(std::span(nodes).subspan(at, end - at), ids, r.segments);
    invariants_.segment_sent(r.segments.back(), late, cost.stages());
    at = end;
  }
}

}  // namespace jupiter

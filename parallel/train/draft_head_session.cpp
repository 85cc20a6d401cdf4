// Every rank walks through the same steps; what one of them must know of another travels with the sums.
#include "parallel/train/draft_head_session.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "io/hash.hpp"
#include "io/timer.hpp"
#include "parallel/comm/collectives.hpp"
#include "parallel/comm/message.hpp"

namespace jupiter {

namespace {

constexpr auto kSaveEvery = std::chrono::seconds(60);
constexpr std::int64_t kReports = 10;  // of one training
constexpr std::int64_t kMostTokens = std::int64_t{1} << 31;
// Numbers behind the gradient: the score, and who was interrupted.
constexpr std::size_t kScoreFloats = 2 + 2 * static_cast<std::size_t>(kDraftHeadDepths) + 2;

// A rank's stretches of a batch, with their rows.
DraftHeadBatch share(const DraftHeadBatch& all, int rank, int ranks) {
  const Slice mine = slice_of(std::ssize(all.spans), rank, ranks);
  DraftHeadBatch b;
  b.dim = all.dim;
  if (mine.first == mine.last) return b;
  b.spans.assign(all.spans.begin() + mine.first, all.spans.begin() + mine.last);
  const std::int64_t first = b.spans.front().first_row;
  const std::int64_t last = b.spans.back().first_row + b.spans.back().starts + kDraftHeadDepths;
  for (DraftHeadBatch::Span& s : b.spans) s.first_row -= first;
  b.hidden.assign(all.hidden.begin() + first * b.dim, all.hidden.begin() + last * b.dim);
  b.embedded.assign(all.embedded.begin() + first * b.dim, all.embedded.begin() + last * b.dim);
  b.decided.assign(all.decided.begin() + first, all.decided.begin() + last);
  return b;
}

// What came from another rank, before it is used as an index or a size.
void expect_count(const char* what, std::int64_t expected, std::int64_t found) {
  if (found == expected) return;
  throw PeerError(fmt::format("training of a head: {}: expected {}, found {}", what, expected, found));
}

void check_answers(const TrainingAnswers& answers, std::int64_t vocab_size) {
  for (const TokenId t : answers.tokens) {
    if (t >= 0 && t < vocab_size) continue;
    throw PeerError(fmt::format("training of a head: expected tokens below {}, found {}", vocab_size, t));
  }
  check_windows(answers.windows, std::ssize(answers.tokens));
}

}  // namespace

DraftHeadSession::DraftHeadSession(const MpiSession& mpi, const Runtime& rt, const ModelConfig& config,
                                   TrainingAnswers&& answers, const DraftHeadSources& sources,
                                   const DraftHeadSessionOptions& options)
    : mpi_(mpi), rt_(rt), config_(config), sources_(sources), options_(options), shape_{config.dim, options.units} {
  share_answers(std::move(answers));
  vocabulary_ = draft_vocabulary(answers_, options.vocabulary, config.vocab_size);
  index_.assign(config.vocab_size, -1);
  for (std::size_t i = 0; i < vocabulary_.size(); ++i) {
    index_[vocabulary_[i]] = static_cast<std::int32_t>(i);
  }
  schedule_.emplace(answers_, options.batch, options.seed);
  steps_ = static_cast<std::int64_t>(std::ceil(options.epochs * static_cast<double>(schedule_->steps_of_epoch())));
  share_output();
  share_state();
}

void DraftHeadSession::share_answers(TrainingAnswers&& answers) {
  std::vector<std::byte> bytes;
  if (mpi_.rank() == 0) {
    PayloadWriter w(bytes);
    w.array(std::span<const TokenId>(answers.tokens));
    w.array(std::span<const EvalWindow>(answers.windows));
  }
  broadcast_bytes(mpi_, 0, bytes, options_.deadline);
  PayloadReader r(bytes);
  answers_.tokens = r.array<TokenId>(kMostTokens);
  answers_.windows = r.array<EvalWindow>(kMostTokens);
  r.end();
  check_answers(answers_, config_.vocab_size);
}

// Rows of the output head, and the size of hidden rows, from the last stage.
void DraftHeadSession::share_output() {
  std::vector<std::byte> bytes;
  if (is_source()) {
    std::vector<float> rows(vocabulary_.size() * static_cast<std::size_t>(config_.dim));
    for (std::size_t i = 0; i < vocabulary_.size(); ++i) {
      dequantize_row(*sources_.output, vocabulary_[i], rows.data() + i * static_cast<std::size_t>(config_.dim));
    }
    const std::int64_t n = std::min<std::int64_t>(256, answers_.rows());
    std::vector<float> hidden(n * config_.dim);
    sources_.hidden->read(rt_.kernels, 0, n, hidden.data());
    double squares = 0;
    for (const float x : hidden) squares += static_cast<double>(x) * static_cast<double>(x);
    PayloadWriter w(bytes);
    w.value(static_cast<float>(std::sqrt(squares / static_cast<double>(std::max<std::size_t>(hidden.size(), 1)))));
    w.array(std::span<const float>(rows));
  }
  broadcast_bytes(mpi_, mpi_.stages() - 1, bytes, options_.deadline);
  PayloadReader r(bytes);
  const auto gain = r.value<float>();
  training_.weights = initial_draft_head(shape_, gain, options_.seed);
  DraftHeadTrainingOptions o;
  o.steps = steps_;
  o.warm_up = std::min(50.0, 0.1 * static_cast<double>(steps_));
  o.seed = options_.seed;
  auto rows = r.array<float>(kMostTokens);
  r.end();
  expect_count("numbers of the output head", std::ssize(vocabulary_) * config_.dim, std::ssize(rows));
  trainer_.emplace(rt_, shape_, std::move(rows), o);
}

// Where rank 0 has the state of this training, all go on from there.
void DraftHeadSession::share_state() {
  training_.key = hex(hash_bytes(fmt::format("{} {} {} {} {} {}", answers_.key(), shape_.units, vocabulary_.size(),
                                             options_.batch, options_.epochs, options_.seed)));
  training_.first.resize(training_.weights.size());
  training_.second.resize(training_.weights.size());
  std::vector<std::byte> bytes;
  if (mpi_.rank() == 0) {
    PayloadWriter w(bytes);
    const auto found = read_draft_head_training(options_.state, training_.key, shape_.size());
    w.value(static_cast<std::int64_t>(found ? found->steps : 0));
    if (found) {
      w.array(std::span<const float>(found->weights));
      w.array(std::span<const float>(found->first));
      w.array(std::span<const float>(found->second));
    }
  }
  broadcast_bytes(mpi_, 0, bytes, options_.deadline);
  PayloadReader r(bytes);
  training_.steps = r.value<std::int64_t>();
  if (training_.steps < 0) throw PeerError(fmt::format("training of a head: found step {}", training_.steps));
  if (training_.steps == 0) return;
  for (auto* values : {&training_.weights, &training_.first, &training_.second}) {
    *values = r.array<float>(kMostTokens);
    expect_count("weights", shape_.size(), std::ssize(*values));
  }
  r.end();
}

// The last stage's part of fetch().
std::vector<std::byte> DraftHeadSession::read(const std::vector<DraftHeadSchedule::Stretch>& stretches) const {
  std::vector<std::int32_t> decided;
  std::vector<float> hidden, embedded;
  for (const DraftHeadSchedule::Stretch& s : stretches) {
    const std::int64_t rows = s.starts + kDraftHeadDepths;
    const std::size_t at = hidden.size();
    hidden.resize(at + static_cast<std::size_t>(rows * config_.dim));
    embedded.resize(hidden.size());
    sources_.hidden->read(rt_.kernels, s.row, rows, hidden.data() + at);
    for (std::int64_t i = 0; i < rows; ++i) {
      const TokenId token = answers_.tokens[s.token + i];
      decided.push_back(index_[token]);
      dequantize_row(*sources_.output, token, embedded.data() + at + static_cast<std::size_t>(i * config_.dim));
    }
  }
  std::vector<std::byte> bytes;
  PayloadWriter w(bytes);
  w.array(std::span<const std::int32_t>(decided));
  for (const auto* values : {&hidden, &embedded}) {
    std::vector<f16_t> narrow(values->size());
    if (!rt_.kernels.narrow(Precision::f16, values->data(), std::ssize(*values), narrow.data())) {
      throw RunError("train-draft: a row of the output head leaves the range of f16");
    }
    w.array(std::span<const f16_t>(narrow));
  }
  return bytes;
}

// This rank's share of the stretches.
DraftHeadBatch DraftHeadSession::fetch(const std::vector<DraftHeadSchedule::Stretch>& stretches) {
  std::vector<std::byte> bytes;
  if (is_source()) bytes = read(stretches);
  broadcast_bytes(mpi_, mpi_.stages() - 1, bytes, options_.deadline);
  PayloadReader r(bytes);
  DraftHeadBatch batch;
  batch.dim = config_.dim;
  batch.decided = r.array<std::int32_t>(kMostTokens);
  for (auto* values : {&batch.hidden, &batch.embedded}) {
    const auto narrow = r.array<f16_t>(kMostTokens);
    values->resize(narrow.size());
    rt_.kernels.widen(Precision::f16, narrow.data(), std::ssize(narrow), values->data());
  }
  r.end();
  std::int64_t row = 0, number = 0;
  for (const DraftHeadSchedule::Stretch& s : stretches) {
    batch.spans.push_back({row, s.starts, number});
    row += s.starts + kDraftHeadDepths;
    number += s.starts;
  }
  expect_count("decided tokens", row, std::ssize(batch.decided));
  for (const std::int32_t index : batch.decided) {
    if (index < -1 || index >= std::ssize(vocabulary_)) {
      throw PeerError(fmt::format("training of a head: expected tokens of its vocabulary, found number {}", index));
    }
  }
  for (const auto* values : {&batch.hidden, &batch.embedded}) {
    expect_count("numbers of hidden rows", row * config_.dim, std::ssize(*values));
  }
  return share(batch, mpi_.rank(), mpi_.size());
}

// Of all ranks. A signal that any of them got ends the training of all after the same step.
DraftHeadScore DraftHeadSession::sum(const DraftHeadScore& mine, std::vector<float>& gradient) {
  const std::size_t size = gradient.size();
  gradient.push_back(static_cast<float>(mine.loss));
  gradient.push_back(static_cast<float>(mine.counted));
  for (std::size_t i = 0; i < mine.right.size(); ++i) {
    gradient.push_back(static_cast<float>(mine.right[i]));
    gradient.push_back(static_cast<float>(mine.tried[i]));
  }
  gradient.push_back(interrupted_by() == ExitCode::interrupted ? 1.0f : 0.0f);
  gradient.push_back(interrupted_by() == ExitCode::terminated ? 1.0f : 0.0f);
  sum_over_ranks(mpi_, gradient, options_.deadline);
  const float* at = gradient.data() + size;
  DraftHeadScore all;
  all.loss = static_cast<double>(at[0]);
  all.counted = static_cast<double>(at[1]);
  for (std::size_t i = 0; i < all.right.size(); ++i) {
    all.right[i] = static_cast<double>(at[2 + 2 * i]);
    all.tried[i] = static_cast<double>(at[3 + 2 * i]);
  }
  if (at[kScoreFloats - 1] > 0) stopped_by_ = ExitCode::terminated;
  if (at[kScoreFloats - 2] > 0) stopped_by_ = ExitCode::interrupted;
  gradient.resize(size);
  return all;
}

DraftHeadScore DraftHeadSession::step() {
  const DraftHeadBatch batch = fetch(schedule_->batch(training_.steps));
  const DraftHeadScore mine = trainer_->learn(batch, training_.weights, training_.steps);
  const DraftHeadScore all = sum(mine, trainer_->gradient());
  trainer_->update(training_, all.counted);
  return all;
}

DraftHeadScore DraftHeadSession::validate() {
  DraftHeadScore mine;
  for (const auto& stretches : schedule_->validation()) {
    mine.add(trainer_->score(fetch(stretches), training_.weights));
  }
  std::vector<float> nothing;
  return sum(mine, nothing);
}

void DraftHeadSession::save() {
  if (mpi_.rank() == 0) write_draft_head_training(options_.state, training_);
}

std::string DraftHeadSession::describe(const DraftHeadScore& learned, const DraftHeadScore& validated,
                                       double seconds_left) const {
  std::string right;
  for (std::size_t i = 0; i < validated.right.size(); ++i) {
    right += fmt::format("{}{:.3f}", i == 0 ? "" : ", ", validated.right[i] / std::max(validated.tried[i], 1.0));
  }
  return fmt::format("head: step {} of {}, loss {:.3f}, validation {:.3f}, right by depth {}; {:.0f} s left",
                     training_.steps, steps_, learned.loss / std::max(learned.counted, 1.0),
                     validated.loss / std::max(validated.counted, 1.0), right, seconds_left);
}

std::optional<SequentialHead> DraftHeadSession::run(const std::function<void(const std::string&)>& report) {
  const auto start = std::chrono::steady_clock::now();
  auto saved = start;
  const std::int64_t begun = training_.steps;
  const std::int64_t every = std::max<std::int64_t>(1, steps_ / kReports);
  DraftHeadScore learned, validated;
  while (training_.steps < steps_ && stopped_by_ == ExitCode::ok) {
    learned.add(step());
    if (training_.steps % every == 0 && training_.steps < steps_ && stopped_by_ == ExitCode::ok) {
      validated = validate();
      const double rate = seconds_since(start) / static_cast<double>(training_.steps - begun);
      report(describe(learned, validated, rate * static_cast<double>(steps_ - training_.steps)));
      learned = {};
    }
    if (std::chrono::steady_clock::now() - saved > kSaveEvery) {
      save();
      saved = std::chrono::steady_clock::now();
    }
  }
  if (stopped_by_ != ExitCode::ok) {
    save();
    return std::nullopt;
  }
  validated = validate();
  report(describe(learned, validated, 0));
  std::string right;
  for (std::size_t i = 0; i < validated.right.size(); ++i) {
    right += fmt::format("{}{:.3f}", i == 0 ? "" : " ", validated.right[i] / std::max(validated.tried[i], 1.0));
  }
  return SequentialHead{shape_, vocabulary_, training_.weights, right};
}

}  // namespace jupiter

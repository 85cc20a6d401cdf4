// Scratch file and order of the training data.
#include "parallel/train/draft_head_data.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <map>

#include "io/hash.hpp"
#include "kernels/sampler.hpp"

namespace jupiter {

namespace {

constexpr std::int64_t kStretch = 32;  // starts of a stretch: rows are read, and compared with the model, once for all
constexpr std::size_t kValidationEvery = 50;  // answers
constexpr std::size_t kMostValidation = 128;  // stretches
constexpr std::size_t kWaitingRows = 256;     // written at a time
constexpr std::int64_t kHeaderBytes = 64;

// Tokens of answers with fewer rows than a head looks ahead teach nothing.
std::int64_t starts_of(const EvalWindow& w) {
  return w.scored() - kDraftHeadDepths;
}

}  // namespace

void TrainingAnswers::add(std::span<const TokenId> sequence, std::size_t answer_from) {
  const auto from = static_cast<std::int64_t>(std::max<std::size_t>(answer_from, 1));
  const auto length = std::ssize(sequence);
  if (length - from <= kDraftHeadDepths) return;
  windows.push_back({std::ssize(tokens), length, from, 0});
  tokens.insert(tokens.end(), sequence.begin(), sequence.end());
}

std::int64_t TrainingAnswers::rows() const {
  std::int64_t n = 0;
  for (const EvalWindow& w : windows) n += w.scored();
  return n;
}

std::string TrainingAnswers::key() const {
  Hasher h;
  h.update(tokens.data(), tokens.size() * sizeof(TokenId));
  for (const EvalWindow& w : windows) h.update(&w.scored_from, sizeof w.scored_from);
  return hex(h.digest());
}

std::vector<TokenId> draft_vocabulary(const TrainingAnswers& answers, std::int64_t most, std::int64_t vocab_size) {
  std::vector<std::int64_t> counts(vocab_size);
  for (const EvalWindow& w : answers.windows) {
    for (std::int64_t i = w.scored_from; i < w.length; ++i) {
      ++counts[answers.tokens[w.first + i]];
    }
  }
  std::vector<TokenId> tokens;
  for (std::size_t t = 0; t < counts.size(); ++t) {
    if (counts[t] > 0) tokens.push_back(static_cast<TokenId>(t));
  }
  const auto count = [&](TokenId t) { return counts[t]; };
  std::stable_sort(tokens.begin(), tokens.end(), [&](TokenId a, TokenId b) { return count(a) > count(b); });
  tokens.resize(std::min(tokens.size(), static_cast<std::size_t>(most)));
  std::sort(tokens.begin(), tokens.end());
  return tokens;
}

HiddenFile::~HiddenFile() {
  if (fd_ >= 0) ::close(fd_);
}

std::string HiddenFile::found() const {
  const int fd = ::open(path_.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return "";
  char header[kHeaderBytes] = {};
  const bool whole = ::pread(fd, header, sizeof header, 0) == kHeaderBytes;
  ::close(fd);
  return whole ? std::string(header, ::strnlen(header, kHeaderBytes)) : "";
}

void HiddenFile::open(bool anew) {
  if (fd_ >= 0) return;
  fd_ = ::open(path_.c_str(), (anew ? O_RDWR | O_CREAT | O_TRUNC : O_RDWR) | O_CLOEXEC, 0644);
  if (fd_ < 0) throw RunError(fmt::format("{}: cannot be opened: {}", path_.string(), std::strerror(errno)));
}

void HiddenFile::flush() {
  const std::size_t bytes = waiting_.size() * sizeof(f16_t);
  const auto* from = reinterpret_cast<const char*>(waiting_.data());
  const std::int64_t at = kHeaderBytes + written_ * dim_ * 2;
  for (std::size_t done = 0; done < bytes;) {
    const ssize_t n = ::pwrite(fd_, from + done, bytes - done, at + static_cast<std::int64_t>(done));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) {
      throw RunError(fmt::format("{}: cannot be written: {}", path_.string(), std::strerror(n < 0 ? errno : ENOSPC)));
    }
    done += static_cast<std::size_t>(n);
  }
  written_ += std::ssize(waiting_) / dim_;
  waiting_.clear();
}

HiddenSink HiddenFile::sink(const KernelTable& kernels) {
  return [this, &kernels](SequenceId, std::int64_t, std::span<const float> row) {
    open(true);
    const std::size_t at = waiting_.size();
    waiting_.resize(at + row.size());
    if (!kernels.narrow(Precision::f16, row.data(), dim_, waiting_.data() + at)) {
      throw RunError(fmt::format("{}: a hidden row of the model leaves the range of f16", path_.string()));
    }
    if (waiting_.size() >= kWaitingRows * row.size()) flush();
  };
}

void HiddenFile::finish(const std::string& key, std::int64_t rows) {
  open(false);
  if (!waiting_.empty()) flush();
  if (written_ != rows) {
    throw RunError(fmt::format("{}: expected {} hidden rows, found {}", path_.string(), rows, written_));
  }
  char header[kHeaderBytes] = {};
  key.copy(header, kHeaderBytes - 1);
  if (::pwrite(fd_, header, kHeaderBytes, 0) != kHeaderBytes) {
    throw RunError(fmt::format("{}: cannot be written: {}", path_.string(), std::strerror(errno)));
  }
}

void HiddenFile::read(const KernelTable& kernels, std::int64_t first, std::int64_t count, float* out) {
  open(false);
  std::vector<f16_t> rows(count * dim_);
  const auto bytes = static_cast<ssize_t>(rows.size() * sizeof(f16_t));
  if (::pread(fd_, rows.data(), static_cast<std::size_t>(bytes), kHeaderBytes + first * dim_ * 2) != bytes) {
    throw RunError(fmt::format("{}: hidden row {} cannot be read", path_.string(), first));
  }
  kernels.widen(Precision::f16, rows.data(), count * dim_, out);
}

void HiddenFile::remove() {
  if (fd_ >= 0) ::close(fd_);
  fd_ = -1;
  std::error_code ignored;
  std::filesystem::remove(path_, ignored);
}

DraftHeadSchedule::DraftHeadSchedule(const TrainingAnswers& answers, std::int64_t batch_starts, std::uint64_t seed)
    : spans_per_batch_(std::max<std::int64_t>(1, batch_starts / kStretch)), seed_(seed) {
  std::int64_t row = 0;
  for (std::size_t w = 0; w < answers.windows.size(); ++w) {
    const EvalWindow& window = answers.windows[w];
    // With few answers the first one is the validation.
    auto& list = w % kValidationEvery == 0 && answers.windows.size() > 1 ? validation_ : learned_;
    for (std::int64_t at = 0; at < starts_of(window); at += kStretch) {
      list.push_back({row + at, window.first + window.scored_from + at, std::min(kStretch, starts_of(window) - at)});
    }
    row += window.scored();
  }
  if (validation_.size() > kMostValidation) validation_.resize(kMostValidation);
}

std::int64_t DraftHeadSchedule::steps_of_epoch() const {
  const auto n = std::ssize(learned_);
  return (n + spans_per_batch_ - 1) / spans_per_batch_;
}

std::vector<DraftHeadSchedule::Stretch> DraftHeadSchedule::batch(std::int64_t step) {
  const std::int64_t epoch = step / steps_of_epoch(), at = step % steps_of_epoch() * spans_per_batch_;
  if (epoch != epoch_) {
    epoch_ = epoch;
    order_ = learned_;
    for (std::size_t i = order_.size(); i > 1; --i) {
      const double u = uniform(seed_ + static_cast<std::uint64_t>(epoch), static_cast<std::int64_t>(i), 1);
      std::swap(order_[i - 1], order_[static_cast<std::size_t>(u * static_cast<double>(i))]);
    }
  }
  const auto first = order_.begin() + at;
  const auto count = std::min<std::int64_t>(spans_per_batch_, std::ssize(order_) - at);
  return {first, first + count};
}

std::vector<std::vector<DraftHeadSchedule::Stretch>> DraftHeadSchedule::validation() const {
  std::vector<std::vector<Stretch>> batches;
  for (std::size_t at = 0; at < validation_.size(); at += static_cast<std::size_t>(spans_per_batch_)) {
    const auto first = validation_.begin() + at;
    const auto count = std::min<std::size_t>(static_cast<std::size_t>(spans_per_batch_), validation_.size() - at);
    batches.emplace_back(first, first + static_cast<std::ptrdiff_t>(count));
  }
  return batches;
}

}  // namespace jupiter

// The model is a stage of its own that holds everything; a guess is a frame of the tokens that its cache does not hold.
#include "parallel/draft_model/draft_model.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "io/model/draft_file.hpp"
#include "parallel/pipeline/evaluate.hpp"

namespace jupiter {

namespace {

constexpr SequenceId kSequence = 1;
constexpr int kMostGivenUp = 2;  // passes in a row: a rank that is never idle for long drafts nevertheless

ModelPart whole(const Manifest& manifest) {
  return {0, manifest.config.n_layers, true, true};
}

class ModelHead : public DraftHead {
 public:
  // Who of all heads uses the model.
  struct Shared {
    std::unique_ptr<DraftModel> model;
    const void* user = nullptr;
  };
  explicit ModelHead(std::shared_ptr<Shared> shared) : shared_(std::move(shared)) {}
  ModelHead(const ModelHead&) = delete;
  ModelHead& operator=(const ModelHead&) = delete;
  ~ModelHead() override {
    if (shared_->user == this) shared_->user = nullptr;
  }

  void begin(std::span<const float>) override {}
  void foretell(DraftContext) override { shared_->user = this; }
  std::vector<HeadGuess> guess(DraftContext context, std::size_t) override {
    if (shared_->user == nullptr) shared_->user = this;
    return shared_->user == this ? shared_->model->guess(context) : std::vector<HeadGuess>{};
  }

 private:
  std::shared_ptr<Shared> shared_;
};

class ModelMaker : public HeadMaker {
 public:
  explicit ModelMaker(std::unique_ptr<DraftModel> model) : shared_(new ModelHead::Shared{std::move(model), nullptr}) {}
  std::unique_ptr<DraftHead> make() const override { return std::make_unique<ModelHead>(shared_); }

 private:
  std::shared_ptr<ModelHead::Shared> shared_;
};

}  // namespace

void check_vocabulary(const std::filesystem::path& folder, const Manifest& draft, const Manifest& target) {
  if (draft.config.vocab_size != target.config.vocab_size) {
    throw FormatError(folder.string(), "vocab_size", fmt::format("{} (the model's)", target.config.vocab_size),
                      std::to_string(draft.config.vocab_size));
  }
  const std::string own = draft_identity(draft).tokenizer_hash, wanted = draft_identity(target).tokenizer_hash;
  if (own != wanted) throw FormatError(folder.string(), "tokenizer", wanted + " (the model's)", own);
}

DraftModel::DraftModel(const std::filesystem::path& folder, const Manifest& draft, const Manifest& target,
                       ThreadPool& pool, std::int64_t context_tokens) {
  check_vocabulary(folder, draft, target);
  stage_ = std::make_unique<Stage>(draft.config, ModelFiles(folder, draft, whole(draft), true),
                                   draft_model_options(draft.config, context_tokens), pool, 1);
  stage_->set_logits_sink(
      [this](SequenceId, std::int64_t, std::span<const float> row) { logits_.assign(row.begin(), row.end()); });
  stage_->open(kSequence, {});
}

std::vector<HeadGuess> DraftModel::guess(DraftContext context) {
  for (;;) {
    if (auto guesses = step(context, stage_->options().max_rows, {})) return std::move(*guesses);
  }
}

std::optional<std::vector<HeadGuess>> DraftModel::step(DraftContext context, std::int64_t rows,
                                                       const std::function<bool()>& wanted) {
  const auto n = static_cast<std::int64_t>(context.size());
  if (n < 1 || n > stage_->options().context_tokens) return std::vector<HeadGuess>{};
  const auto same = std::mismatch(held_.begin(), held_.end(), context.begin(), context.end());
  const std::int64_t at = std::min<std::int64_t>(same.first - held_.begin(), n - 1);
  held_.resize(static_cast<std::size_t>(at));
  const bool last = at == n - 1;
  const std::int64_t piece = last ? 1 : std::min({rows, stage_->options().max_rows, n - 1 - at});
  if (!pass(context, at, piece, last ? std::uint32_t{FrameRun::every_row} : 0, wanted)) return std::nullopt;
  held_.insert(held_.end(), context.begin() + at, context.begin() + at + piece);
  if (!last) return std::nullopt;
  return likeliest(stage_->runtime().kernels, logits_);
}

// Rows from a position on; the cache forgets what it held behind it. false: given up.
bool DraftModel::pass(DraftContext context, std::int64_t first, std::int64_t rows, std::uint32_t flags,
                      const std::function<bool()>& wanted) {
  Frame f;
  f.runs.push_back({kSequence, static_cast<std::int32_t>(first), static_cast<std::int32_t>(rows), flags, 0, {}});
  const auto tokens = context.subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(rows));
  f.tokens.assign(tokens.begin(), tokens.end());
  const auto look_up = [&] {
    if (wanted()) stage_->give_up();
  };
  stage_->forward(f, wanted && given_up_ < kMostGivenUp ? std::function<void()>(look_up) : nullptr);
  const bool done = !f.tokens.empty();
  given_up_ = done ? 0 : given_up_ + 1;
  return done;
}

std::unique_ptr<HeadMaker> draft_model_head(std::unique_ptr<DraftModel> model) {
  return std::make_unique<ModelMaker>(std::move(model));
}

}  // namespace jupiter

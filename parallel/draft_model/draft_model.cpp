// The model is a stage of its own that holds all layers. A guess is a frame of the tokens that its cache lacks.
#include "parallel/draft_model/draft_model.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "io/model/draft_file.hpp"
#include "parallel/pipeline/evaluate.hpp"

namespace jupiter {

namespace {

constexpr SequenceId kSequence = 1;
constexpr int kMostGivenUp = 2;  // passes in a row, so that a rank that is never idle for long drafts nevertheless

ModelPart whole(const Manifest& manifest) {
  return {0, manifest.config.n_layers, true, true};
}

class LocalModelDrafter : public NeuralDrafter {
 public:
  // What the drafters of all sequences share.
  struct Shared {
    std::unique_ptr<DraftModel> model;
    ExclusiveUse use;
  };
  explicit LocalModelDrafter(std::shared_ptr<Shared> shared) : shared_(std::move(shared)) {}
  LocalModelDrafter(const LocalModelDrafter&) = delete;
  LocalModelDrafter& operator=(const LocalModelDrafter&) = delete;
  ~LocalModelDrafter() override { shared_->use.release(this); }

  void begin(std::span<const float>) override {}
  void prefetch(DraftContext) override { shared_->use.take(this); }
  std::vector<DraftGuess> guess(DraftContext context, std::size_t) override {
    return shared_->use.take_if_free(this) ? shared_->model->guess(context) : std::vector<DraftGuess>{};
  }

 private:
  std::shared_ptr<Shared> shared_;
};

class LocalModelFactory : public NeuralDrafterFactory {
 public:
  explicit LocalModelFactory(std::unique_ptr<DraftModel> model)
      : shared_(new LocalModelDrafter::Shared{std::move(model), {}}) {}
  std::unique_ptr<NeuralDrafter> make() const override { return std::make_unique<LocalModelDrafter>(shared_); }

 private:
  std::shared_ptr<LocalModelDrafter::Shared> shared_;
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

std::vector<DraftGuess> DraftModel::guess(DraftContext context) {
  for (;;) {
    if (auto guesses = step(context, stage_->options().max_rows, {})) return std::move(*guesses);
  }
}

std::optional<std::vector<DraftGuess>> DraftModel::step(DraftContext context, std::int64_t rows,
                                                        const std::function<bool()>& should_yield) {
  const auto n = std::ssize(context);
  if (n < 1 || n > stage_->options().context_tokens) return std::vector<DraftGuess>{};
  const auto same = std::mismatch(held_.begin(), held_.end(), context.begin(), context.end());
  const std::int64_t at = std::min<std::int64_t>(same.first - held_.begin(), n - 1);
  held_.resize(at);
  const bool last = at == n - 1;
  const std::int64_t piece = last ? 1 : std::min({rows, stage_->options().max_rows, n - 1 - at});
  if (!pass(context, at, piece, last ? std::uint32_t{FrameRun::every_row} : 0, should_yield)) return std::nullopt;
  held_.insert(held_.end(), context.begin() + at, context.begin() + at + piece);
  if (!last) return std::nullopt;
  return likeliest(stage_->runtime().kernels, logits_);
}

// Computes `rows` rows from position `first` on; the cache forgets what it held from there on. Returns false where the
// pass was given up.
bool DraftModel::pass(DraftContext context, std::int64_t first, std::int64_t rows, std::uint32_t flags,
                      const std::function<bool()>& should_yield) {
  Frame f;
  f.runs.push_back(FrameRun::consecutive(kSequence, first, rows, flags));
  const auto tokens = context.subspan(first, rows);
  f.tokens.assign(tokens.begin(), tokens.end());
  const auto on_layer_done = [&] {
    if (should_yield()) stage_->give_up();
  };
  stage_->forward(f, should_yield && given_up_ < kMostGivenUp ? std::function<void()>(on_layer_done) : nullptr);
  const bool done = !f.tokens.empty();
  given_up_ = done ? 0 : given_up_ + 1;
  return done;
}

std::unique_ptr<NeuralDrafterFactory> local_model_drafters(std::unique_ptr<DraftModel> model) {
  return std::make_unique<LocalModelFactory>(std::move(model));
}

}  // namespace jupiter

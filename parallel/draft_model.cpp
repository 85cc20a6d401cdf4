// The model is a stage of its own that holds everything; a guess is a frame of the tokens that its cache does not hold.
#include "parallel/draft_model.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "io/draft_file.hpp"
#include "io/memory.hpp"
#include "parallel/evaluate.hpp"

namespace jupiter {

namespace {

constexpr std::int64_t kRows = 128;  // of a frame: the prompt goes through in such pieces
constexpr SequenceId kSequence = 1;

StageOptions stage_options(const ModelConfig& config, std::int64_t context_tokens) {
  StageOptions o;
  o.context_tokens = std::min(context_tokens, config.max_seq_len);
  o.cache_tokens = (o.context_tokens + kKvBlock - 1) / kKvBlock * kKvBlock;
  o.max_rows = kRows;
  return o;
}

// One sequence uses it at a time; the next one begins where nobody does any more.
class SharedModel {
 public:
  SharedModel(const ModelConfig& config, ModelFiles files, const StageOptions& options, ThreadPool& pool)
      : stage_(config, std::move(files), options, pool, 1) {
    stage_.set_logits_sink(
        [this](SequenceId, std::int64_t, std::span<const float> row) { logits_.assign(row.begin(), row.end()); });
    stage_.open(kSequence, {});
  }

  bool take(const void* user) {
    if (user_ == nullptr) user_ = user;
    return user_ == user;
  }
  void leave(const void* user) {
    if (user_ == user) user_ = nullptr;
  }

  // What follows the context; nothing where it is longer than this model's own.
  std::vector<HeadGuess> guess(DraftContext context) {
    const auto n = static_cast<std::int64_t>(context.size());
    if (n < 1 || n > stage_.options().context_tokens) return {};
    const auto same = std::mismatch(held_.begin(), held_.end(), context.begin(), context.end());
    std::int64_t at = std::min<std::int64_t>(same.first - held_.begin(), n - 1);
    held_.assign(context.begin(), context.end());
    for (; at < n - 1; at += std::min(kRows, n - 1 - at)) pass(context, at, std::min(kRows, n - 1 - at), 0);
    pass(context, n - 1, 1, FrameRun::every_row);
    return likeliest(stage_.runtime().kernels, logits_);
  }

 private:
  // Rows from a position on; the cache forgets what it held behind it.
  void pass(DraftContext context, std::int64_t first, std::int64_t rows, std::uint32_t flags) {
    Frame f;
    f.runs.push_back({kSequence, static_cast<std::int32_t>(first), static_cast<std::int32_t>(rows), flags, 0, {}});
    const auto tokens = context.subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(rows));
    f.tokens.assign(tokens.begin(), tokens.end());
    stage_.forward(f);
  }

  Stage stage_;
  std::vector<float> logits_;
  std::vector<TokenId> held_;  // tokens in the cache
  const void* user_ = nullptr;
};

class ModelHead : public DraftHead {
 public:
  explicit ModelHead(std::shared_ptr<SharedModel> model) : model_(std::move(model)) {}
  ModelHead(const ModelHead&) = delete;
  ModelHead& operator=(const ModelHead&) = delete;
  ~ModelHead() override { model_->leave(this); }

  void begin(std::span<const float>) override {}
  std::vector<HeadGuess> guess(DraftContext context, std::size_t) override {
    return model_->take(this) ? model_->guess(context) : std::vector<HeadGuess>{};
  }

 private:
  std::shared_ptr<SharedModel> model_;
};

class ModelMaker : public HeadMaker {
 public:
  explicit ModelMaker(std::shared_ptr<SharedModel> model) : model_(std::move(model)) {}
  std::unique_ptr<DraftHead> make() const override { return std::make_unique<ModelHead>(model_); }

 private:
  std::shared_ptr<SharedModel> model_;
};

void check_vocabulary(const std::string& name, const Manifest& draft, const Manifest& target) {
  if (draft.config.vocab_size != target.config.vocab_size) {
    throw FormatError(name, "vocab_size", fmt::format("{} (the model's)", target.config.vocab_size),
                      std::to_string(draft.config.vocab_size));
  }
  const std::string own = draft_identity(draft).tokenizer_hash, wanted = draft_identity(target).tokenizer_hash;
  if (own != wanted) throw FormatError(name, "tokenizer", wanted + " (the model's)", own);
}

}  // namespace

std::unique_ptr<HeadMaker> draft_model(const std::filesystem::path& folder, const Manifest& target, ThreadPool& pool,
                                       std::int64_t context_tokens) {
  const Manifest manifest = read_manifest(folder);
  check_vocabulary(folder.string(), manifest, target);
  const ModelPart whole{0, manifest.config.n_layers, true, true};
  const StageOptions stage = stage_options(manifest.config, context_tokens);
  const std::uint64_t available = available_memory();
  const std::uint64_t needed =
      weight_bytes(manifest, whole) + static_cast<std::uint64_t>(Stage::private_bytes(manifest.config, whole, stage));
  if (available != 0 && needed > available) {
    throw MemoryError(fmt::format("--draft model={}: expected at most {} MiB (available memory), found {} MiB",
                                  folder.string(), available >> 20, needed >> 20));
  }
  return std::make_unique<ModelMaker>(
      std::make_shared<SharedModel>(manifest.config, ModelFiles(folder, manifest, whole, true), stage, pool));
}

}  // namespace jupiter

// Stages on several ranks for tests that check themselves: plain pipelines, and any layout of tensor groups.
#pragma once

#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <random>

#include "io/convert/convert.hpp"
#include "io/convert/synth.hpp"
#include "parallel/comm/collectives.hpp"
#include "parallel/pipeline/scheduler.hpp"

namespace jupiter {

inline constexpr std::int64_t kContext = 352;
inline constexpr std::int32_t kDraftMax = 6;

inline int failures = 0;

inline void expect(bool ok, const std::string& what) {
  if (ok) return;
  std::fprintf(stderr, "expected %s\n", what.c_str());
  ++failures;
}

// Tokens of one to three letters.
inline std::shared_ptr<const TokenTrie> vocabulary() {
  std::vector<std::string> texts;
  for (int t = 0; t < 256; ++t) {
    const auto letter = [&](int n) { return static_cast<char>('a' + n % 26); };
    texts.push_back(std::string(1, letter(t)) + (t < 26 ? "" : std::string(1, letter(t / 26))) +
                    (t < 200 ? "" : std::string(1, letter(t / 7))));
  }
  return std::make_shared<TokenTrie>(texts, false);
}

// A new folder on rank 0 with the model that `make` writes into it; its path on all ranks.
inline std::filesystem::path make_model(const MpiSession& mpi,
                                        const std::function<void(const std::filesystem::path&)>& make) {
  std::string folder;
  if (mpi.rank() == 0) {
    folder = (std::filesystem::temp_directory_path() / "jupiter-XXXXXX").string();
    if (::mkdtemp(folder.data()) == nullptr) throw std::runtime_error("mkdtemp");
    make(folder);
  }
  return broadcast(mpi, folder);
}

// A stage that computes some of the last one's output head.
struct HeadShare {
  int stage;
  double share;
};

// One set of stages; the ranks but 0 serve until `drive` is done. splits: of each stage's tensor group; empty: every
// rank is a stage of its own. helpers: with the output head, of a last stage of one board.
class Cluster {
 public:
  Cluster(const MpiSession& mpi, const std::filesystem::path& model, const std::vector<TensorSplit>& splits = {},
          const std::vector<HeadShare>& helpers = {})
      : mpi_(placed(mpi, splits)), splits_(splits), helpers_(helpers), model_(model), manifest_(read_manifest(model)) {}

  void run(std::int64_t blocks, const std::function<void(Scheduler&)>& drive, std::int64_t most_at_once = 0) {
    run_stage(blocks, drive, most_at_once);
    barrier(mpi_);  // nobody begins the next run before all have ended this one, and their receives with it
  }

 private:
  void run_stage(std::int64_t blocks, const std::function<void(Scheduler&)>& drive, std::int64_t most_at_once) {
    const ModelConfig& config = manifest_.config;
    const std::int64_t n = mpi_.stages(), s = mpi_.stage();
    ModelPart part{config.n_layers * s / n, config.n_layers * (s + 1) / n, s == 0, s + 1 == n};
    const StageOptions options{.context_tokens = kContext, .cache_tokens = blocks * kKvBlock, .max_rows = 64};
    std::unique_ptr<GroupChannels> channels;
    std::optional<Stage::Group> group;
    if (!splits_.empty() && splits_[s].shares.size() > 1) {
      channels = std::make_unique<GroupChannels>(mpi_, most_piece_bytes(config, options), std::chrono::seconds(60));
      group = {slices_of(config, splits_[s]), channels.get()};
      part.slice = group->slices[channels->board()];
    }
    std::optional<SharedHead> shared_head = share_head(part, options);
    ThreadPool pool({.threads = 1, .share_cores = true});
    Stage stage(config, ModelFiles(model_, manifest_, part, false), options, pool, mpi_.stages(), group);
    stage.set_drafters([] {
      DraftMixer m;
      m.add(std::make_shared<LookupDrafter>());
      return m;
    });
    stage.set_vocabulary(vocabulary);
    if (shared_head) stage.share_output_head(&*shared_head);
    Trace trace(false);
    RankReport report;
    if (mpi_.rank() == 0) {
      Pipeline pipeline(mpi_, stage, pool, trace,
                        {.deadline = std::chrono::seconds(60), .shared_head = !helpers_.empty()});
      Scheduler scheduler(pipeline, mpi_.stages(), {kContext, chunks, most_at_once});
      drive(scheduler);
      pipeline.stop(ExitCode::ok);
    } else if (mpi_.leads_stage()) {
      serve(mpi_, stage, pool, trace, report, nullptr);
    } else {
      follow(mpi_, stage, pool, trace, report);
    }
    const StageBuffers said = stage_buffers(config, part, options, pool.size(), mpi_.leads_stage());
    const StageBuffers found = stage.buffers();
    expect(said.cache == found.cache && said.work == found.work, "as much memory as was said");
    expect(stage.cache().free_blocks() == blocks, "all blocks back, rank " + std::to_string(mpi_.rank()));
  }

  // Of a leader: its tokens, and on the last stage the way to the others.
  std::optional<SharedHead> share_head(ModelPart& part, const StageOptions& options) const {
    if (helpers_.empty() || !mpi_.leads_stage()) return std::nullopt;
    std::vector<double> shares{1};
    for (const HeadShare& h : helpers_) {
      shares.front() -= h.share;
      shares.push_back(h.share);
    }
    const std::vector<IndexRange> tokens = vocabulary_parts(manifest_.config, shares);
    std::vector<SharedHead::Helper> helpers;
    for (std::size_t h = 0; h < helpers_.size(); ++h) {
      helpers.push_back({helpers_[h].stage, tokens[h + 1]});
      if (mpi_.stage() == helpers_[h].stage) part.vocabulary = tokens[h + 1];
    }
    if (mpi_.stage() + 1 != mpi_.stages()) return std::nullopt;
    part.vocabulary = tokens.front();
    return SharedHead(mpi_, helpers, most_piece_bytes(manifest_.config, options));
  }

  static MpiSession placed(const MpiSession& mpi, const std::vector<TensorSplit>& splits) {
    if (splits.empty()) return mpi;
    std::vector<int> world, boards;
    for (int r = 0; r < mpi.size(); ++r) world.push_back(r);
    for (const TensorSplit& split : splits) boards.push_back(static_cast<int>(split.shares.size()));
    return mpi.arranged(world, boards);
  }
  static std::vector<std::int64_t> chunks(std::int64_t n) {
    std::vector<std::int64_t> lengths(static_cast<std::size_t>(n / 48), 48);  // of 32 rows on two halves overlap
    if (n % 48 != 0) lengths.push_back(n % 48);
    return lengths;
  }
  MpiSession mpi_;
  std::vector<TensorSplit> splits_;
  std::vector<HeadShare> helpers_;
  std::filesystem::path model_;
  Manifest manifest_;
};

struct Answer {
  std::vector<TokenId> tokens;
  std::uint64_t digest = 0;
  bool operator==(const Answer&) const = default;
};

inline std::vector<Answer> answers_of(Scheduler& scheduler, const std::vector<Request>& requests,
                                      std::int64_t& set_back) {
  std::vector<Answer> answers(requests.size());
  std::size_t done = 0;
  for (std::size_t i = 0; i < requests.size(); ++i) {
    Request r = requests[i];
    r.on_done = [&, i](Generated&& g) {
      answers[i] = {std::move(g.tokens), g.logits_digest};
      set_back += g.set_back;
      ++done;
    };
    scheduler.add(std::move(r));
  }
  scheduler.run();
  expect(done == requests.size(), "an answer to every request");
  expect(scheduler.running() == 0 && scheduler.waiting() == 0, "nobody left");
  return answers;
}

}  // namespace jupiter

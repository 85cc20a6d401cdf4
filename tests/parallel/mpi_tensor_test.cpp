// Tensor groups, and stages that share the output head: whatever boards share, and how, the bits are those of a board
// alone. Random layouts of these ranks over every test architecture and weight formats; plain and speculative answers,
// greedy and sampled.
//   mpi_tensor_test [LAYOUTS of each model]
#include <numeric>

#include "mpi_cluster.hpp"

namespace jupiter {
namespace {

namespace fs = std::filesystem;

using Random = std::mt19937_64;

std::int64_t below(Random& random, std::int64_t n) {
  return static_cast<std::int64_t>(random() % static_cast<std::uint64_t>(n));
}

TensorSplit random_split(Random& random, std::int64_t boards) {
  TensorSplit split;
  for (std::int64_t b = 0; b < boards; ++b) split.shares.push_back(1.0 + static_cast<double>(below(random, 4)));
  const double sum = std::accumulate(split.shares.begin(), split.shares.end(), 0.0);
  for (double& s : split.shares) s /= sum;
  split.repeat_attention_out = below(random, 3) == 0;
  split.repeat_feed_forward_out = below(random, 3) == 0;
  return split;
}

// Stages of one to all of the boards. Every rank draws the same.
std::vector<TensorSplit> random_layout(Random& random, const ModelConfig& config, std::int64_t ranks) {
  for (;;) {
    std::vector<TensorSplit> layout;
    for (std::int64_t left = ranks; left > 0;) {
      layout.push_back(random_split(random, 1 + below(random, left)));
      left -= std::ssize(layout.back().shares);
    }
    try {
      for (const TensorSplit& split : layout) slices_of(config, split);
    } catch (const UsageError&) {
      continue;  // more boards than this model has groups of hidden rows, or a share too small
    }
    if (std::ssize(layout) <= config.n_layers) return layout;
  }
}

// Some of the stages before the last one help it with its output head, where that is one board.
std::vector<HeadShare> random_helpers(Random& random, const std::vector<TensorSplit>& layout) {
  std::vector<HeadShare> helpers;
  if (layout.back().shares.size() > 1) return helpers;
  const auto stages = std::ssize(layout);
  for (std::int64_t s = 0; s + 1 < stages; ++s) {
    if (below(random, 3) > 0) {
      helpers.push_back({static_cast<int>(s), (0.5 + 0.25 * static_cast<double>(below(random, 2))) / double(stages)});
    }
  }
  return helpers;
}

std::string text_of(const std::vector<TensorSplit>& layout, const std::vector<HeadShare>& helpers) {
  std::string text;
  for (const TensorSplit& split : layout) {
    text += text.empty() ? "" : " | ";
    for (const double s : split.shares) text += std::to_string(s).substr(0, 5) + " ";
    text += std::string(split.repeat_attention_out ? "wo " : "") + (split.repeat_feed_forward_out ? "w_down" : "");
  }
  for (const HeadShare& h : helpers) text += "; head " + std::to_string(h.stage) + ":" + std::to_string(h.share);
  return text;
}

std::vector<Request> requests_for(Random& random, const ModelConfig& config) {
  std::vector<Request> requests;
  for (int i = 0; i < 5; ++i) {
    Request r;
    for (std::int64_t n = 4 + below(random, 80); n > 0; --n) {
      r.prompt.push_back(static_cast<TokenId>(below(random, std::min<std::int64_t>(config.vocab_size, 40))));
    }
    r.max_new_tokens = 6 + below(random, 20);
    r.decode = {static_cast<DecodeMode>(i % 3), false, kDraftMax, 0, 0};
    if (i == 1) r.sampling = {.temperature = 0.9f, .top_k = 12, .seed = 5};
    if (i == 2) r.sampling = {.temperature = 0.8f, .top_k = 0, .seed = 6};
    if (i == 3) r.sampling.repeat_penalty = 1.3f;
    if (i == 4) r.sampling.top_logprobs = 2;
    requests.push_back(std::move(r));
  }
  return requests;
}

void compare(const MpiSession& mpi, const fs::path& model, std::uint64_t seed, int layouts) {
  Random random(seed);
  const ModelConfig config = read_manifest(model).config;
  const std::vector<Request> requests = requests_for(random, config);
  std::int64_t set_back = 0;
  std::vector<Answer> alone;
  if (mpi.rank() == 0) {
    Cluster(mpi.alone(), model).run(60, [&](Scheduler& s) { alone = answers_of(s, requests, set_back); });
  }
  barrier(mpi);
  for (int i = 0; i < layouts; ++i) {
    const std::vector<TensorSplit> layout = random_layout(random, config, mpi.size());
    const std::vector<HeadShare> helpers = random_helpers(random, layout);
    Cluster(mpi, model, layout, helpers).run(60, [&](Scheduler& s) {
      const std::vector<Answer> got = answers_of(s, requests, set_back);
      for (std::size_t k = 0; k < got.size(); ++k) {
        expect(got[k] == alone[k], "the bits of request " + std::to_string(k) + " on one board; " + model.string() +
                                       ", seed " + std::to_string(seed) + ", shares " + text_of(layout, helpers));
      }
    });
  }
}

int test(int layouts) {
  const MpiSession mpi;
  std::vector<fs::path> models;
  for (const GgufType type : {GgufType::q4_0, GgufType::q8_0, GgufType::f16}) {
    models.push_back(make_model(mpi, [&](const fs::path& folder) {
      ModelConfig config = *synth_shape("tiny");
      config.n_layers = 4;
      config.hidden_dim = 256;
      convert_model(*synth_source(config, type, 3), folder, {});
    }));
  }
  for (const GgufType type : {GgufType::q4_0, GgufType::f32}) {
    models.push_back(make_model(mpi, [&](const fs::path& folder) {
      ModelConfig config = *synth_shape("tiny");
      config.architecture = Architecture::qwen2moe;
      config.n_layers = 4;
      config.hidden_dim = 256;
      config.n_experts = 6;
      config.n_experts_used = 3;
      config.expert_hidden_dim = 256;
      config.shared_expert_gate = true;
      convert_model(*synth_source(config, type, 3), folder, {});
    }));
  }
  for (const char* name : {"llama-tied", "llama-untied", "llama-linear", "llama3", "mistral", "qwen2", "qwen3",
                           "gemma2", "gemma3", "phi3", "granite", "smollm3", "gpt-oss", "gpt-oss-mxfp4"}) {
    models.push_back(make_model(mpi, [&](const fs::path& folder) {
      ConvertOptions options;
      options.quantization = std::string(name).ends_with("mxfp4") ? Quantization::keep : Quantization::f32;
      convert_model(*open_model_source((fs::path(JUPITER_TEST_DATA) / "architectures" / name).string()), folder,
                    options);
    }));
  }
  std::uint64_t seed = 0;
  for (const fs::path& model : models) {
    const bool few_boards = most_boards(read_manifest(model).config) < mpi.size();
    if (!few_boards || mpi.size() <= 4) compare(mpi, model, ++seed, layouts);
  }
  barrier(mpi);
  if (mpi.rank() == 0) {
    for (const fs::path& model : models) fs::remove_all(model);
    std::printf("%d failures\n", failures);
  }
  return failures;
}

}  // namespace
}  // namespace jupiter

int main(int argc, char** argv) {
  return jupiter::test(argc > 1 ? std::atoi(argv[1]) : 6) == 0 ? 0 : 1;
}

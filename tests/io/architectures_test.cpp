// Every architecture, as the readers hand it out, against the logits of Hugging Face transformers: a plain forward pass
// in double precision over ModelSource (tests/fixtures/make_architectures.py makes models and logits).
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <numeric>

#include "io/convert/model_source.hpp"
#include "io/files.hpp"
#include "io/model/manifest.hpp"
#include "test_files.hpp"

namespace jupiter {
namespace {

using Vector = std::vector<double>;

// The textbook model, as slow as it likes.
class PlainModel {
 public:
  explicit PlainModel(const ModelSource& source) : source_(source), c_(source.config()) {}

  // Logits [tokens][vocab_size].
  std::vector<Vector> logits(const std::vector<TokenId>& tokens) const {
    std::vector<Vector> x;
    for (const TokenId id : tokens) x.push_back(scaled(row("embed", id), c_.embedding_scale));
    for (std::int64_t layer = 0; layer < c_.n_layers; ++layer) {
      const std::string at = "layers." + std::to_string(layer) + ".";
      add_attention(at, c_.layer_kind(layer), x);
      for (Vector& v : x) add(v, feed_forward(at, normed(v, at + "ffn_norm")), at + "ffn_post_norm");
    }
    std::vector<Vector> out;
    for (const Vector& v : x) {
      const Vector logits = multiply(source_.has("output") ? "output" : "embed", normed(v, "output_norm"));
      out.push_back(scaled(logits, c_.logit_scale));
      for (double& logit : out.back()) logit = capped(logit, c_.logit_softcap);
    }
    return out;
  }

 private:
  Vector row(const std::string& name, std::int64_t r) const {
    const SourceTensor& t = source_.tensor(name);
    std::vector<float> values(static_cast<std::size_t>(t.cols));
    source_.read_row_f32(t, r, values.data());
    return Vector(values.begin(), values.end());
  }
  Vector vector(const std::string& name) const {
    const std::vector<float> values = source_.read_vector(name);
    return Vector(values.begin(), values.end());
  }
  Vector multiply(const std::string& name, const Vector& x, const std::string& bias = "") const {
    Vector out(static_cast<std::size_t>(source_.tensor(name).rows));
    for (std::size_t r = 0; r < out.size(); ++r) {
      const Vector w = row(name, static_cast<std::int64_t>(r));
      for (std::size_t i = 0; i < w.size(); ++i) out[r] += w[i] * x[i];
    }
    if (!bias.empty() && source_.has(bias)) {
      const Vector b = vector(bias);
      for (std::size_t r = 0; r < out.size(); ++r) out[r] += b[r];
    }
    return out;
  }
  Vector normed(const Vector& x, const std::string& weight) const {
    const Vector w = vector(weight);
    double squares = 0;
    for (const double v : x) squares += v * v;
    const double scale = 1 / std::sqrt(squares / static_cast<double>(x.size()) + static_cast<double>(c_.norm_eps));
    Vector out(x);
    for (std::size_t i = 0; i < out.size(); ++i) out[i] *= scale * w[i];
    return out;
  }

  static Vector scaled(Vector x, float factor) {
    for (double& v : x) v *= static_cast<double>(factor);
    return x;
  }
  static double capped(double x, float cap) {
    return cap > 0 ? static_cast<double>(cap) * std::tanh(x / static_cast<double>(cap)) : x;
  }
  // x += branch, after the norm behind it where the model has one.
  void add(Vector& x, Vector branch, const std::string& post_norm) const {
    if (source_.has(post_norm)) branch = normed(branch, post_norm);
    for (std::size_t i = 0; i < x.size(); ++i) x[i] += static_cast<double>(c_.residual_scale) * branch[i];
  }

  // Rotation of elements i and i + half of the rotary ones.
  void rotate(Vector& head, LayerKind::Rope kind, std::size_t position) const {
    const bool sliding = kind == LayerKind::Rope::sliding;
    const auto theta = static_cast<double>(sliding ? c_.sliding_rope_theta : c_.rope_theta);
    const double size = sliding ? 1.0 : static_cast<double>(c_.rope_attention_factor);
    const std::size_t half = static_cast<std::size_t>(c_.rotary_dim()) / 2;
    for (std::size_t i = 0; i < half && kind != LayerKind::Rope::none; ++i) {
      const double factor = sliding || c_.rope_factors.empty() ? 1.0 : static_cast<double>(c_.rope_factors[i]);
      const double angle =
          static_cast<double>(position) * std::pow(theta, -static_cast<double>(i) / static_cast<double>(half)) / factor;
      const double a = head[i], b = head[i + half];
      head[i] = size * (a * std::cos(angle) - b * std::sin(angle));
      head[i + half] = size * (b * std::cos(angle) + a * std::sin(angle));
    }
  }
  // Norm of each head (or of all together), then rotation.
  Vector rotated(Vector heads, const std::string& norm, LayerKind::Rope kind, std::size_t position) const {
    const std::size_t d = static_cast<std::size_t>(c_.head_dim);
    if (c_.qk_norm_whole) heads = normed(heads, norm);
    Vector out;
    for (std::size_t h = 0; h < heads.size(); h += d) {
      Vector head(heads.begin() + static_cast<std::ptrdiff_t>(h), heads.begin() + static_cast<std::ptrdiff_t>(h + d));
      if (source_.has(norm) && !c_.qk_norm_whole) head = normed(head, norm);
      rotate(head, kind, position);
      out.insert(out.end(), head.begin(), head.end());
    }
    return out;
  }

  void add_attention(const std::string& at, const LayerKind& kind, std::vector<Vector>& x) const {
    std::vector<Vector> q, k, v;
    for (std::size_t p = 0; p < x.size(); ++p) {
      const Vector in = normed(x[p], at + "attn_norm");
      q.push_back(rotated(multiply(at + "wq", in, at + "bq"), at + "q_norm", kind.rope, p));
      k.push_back(rotated(multiply(at + "wk", in, at + "bk"), at + "k_norm", kind.rope, p));
      v.push_back(multiply(at + "wv", in, at + "bv"));
    }
    for (std::size_t p = 0; p < x.size(); ++p) {
      const std::size_t window = kind.window > 0 ? static_cast<std::size_t>(kind.window) : x.size();
      const std::size_t first = p + 1 > window ? p + 1 - window : 0;
      const Vector sinks = c_.attention_sinks ? vector(at + "sinks") : Vector{};
      add(x[p], multiply(at + "wo", attend(q[p], k, v, first, p, sinks), at + "bo"), at + "attn_post_norm");
    }
  }

  // Keys first..last, itself included.
  Vector attend(const Vector& q, const std::vector<Vector>& k, const std::vector<Vector>& v, std::size_t first,
                std::size_t last, const Vector& sinks) const {
    const std::size_t d = static_cast<std::size_t>(c_.head_dim),
                      share = static_cast<std::size_t>(c_.n_heads / c_.n_kv_heads);
    const double scale = c_.attention_scale > 0 ? static_cast<double>(c_.attention_scale)
                                                : 1 / std::sqrt(static_cast<double>(c_.head_dim));
    Vector out(q.size());
    for (std::size_t h = 0; h < q.size() / d; ++h) {
      const std::size_t from = h / share * d;
      double total = 0;
      for (std::size_t key = first; key <= last; ++key) {
        double score = 0;
        for (std::size_t i = 0; i < d; ++i) score += q[h * d + i] * k[key][from + i];
        const double weight = std::exp(capped(score * scale, c_.attention_softcap));  // scores are small here
        total += weight;
        for (std::size_t i = 0; i < d; ++i) out[h * d + i] += weight * v[key][from + i];
      }
      if (!sinks.empty()) total += std::exp(sinks[h]);
      for (std::size_t i = 0; i < d; ++i) out[h * d + i] /= total;
    }
    return out;
  }

  double activation(double x) const {
    if (c_.activation == Activation::silu) return x / (1 + std::exp(-x));
    return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
  }
  Vector gated(Vector gate, const Vector& up) const {
    if (c_.activation == Activation::bounded_silu) {
      for (std::size_t i = 0; i < gate.size(); ++i) {
        const double g = std::min(gate[i], 7.0), u = std::clamp(up[i], -7.0, 7.0);
        gate[i] = g / (1 + std::exp(-1.702 * g)) * (u + 1);
      }
      return gate;
    }
    for (std::size_t i = 0; i < gate.size(); ++i) gate[i] = activation(gate[i]) * up[i];
    return gate;
  }
  Vector feed_forward(const std::string& at, const Vector& in) const {
    Vector sum(in.size());
    if (c_.hidden_dim > 0) {
      sum = multiply(at + "w_down", gated(multiply(at + "w_gate", in), multiply(at + "w_up", in)));
      if (c_.shared_expert_gate) {
        const double weight = 1 / (1 + std::exp(-multiply(at + "shared_router", in)[0]));
        for (double& v : sum) v *= weight;
      }
    }
    if (c_.n_experts > 0) add_experts(at, in, sum);
    return sum;
  }

  // Rows of one expert.
  Vector multiply_expert(const std::string& at, const std::string& name, std::size_t expert, const Vector& x) const {
    const auto rows = static_cast<std::size_t>(source_.tensor(at + "w_" + name).rows / c_.n_experts);
    const Vector all = multiply(at + "w_" + name, x, at + "b_" + name);
    const auto first = all.begin() + static_cast<std::ptrdiff_t>(expert * rows);
    return Vector(first, first + static_cast<std::ptrdiff_t>(rows));
  }
  void add_experts(const std::string& at, const Vector& in, Vector& sum) const {
    Vector power = multiply(at + "router", in, at + "router_bias");
    for (double& v : power) v = std::exp(v);
    std::vector<std::size_t> ranked(power.size());
    std::iota(ranked.begin(), ranked.end(), 0);
    std::stable_sort(ranked.begin(), ranked.end(), [&](std::size_t a, std::size_t b) { return power[a] > power[b]; });
    ranked.resize(static_cast<std::size_t>(c_.n_experts_used));
    double total = c_.normalised_expert_weights ? 0 : std::accumulate(power.begin(), power.end(), 0.0);
    for (const std::size_t e : ranked) total += c_.normalised_expert_weights ? power[e] : 0;
    for (const std::size_t e : ranked) {
      const Vector hidden = gated(multiply_expert(at, "gate_experts", e, in), multiply_expert(at, "up_experts", e, in));
      const Vector out = multiply_expert(at, "down_experts", e, hidden);
      for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += power[e] / total * out[i];
    }
  }

  const ModelSource& source_;
  const ModelConfig& c_;
};

// Tokens of the reference are more than the short factors of "phi3-long" are for.
std::int64_t context_of(const std::string& model) {
  return model.starts_with("phi3-long") ? 64 : 0;
}

std::unique_ptr<ModelSource> open_model(const std::string& model) {
  return open_model_source(test::data_path("architectures/" + model), context_of(model));
}

void expect_logits(const std::string& model, const std::string& expected_of) {
  const auto source = open_model(model);
  const auto expected =
      nlohmann::json::parse(read_file(test::data_path("architectures/" + expected_of + "/expected.json")));
  const auto got = PlainModel(*source).logits(expected["tokens"].get<std::vector<TokenId>>());
  for (std::size_t n = 0; n < expected["positions"].size(); ++n) {
    const Vector want = expected["logits"][n].get<Vector>();
    const Vector& row = got[expected["positions"][n].get<std::size_t>()];
    ASSERT_EQ(row.size(), want.size());
    double difference = 0, size = 0;
    for (std::size_t i = 0; i < want.size(); ++i) {
      difference += (row[i] - want[i]) * (row[i] - want[i]);
      size += want[i] * want[i];
    }
    EXPECT_LT(std::sqrt(difference / size), 1e-5) << model << " position " << expected["positions"][n];
  }
}

// Models that are there as GGUF too.
constexpr auto kBoth = {"llama-yarn", "gemma2",  "gemma3",   "phi3",     "phi3-short", "phi3-long",  "granite",
                        "smollm3",    "mixtral", "qwen2moe", "qwen3moe", "olmoe",      "granitemoe", "gpt-oss"};

TEST(Architectures, LogitsAsTransformers) {
  for (const char* name : {"llama-untied", "llama-tied", "llama3", "llama-linear", "mistral", "qwen2", "qwen3"}) {
    expect_logits(name, name);
  }
  for (const char* name : kBoth) expect_logits(name, name);
  expect_logits("gemma3-pictures", "gemma3");
  expect_logits("gpt-oss-mxfp4", "gpt-oss");
}

// As the converter of the same weights needs them: every row of every tensor has the same bits from both sources, and
// the configurations are one.
void expect_same_source(const std::string& model, const std::string& in_folder) {
  const auto gguf = open_model(model + ".gguf"), folder = open_model(in_folder);
  for (const TensorSpec& spec : tensor_specs(folder->config())) {
    const SourceTensor &a = gguf->tensor(spec.canonical), &b = folder->tensor(spec.canonical);
    std::vector<float> x(static_cast<std::size_t>(a.cols)), y(x.size());
    ASSERT_EQ(a.rows, b.rows);
    if (spec.rows == 0) {
      ASSERT_EQ(gguf->read_vector(spec.canonical), folder->read_vector(spec.canonical)) << model << spec.canonical;
      continue;
    }
    for (std::int64_t r = 0; r < a.rows; ++r) {
      gguf->read_row_f32(a, r, x.data());
      folder->read_row_f32(b, r, y.data());
      ASSERT_EQ(x, y) << model << " " << spec.canonical << " row " << r;
    }
  }
  Manifest a, b;
  a.config = gguf->config();
  b.config = folder->config();
  a.config.model_name = b.config.model_name = "";
  EXPECT_EQ(to_json(a), to_json(b)) << model;
  EXPECT_EQ(gguf->tokenizer().tokens, folder->tokenizer().tokens);
}

TEST(Architectures, GgufAndFolderOfTheSameWeightsAreOneModel) {
  for (const char* name : kBoth) expect_same_source(name, name);
  expect_same_source("gpt-oss", "gpt-oss-mxfp4");
}

TEST(Architectures, GgufOfTheSameModelGivesTheSame) {
  expect_logits("llama3.gguf", "llama3");
  const auto gguf = open_model_source(test::data_path("architectures/llama3.gguf"));
  const auto folder = open_model_source(test::data_path("architectures/llama3"));
  for (const TensorSpec& spec : tensor_specs(folder->config())) {
    const SourceTensor& a = gguf->tensor(spec.canonical);
    const SourceTensor& b = folder->tensor(spec.canonical);
    std::vector<float> x(static_cast<std::size_t>(a.cols)), y(x.size());
    ASSERT_EQ(a.rows, b.rows);
    for (std::int64_t r = 0; r < a.rows; ++r) {
      gguf->read_row_f32(a, r, x.data());
      folder->read_row_f32(b, r, y.data());
      ASSERT_EQ(x, y) << spec.canonical << " row " << r;
    }
  }
  const auto& scaled = folder->config().rope_factors;
  ASSERT_EQ(gguf->config().rope_factors.size(), scaled.size());
  for (std::size_t i = 0; i < scaled.size(); ++i)
    EXPECT_NEAR(gguf->config().rope_factors[i], scaled[i], 1e-5f * scaled[i]);
  EXPECT_EQ(gguf->tokenizer().tokens, folder->tokenizer().tokens);
  EXPECT_EQ(gguf->tokenizer().merges, folder->tokenizer().merges);
  EXPECT_EQ(gguf->tokenizer().pre, folder->tokenizer().pre);
}

}  // namespace
}  // namespace jupiter

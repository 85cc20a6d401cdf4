// Every architecture, as the readers hand it out, against the logits of Hugging Face transformers: a plain forward pass
// in double precision over ModelSource (tests/fixtures/make_architectures.py makes models and logits).
#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "io/convert/model_source.hpp"
#include "io/files.hpp"
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
    for (const TokenId id : tokens) x.push_back(row("embed", id));
    for (std::int64_t layer = 0; layer < c_.n_layers; ++layer) {
      const std::string at = "layers." + std::to_string(layer) + ".";
      add_attention(at, x);
      for (Vector& v : x) add_feed_forward(at, v);
    }
    std::vector<Vector> out;
    for (const Vector& v : x) {
      out.push_back(multiply(source_.has("output") ? "output" : "embed", normed(v, "output_norm")));
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

  // Norm of each head (qwen3), then rotation of elements i and i + head_dim/2.
  Vector rotated(const Vector& heads, const std::string& norm, std::size_t position) const {
    const std::size_t d = static_cast<std::size_t>(c_.head_dim), half = d / 2;
    Vector out;
    for (std::size_t h = 0; h < heads.size(); h += d) {
      Vector head(heads.begin() + static_cast<std::ptrdiff_t>(h), heads.begin() + static_cast<std::ptrdiff_t>(h + d));
      if (source_.has(norm)) head = normed(head, norm);
      for (std::size_t i = 0; i < half; ++i) {
        const double factor = c_.rope_factors.empty() ? 1.0 : static_cast<double>(c_.rope_factors[i]);
        const double exponent = -2.0 * static_cast<double>(i) / static_cast<double>(d);
        const double angle =
            static_cast<double>(position) * std::pow(static_cast<double>(c_.rope_theta), exponent) / factor;
        const double a = head[i], b = head[i + half];
        head[i] = a * std::cos(angle) - b * std::sin(angle);
        head[i + half] = b * std::cos(angle) + a * std::sin(angle);
      }
      out.insert(out.end(), head.begin(), head.end());
    }
    return out;
  }

  void add_attention(const std::string& at, std::vector<Vector>& x) const {
    std::vector<Vector> q, k, v;
    for (std::size_t p = 0; p < x.size(); ++p) {
      const Vector in = normed(x[p], at + "attn_norm");
      q.push_back(rotated(multiply(at + "wq", in, at + "bq"), at + "q_norm", p));
      k.push_back(rotated(multiply(at + "wk", in, at + "bk"), at + "k_norm", p));
      v.push_back(multiply(at + "wv", in, at + "bv"));
    }
    for (std::size_t p = 0; p < x.size(); ++p) {
      const std::size_t window = c_.sliding_window > 0 ? static_cast<std::size_t>(c_.sliding_window) : x.size();
      const std::size_t first = p + 1 > window ? p + 1 - window : 0;
      const Vector out = multiply(at + "wo", attend(q[p], k, v, first, p));
      for (std::size_t i = 0; i < out.size(); ++i) x[p][i] += out[i];
    }
  }

  // Keys first..last, itself included.
  Vector attend(const Vector& q, const std::vector<Vector>& k, const std::vector<Vector>& v, std::size_t first,
                std::size_t last) const {
    const std::size_t d = static_cast<std::size_t>(c_.head_dim),
                      share = static_cast<std::size_t>(c_.n_heads / c_.n_kv_heads);
    Vector out(q.size());
    for (std::size_t h = 0; h < q.size() / d; ++h) {
      const std::size_t from = h / share * d;
      double total = 0;
      for (std::size_t key = first; key <= last; ++key) {
        double score = 0;
        for (std::size_t i = 0; i < d; ++i) score += q[h * d + i] * k[key][from + i];
        const double weight = std::exp(score / std::sqrt(static_cast<double>(d)));  // scores are small here
        total += weight;
        for (std::size_t i = 0; i < d; ++i) out[h * d + i] += weight * v[key][from + i];
      }
      for (std::size_t i = 0; i < d; ++i) out[h * d + i] /= total;
    }
    return out;
  }

  void add_feed_forward(const std::string& at, Vector& x) const {
    const Vector in = normed(x, at + "ffn_norm");
    Vector gate = multiply(at + "w_gate", in);
    const Vector up = multiply(at + "w_up", in);
    for (std::size_t i = 0; i < gate.size(); ++i) gate[i] = gate[i] / (1 + std::exp(-gate[i])) * up[i];
    const Vector out = multiply(at + "w_down", gate);
    for (std::size_t i = 0; i < out.size(); ++i) x[i] += out[i];
  }

  const ModelSource& source_;
  const ModelConfig& c_;
};

void expect_logits(const std::string& model, const std::string& expected_of) {
  const auto source = open_model_source(test::data_path("architectures/" + model));
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

TEST(Architectures, LogitsAsTransformers) {
  for (const char* name : {"llama-untied", "llama-tied", "llama3", "llama-linear", "mistral", "qwen2", "qwen3"}) {
    expect_logits(name, name);
  }
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

// Shapes and the random pool.
#include "io/convert/synth.hpp"

#include <fmt/format.h>
#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "io/convert/rope_scaling.hpp"
#include "io/error.hpp"
#include "io/float16.hpp"

namespace jupiter {

namespace {

struct Shape {
  const char* name;
  std::int64_t dim, hidden_dim, n_layers, n_heads, n_kv_heads, head_dim, vocab_size, max_seq_len;
  float rope_theta;
  bool tied;
  void (*more)(ModelConfig&) = nullptr;  // what is not the same in every architecture
};

void qwen3(ModelConfig& c) {
  c.architecture = Architecture::qwen3;
  c.qk_norm = true;
  c.norm_eps = 1e-6f;
}
void qwen3_30b_a3b(ModelConfig& c) {
  qwen3(c);
  c.architecture = Architecture::qwen3moe;
  c.n_experts = 128;
  c.n_experts_used = 8;
  c.expert_hidden_dim = 768;
  c.normalised_expert_weights = true;
}
void gemma3(ModelConfig& c) {
  c.architecture = Architecture::gemma3;
  c.qk_norm = c.post_norms = true;
  c.norm_eps = 1e-6f;
  c.activation = Activation::gelu;
  c.residual = Precision::bf16;
  c.embedding_scale = std::sqrt(static_cast<float>(c.dim));
  c.rope_factors.assign(static_cast<std::size_t>(c.head_dim / 2), 8.0f);
  c.sliding_window = 1024;
  c.sliding_rope_theta = 10000.0f;
  for (std::int64_t layer = 5; layer < c.n_layers; layer += 6) c.full_attention_layers.push_back(layer);
}

void gpt_oss(ModelConfig& c) {
  c.architecture = Architecture::gpt_oss;
  set_gpt_oss(c);
  c.n_experts_used = 4;
  c.expert_hidden_dim = 2880;
  c.normalised_expert_weights = true;
  c.sliding_window = 128;
  for (std::int64_t layer = 1; layer < c.n_layers; layer += 2) c.full_attention_layers.push_back(layer);
  const YarnScaling yarn{.factor = 32, .original_context = 4096, .truncate = false};
  c.rope_factors = yarn_factors(yarn, c);
  c.rope_attention_factor = static_cast<float>(yarn_attention_factor(yarn.factor));
}
void gpt_oss_20b(ModelConfig& c) {
  gpt_oss(c);
  c.n_experts = 32;
}
void gpt_oss_120b(ModelConfig& c) {
  gpt_oss(c);
  c.n_experts = 128;
}

constexpr std::array kShapes = {
    Shape{"tiny", 64, 192, 32, 4, 2, 16, 512, 1024, 10000.0f, true},
    Shape{"smollm2-135m", 576, 1536, 30, 9, 3, 64, 49152, 8192, 100000.0f, true},
    Shape{"tinyllama-1.1b", 2048, 5632, 22, 32, 4, 64, 32000, 2048, 10000.0f, false},
    Shape{"llama2-7b", 4096, 11008, 32, 32, 32, 128, 32000, 4096, 10000.0f, false},
    Shape{"llama2-13b", 5120, 13824, 40, 40, 40, 128, 32000, 4096, 10000.0f, false},
    Shape{"llama3-8b", 4096, 14336, 32, 32, 8, 128, 128256, 8192, 500000.0f, false},
    Shape{"llama3-70b", 8192, 28672, 80, 64, 8, 128, 128256, 8192, 500000.0f, false},
    Shape{"qwen3-8b", 4096, 12288, 36, 32, 8, 128, 151936, 40960, 1000000.0f, false, qwen3},
    Shape{"qwen3-14b", 5120, 17408, 40, 40, 8, 128, 151936, 40960, 1000000.0f, false, qwen3},
    Shape{"qwen3-30b-a3b", 2048, 0, 48, 32, 4, 128, 151936, 40960, 1000000.0f, false, qwen3_30b_a3b},
    Shape{"gpt-oss-20b", 2880, 0, 24, 64, 8, 64, 201088, 131072, 150000.0f, false, gpt_oss_20b},
    Shape{"gpt-oss-120b", 2880, 0, 36, 64, 8, 64, 201088, 131072, 150000.0f, false, gpt_oss_120b},
    Shape{"gemma3-4b", 2560, 10240, 34, 8, 4, 256, 262144, 131072, 1000000.0f, true, gemma3},
    Shape{"gemma3-12b", 3840, 15360, 48, 16, 8, 256, 262144, 131072, 1000000.0f, true, gemma3},
};

class Random {  // SplitMix64
 public:
  explicit Random(std::uint64_t seed) : state_(seed) {}
  std::uint64_t next() {
    std::uint64_t x = (state_ += 0x9e3779b97f4a7c15ull);
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
    return x ^ (x >> 31);
  }
  float symmetric(float limit) {  // uniform in [-limit, limit)
    return (static_cast<float>(next() >> 40) * 0x1p-23f - 1.0f) * limit;
  }

 private:
  std::uint64_t state_;
};

// Shared memory without a file: a source may tell the kernel to drop pages, which must not lose them.
class Pool {
 public:
  explicit Pool(std::size_t bytes) : bytes_(bytes) {
    void* p = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) throw MemoryError(fmt::format("random weights: {} MiB cannot be had", bytes >> 20));
    data_ = static_cast<std::byte*>(p);
  }
  ~Pool() { ::munmap(data_, bytes_); }
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;
  std::byte* data() const { return data_; }
  std::size_t size() const { return bytes_; }

 private:
  std::byte* data_ = nullptr;
  std::size_t bytes_;
};

constexpr float kLimit = 0.035f;  // uniform within it: standard deviation 0.02

// Fills the pool with blocks of the type: random integers under one scale.
void fill(const Pool& pool, GgufType type, Random& random) {
  const GgufBlock block = gguf_block(type);
  const std::size_t count = pool.size() / block.bytes;
  for (std::size_t i = 0; i < count; ++i) {
    std::byte* at = pool.data() + i * block.bytes;
    if (type == GgufType::f32) {
      const float x = random.symmetric(kLimit);
      std::memcpy(at, &x, 4);
    } else if (type == GgufType::f16) {
      const f16_t x = f32_to_f16(random.symmetric(kLimit));
      std::memcpy(at, &x, 2);
    } else {
      for (std::size_t b = 0; b < block.bytes; b += 8) {
        const std::uint64_t x = random.next();
        std::memcpy(at + b, &x, std::min<std::size_t>(8, block.bytes - b));
      }
      const f16_t scale = f32_to_f16(kLimit / (type == GgufType::q8_0 ? 128.0f : 8.0f));
      if (type == GgufType::mxfp4) {
        at[0] = std::byte{119};  // within 12 * 2^(119 - 128)
      } else {
        std::memcpy(at, &scale, 2);  // Q4_0 and Q8_0 blocks begin with it
      }
    }
  }
}

TokenizerData synth_tokenizer(std::int64_t vocab_size) {
  TokenizerData t;
  t.kind = TokenizerKind::byte_bpe;
  t.pre = PreTokenizer::gpt2;
  char32_t next = 256;
  for (int b = 0; b < 256; ++b) {  // GPT-2's byte alphabet: printable bytes stand for themselves
    const bool printable = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
    const char32_t code = printable ? static_cast<char32_t>(b) : next++;
    std::string text;
    if (code < 0x80) {
      text += static_cast<char>(code);
    } else {
      text += static_cast<char>(0xc0 | (code >> 6));
      text += static_cast<char>(0x80 | (code & 0x3f));
    }
    t.tokens.push_back(text);
  }
  for (std::int64_t i = 256; i < vocab_size; ++i) t.tokens.push_back(fmt::format("<{}>", i));
  t.types.assign(vocab_size, TokenType::normal);
  return t;
}

}  // namespace

std::string synth_shape_names() {
  std::string names;
  for (const Shape& s : kShapes) names += (names.empty() ? "" : ", ") + std::string(s.name);
  return names;
}

std::optional<ModelConfig> synth_shape(std::string_view name) {
  for (const Shape& s : kShapes) {
    if (name != s.name) continue;
    ModelConfig c;
    c.model_name = std::string("random ") + s.name;
    c.dim = s.dim;
    c.hidden_dim = s.hidden_dim;
    c.n_layers = s.n_layers;
    c.n_heads = s.n_heads;
    c.n_kv_heads = s.n_kv_heads;
    c.head_dim = s.head_dim;
    c.vocab_size = s.vocab_size;
    c.max_seq_len = s.max_seq_len;
    c.rope_theta = s.rope_theta;
    c.tied_embeddings = s.tied;
    if (s.more != nullptr) s.more(c);
    return c;
  }
  return std::nullopt;
}

std::unique_ptr<ModelSource> synth_source(const ModelConfig& config, GgufType type, std::uint64_t seed) {
  const GgufBlock block = gguf_block(type);
  std::size_t largest = 0;
  for (const TensorSpec& spec : tensor_specs(config)) {
    if (spec.rows > 0)
      largest = std::max(largest, static_cast<std::size_t>(spec.rows) * gguf_row_bytes(type, spec.cols));
  }
  Random random(seed);
  const std::size_t slack = largest / 4 / block.bytes;  // blocks by which a tensor's stretch may start later
  auto pool = std::make_shared<Pool>(largest + (slack + 1) * block.bytes);
  fill(*pool, type, random);
  // Norms change nothing, nor do biases.
  std::int64_t longest = 0;
  for (const TensorSpec& spec : tensor_specs(config)) longest = std::max(longest, spec.rows == 0 ? spec.cols : 0);
  auto ones = std::make_shared<std::vector<float>>(longest, 1.0f),
       zeros = std::make_shared<std::vector<float>>(longest);

  std::vector<SourceTensor> tensors;
  for (const TensorSpec& spec : tensor_specs(config)) {
    if (spec.canonical == "output" && config.tied_embeddings) continue;
    SourceTensor t;
    t.name = spec.canonical;
    t.rows = std::max<std::int64_t>(spec.rows, 1);
    t.cols = spec.cols;
    if (spec.rows == 0) {
      t.stored = GgufType::f32;
      t.parts = {reinterpret_cast<const std::byte*>((t.name.ends_with("norm") ? ones : zeros)->data())};
    } else {
      t.stored = type;
      t.format = *packed_format(type);
      t.parts = {pool->data() + random.next() % (slack + 1) * block.bytes};
    }
    tensors.push_back(t);
  }
  struct Keep {
    std::shared_ptr<Pool> pool;
    std::shared_ptr<std::vector<float>> ones, zeros;
  };
  return std::make_unique<ModelSource>("random", config, synth_tokenizer(config.vocab_size), std::move(tensors),
                                       std::make_shared<const Keep>(Keep{pool, ones, zeros}));
}

}  // namespace jupiter

// Builds small GGUF files in memory, well-formed or deliberately not.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

namespace jupiter::test {

class GgufBuilder {
 public:
  using Bytes = std::vector<std::byte>;

  template <typename T>
  static void put(Bytes& out, T value) {
    const std::size_t at = out.size();
    out.resize(at + sizeof(T));
    std::memcpy(out.data() + at, &value, sizeof(T));
  }
  static void put_string(Bytes& out, const std::string& text) {
    put<std::uint64_t>(out, text.size());
    for (const char c : text) put(out, c);
  }

  // Each replaces an earlier entry of that key.
  GgufBuilder& u32(const std::string& key, std::uint32_t v) { return scalar(key, 4, v); }
  GgufBuilder& u64(const std::string& key, std::uint64_t v) { return scalar(key, 10, v); }
  GgufBuilder& f32(const std::string& key, float v) { return scalar(key, 6, v); }
  GgufBuilder& boolean(const std::string& key, bool v) { return scalar(key, 7, static_cast<std::uint8_t>(v)); }
  GgufBuilder& text(const std::string& key, const std::string& v) {
    Bytes payload;
    put_string(payload, v);
    return entry(key, 8, std::move(payload));
  }
  GgufBuilder& texts(const std::string& key, const std::vector<std::string>& values) {
    Bytes payload = array_header(8, values.size());
    for (const std::string& v : values) put_string(payload, v);
    return entry(key, 9, std::move(payload));
  }
  template <typename T>
  GgufBuilder& numbers(const std::string& key, std::uint32_t element_type, const std::vector<T>& values) {
    Bytes payload = array_header(element_type, values.size());
    for (const T v : values) put(payload, v);
    return entry(key, 9, std::move(payload));
  }
  GgufBuilder& entry(const std::string& key, std::uint32_t type, Bytes payload) {
    remove(key);
    entries_.push_back({key, type, std::move(payload)});
    return *this;
  }
  GgufBuilder& remove(const std::string& key) {
    std::erase_if(entries_, [&key](const Entry& e) { return e.key == key; });
    return *this;
  }

  // shape: columns first.
  GgufBuilder& tensor(const std::string& name, const std::vector<std::uint64_t>& shape, std::uint32_t type,
                      Bytes data) {
    std::erase_if(tensors_, [&name](const Tensor& t) { return t.name == name; });
    tensors_.push_back({name, shape, type, std::move(data)});
    return *this;
  }
  GgufBuilder& tensor_f32(const std::string& name, const std::vector<std::uint64_t>& shape, float first = 0.5f) {
    std::uint64_t count = 1;
    for (const std::uint64_t n : shape) count *= n;
    Bytes data;
    for (std::uint64_t i = 0; i < count; ++i) put(data, first + static_cast<float>(i));
    return tensor(name, shape, 0, std::move(data));
  }
  GgufBuilder& remove_tensor(const std::string& name) {
    std::erase_if(tensors_, [&name](const Tensor& t) { return t.name == name; });
    return *this;
  }

  // The last tensor is not padded: every byte of the file matters.
  Bytes build(std::uint32_t version = 3, std::uint64_t alignment = 32) const {
    Bytes out;
    for (const char c : {'G', 'G', 'U', 'F'}) put(out, c);
    put(out, version);
    put<std::uint64_t>(out, tensors_.size());
    put<std::uint64_t>(out, entries_.size());
    for (const Entry& e : entries_) {
      put_string(out, e.key);
      put(out, e.type);
      out.insert(out.end(), e.payload.begin(), e.payload.end());
    }
    const auto padded = [alignment](std::uint64_t n) { return (n + alignment - 1) / alignment * alignment; };
    std::uint64_t offset = 0;
    for (const Tensor& t : tensors_) {
      put_string(out, t.name);
      put(out, static_cast<std::uint32_t>(t.shape.size()));
      for (const std::uint64_t n : t.shape) put(out, n);
      put(out, t.type);
      put(out, offset);
      offset = padded(offset + t.data.size());
    }
    for (const Tensor& t : tensors_) {
      out.resize(padded(out.size()));
      out.insert(out.end(), t.data.begin(), t.data.end());
    }
    return out;
  }

 private:
  struct Entry {
    std::string key;
    std::uint32_t type;
    Bytes payload;
  };
  struct Tensor {
    std::string name;
    std::vector<std::uint64_t> shape;
    std::uint32_t type;
    Bytes data;
  };
  template <typename T>
  GgufBuilder& scalar(const std::string& key, std::uint32_t type, T value) {
    Bytes payload;
    put(payload, value);
    return entry(key, type, std::move(payload));
  }
  static Bytes array_header(std::uint32_t element_type, std::uint64_t count) {
    Bytes payload;
    put(payload, element_type);
    put(payload, count);
    return payload;
  }
  std::vector<Entry> entries_;
  std::vector<Tensor> tensors_;
};

// A whole model: architecture llama, 1 layer, dim 8, 2 heads of 4, hidden 8, 4 tokens, SentencePiece.
inline GgufBuilder tiny_llama() {
  GgufBuilder b;
  b.text("general.architecture", "llama").text("general.name", "tiny");
  b.u32("llama.block_count", 1).u32("llama.context_length", 64).u32("llama.embedding_length", 8);
  b.u32("llama.feed_forward_length", 8).u32("llama.attention.head_count", 2).u32("llama.attention.head_count_kv", 1);
  b.f32("llama.attention.layer_norm_rms_epsilon", 1e-5f).f32("llama.rope.freq_base", 10000.0f);
  b.text("tokenizer.ggml.model", "llama").texts("tokenizer.ggml.tokens", {"<unk>", "<s>", "</s>", "a"});
  b.numbers<float>("tokenizer.ggml.scores", 6, {0, 0, 0, -1})
      .numbers<std::int32_t>("tokenizer.ggml.token_type", 5, {2, 3, 3, 1});
  b.tensor_f32("token_embd.weight", {8, 4}).tensor_f32("output_norm.weight", {8});
  b.tensor_f32("blk.0.attn_norm.weight", {8}).tensor_f32("blk.0.ffn_norm.weight", {8});
  b.tensor_f32("blk.0.attn_q.weight", {8, 8})
      .tensor_f32("blk.0.attn_k.weight", {8, 4})
      .tensor_f32("blk.0.attn_v.weight", {8, 4});
  b.tensor_f32("blk.0.attn_output.weight", {8, 8}).tensor_f32("blk.0.ffn_gate.weight", {8, 8});
  b.tensor_f32("blk.0.ffn_up.weight", {8, 8}).tensor_f32("blk.0.ffn_down.weight", {8, 8});
  return b;
}

}  // namespace jupiter::test

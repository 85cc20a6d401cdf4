// A model to convert, whatever file it comes from: configuration, tokenizer, and rows of tensors under canonical names.
//   "embed" [vocab][dim]  "output" [vocab][dim] (absent: tied to embed)  "output_norm" [dim]
//   per layer "layers.N.": wq [q_dim][dim]  wk wv [kv_dim][dim]  wo [dim][q_dim]  w_gate w_up [hidden][dim]
//   w_down [dim][hidden]; vectors attn_norm ffn_norm [dim]; with qkv_bias: bq [q_dim]  bk bv [kv_dim];
//   with qk_norm: q_norm k_norm [head_dim]; with post_norms: attn_post_norm ffn_post_norm [dim];
//   with experts: router [n_experts][dim]  w_gate_experts w_up_experts [n_experts * expert_hidden][dim]
//   w_down_experts [n_experts * dim][expert_hidden], and with a gate of the shared one shared_router [1][dim];
//   with expert_bias: vectors router_bias [n_experts] and, of all experts, b_gate_experts b_up_experts b_down_experts;
//   with attention_output_bias: bo [dim]; with attention_sinks: sinks [n_heads]
// Rows of wq and wk (and bq, bk) come in Hugging Face's order, where RoPE pairs element i of a head with i +
// head_dim/2.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "io/formats/gguf_quants.hpp"
#include "io/model/model_config.hpp"
#include "io/tokenizer/tokenizer_data.hpp"

namespace jupiter {

struct SourceTensor {
  std::string name;             // canonical
  Format format = Format::f32;  // holds the stored values without loss
  std::int64_t rows = 0;        // 1 for vectors
  std::int64_t cols = 0;

  // How the source stores it; read through ModelSource.
  GgufType stored = GgufType::f32;
  std::vector<const std::byte*> parts;      // the rows lie in so many equal parts: one, or one for each expert
  std::int64_t row_step = 1;                // every so many stored rows is one of this matrix
  std::int64_t column_step = 0;             // > 0: a row's elements lie so many apart (stored transposed)
  std::vector<const std::byte*> exponents;  // by part: MXFP4 whose scales lie apart (mxfp4_rows.hpp)
  std::int64_t interleaved_head_dim = 0;    // > 0: rows (elements of a bias) of each head are stored interleaved
  float added = 0;                          // to each value of a vector
  std::size_t row_bytes() const { return gguf_row_bytes(stored, cols); }
  std::int64_t part_rows() const { return rows / static_cast<std::int64_t>(parts.size()); }
  std::size_t bytes() const { return static_cast<std::size_t>(rows) * row_bytes(); }
};

class ModelSource {
 public:
  // `keep` owns the memory that the tensors look at. FormatError, naming `file`, where a tensor of the configuration
  // is missing.
  ModelSource(std::string file, ModelConfig config, TokenizerData tokenizer, std::vector<SourceTensor> tensors,
              std::shared_ptr<const void> keep);

  const std::string& file() const { return file_; }
  const ModelConfig& config() const { return config_; }
  const TokenizerData& tokenizer() const { return tokenizer_; }

  bool has(std::string_view name) const { return tensors_.find(name) != tensors_.end(); }
  // Throws FormatError where there is none of that name.
  const SourceTensor& tensor(std::string_view name) const;

  // Quantised formats only; `out` is QuantizedRow(tensor.format, tensor.cols). Lossless.
  void read_row(const SourceTensor& tensor, std::int64_t row, QuantizedRow& out) const;
  // Any format: out[cols]. Values are not checked: a damaged file may hold NaN or infinity.
  void read_row_f32(const SourceTensor& tensor, std::int64_t row, float* out) const;
  // norms and biases, in canonical order.
  std::vector<float> read_vector(std::string_view name) const;

  // The tensor is done with: its pages need not stay in memory.
  void release(const SourceTensor& tensor) const;

 private:
  struct StoredRow {
    const std::byte* bytes;
    const std::byte* exponents;  // null where they lie with the weights
  };
  StoredRow stored(const SourceTensor& tensor, std::int64_t row) const;

  std::string file_;
  ModelConfig config_;
  TokenizerData tokenizer_;
  std::map<std::string, SourceTensor, std::less<>> tensors_;
  std::shared_ptr<const void> keep_;
};

// A GGUF file, or a Hugging Face folder. Every tensor's shape is checked against the configuration. context: the
// longest sequence that the model is for, where that decides about its arithmetic (choose_long_rope()); 0: its own.
std::unique_ptr<ModelSource> open_model_source(const std::string& path, std::int64_t context = 0);

// Where a source has a tensor.
struct StoredPlace {
  std::string name;
  std::int64_t first_row = 0;    // of a stored tensor that holds several matrices one below the other
  std::int64_t stored_rows = 0;  // of that stored tensor; 0: it holds this matrix alone
  std::int64_t row_step = 1;     // its rows lie so many apart
  bool transposed = false;       // [cols][rows]
};

// One tensor that a configuration asks for, and where each kind of source has it.
struct TensorSpec {
  std::string canonical;
  StoredPlace gguf;
  StoredPlace hugging_face;
  std::int64_t rows = 0;  // 0: a vector
  std::int64_t cols = 0;
  bool rotary = false;           // its rows are rotated by RoPE: some GGUF architectures interleave them
  bool stored_less_one = false;  // Hugging Face stores this norm's weight less one, which GGUF adds
  // Experts, of rows / parts rows each. A name with {} stands for a tensor for each of them; else one tensor has them
  // all, and the place is that of each expert in its own part.
  std::int64_t parts = 1;
};
// Every tensor of a model, in the order of the forward pass.
std::vector<TensorSpec> tensor_specs(const ModelConfig& config);

// A vector with a part for each expert: its elements are read as rows of one column.
inline bool is_list_of_experts(const TensorSpec& spec) {
  return spec.rows == 0 && spec.parts > 1;
}

// The tensor of a spec under its canonical name, from its place in this source. find: the stored tensor of a name, or
// FormatError. FormatError, naming `file`, where a shape is not the one that `spec` asks for. interleaved: the source
// stores the halves of each rotary head as pairs.
SourceTensor source_tensor(const std::function<StoredTensor(const std::string&)>& find, const StoredPlace& place,
                           const TensorSpec& spec, const ModelConfig& config, bool interleaved, std::string_view file);
// A tensor that the architecture as we compute it does not use: ignoring it would change the answer.
[[noreturn]] void refuse_tensor(std::string_view name, std::string_view file);

}  // namespace jupiter

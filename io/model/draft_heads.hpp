// The weights of heads that draft from a model's hidden state, as files hold them and as training changes them.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "io/float16.hpp"
#include "io/model/manifest.hpp"
#include "io/tokenizer/tokenizer_data.hpp"

namespace jupiter {

// Which model a draft file is for. A model's conversions to other precisions have the same identity.
struct DraftIdentity {
  std::int64_t vocab_size = 0;
  std::int64_t dim = 0;
  std::int64_t n_layers = 0;
  std::string tokenizer_hash;  // hex, over the checksums of its datasets
};

inline constexpr float kDraftHeadNormEps = 1e-6f;  // in rms(x) = sqrt(mean(x^2) + eps) of the sequential head

// A small network that goes from one drafted token to the next (Hydra, Ankner et al. 2024; recurrent drafter, Zhang et
// al. 2024). Let norm(x) = x / rms(x), s the state (at first the model's hidden row after its final norm), and e the
// row of the model's output head that belongs to the next token. Then
//   next state = gain * norm(norm(s) + w2 silu(w1 [norm(s); norm(e)] + b1)),
// and the logits of what follows are (output head) * (next state), over the draft vocabulary only.
struct DraftHeadShape {
  std::int64_t dim = 0;
  std::int64_t units = 0;
  std::int64_t w1() const { return units * 2 * dim; }  // [units][2 dim]
  std::int64_t w2() const { return dim * units; }      // [dim][units]
  std::int64_t b1_at() const { return w1(); }          // [units]
  std::int64_t w2_at() const { return b1_at() + units; }
  std::int64_t gain_at() const { return w2_at() + w2(); }  // [dim]
  std::int64_t size() const { return gain_at() + dim; }
};

struct SequentialHead {
  DraftHeadShape shape;
  std::vector<TokenId> tokens;  // draft vocabulary: rows of the model's output head, ascending
  std::vector<float> weights;   // [shape.size()]: w1, b1, w2, gain
  std::string accuracy;         // what validation said; information only
};

// Medusa heads (Cai et al. 2024). Head i guesses the token i + 1 places after the newest one, whatever comes between.
// Its layers compute x + silu(W x + b); a matrix to the whole vocabulary follows.
struct MedusaHeads {
  struct Layer {
    std::vector<f16_t> weight;  // [dim][dim]
    std::vector<f16_t> bias;    // [dim]
  };
  struct Head {
    std::vector<Layer> layers;
    std::vector<f16_t> output;  // [vocab_size][dim]
  };
  std::vector<Head> heads;
};

// Reads published Medusa heads: "{head}.{layer}.linear.weight", "....bias", "{head}.{layers}.weight". FormatError where
// a tensor is missing, too many, or of another shape than this model's.
MedusaHeads read_medusa_safetensors(const std::string& path, const Manifest& manifest);

// A training in progress.
struct DraftHeadTraining {
  std::string key;                   // hash of data and settings, by which a training is recognised
  std::int64_t steps = 0;            // how many are done
  std::vector<float> weights;        // as in SequentialHead
  std::vector<float> first, second;  // AdamW's moments
};

// RunError where it cannot be written.
void write_draft_head_training(const std::filesystem::path& path, const DraftHeadTraining& training);
// None where there is no file, or it is of another training. FormatError where it is damaged.
std::optional<DraftHeadTraining> read_draft_head_training(const std::filesystem::path& path, const std::string& key,
                                                          std::int64_t size);

}  // namespace jupiter

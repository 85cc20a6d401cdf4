// Medusa heads as their authors publish them.
#include <cmath>
#include <set>

#include <fmt/format.h>

#include "io/error.hpp"
#include "io/formats/safetensors.hpp"
#include "io/model/draft_heads.hpp"

namespace jupiter {

namespace {

class MedusaReader {
 public:
  MedusaReader(const std::string& path, const Manifest& manifest)
      : path_(path), file_(path), dim_(manifest.config.dim), vocab_size_(manifest.config.vocab_size) {}

  MedusaHeads read() {
    MedusaHeads medusa;
    const std::size_t layers = count_layers();
    while (file_.content().has(fmt::format("{}.0.linear.weight", medusa.heads.size()))) {
      const std::size_t h = medusa.heads.size();
      MedusaHeads::Head head;
      for (std::size_t l = 0; l < layers; ++l) {
        head.layers.push_back({matrix(fmt::format("{}.{}.linear.weight", h, l), {dim_, dim_}),
                               matrix(fmt::format("{}.{}.linear.bias", h, l), {dim_})});
      }
      head.output = matrix(fmt::format("{}.{}.weight", h, layers), {vocab_size_, dim_});
      medusa.heads.push_back(std::move(head));
    }
    for (const std::string_view name : file_.content().names()) {
      if (!used_.contains(std::string(name))) {
        throw FormatError(path_, name, fmt::format("{} heads of {} layers and an output", medusa.heads.size(), layers),
                          "a tensor that belongs to none");
      }
    }
    return medusa;
  }

 private:
  std::size_t count_layers() const {
    std::size_t layers = 0;
    while (file_.content().has(fmt::format("0.{}.linear.weight", layers))) ++layers;
    if (layers == 0) throw FormatError(path_, "0.0.linear.weight", "a tensor (Medusa heads)", "none");
    return layers;
  }

  static std::string text(const std::vector<std::int64_t>& shape) {
    std::string all = "shape";
    for (const std::int64_t n : shape) all += " " + std::to_string(n);
    return all;
  }

  // shape: rows first, as safetensors has it.
  std::vector<f16_t> matrix(const std::string& name, const std::vector<std::int64_t>& shape) {
    const StoredTensor t = file_.content().tensor(name);
    const std::vector<std::int64_t> found(t.shape.rbegin(), t.shape.rend());
    if (found != shape) {
      throw FormatError(path_, name, text(shape) + " (this model's)", text(found));
    }
    used_.insert(name);
    std::vector<f16_t> values;
    std::vector<float> row(t.cols());
    for (std::int64_t r = 0; r < t.rows(); ++r) {
      dequantize_gguf_row(t.type, t.data + static_cast<std::size_t>(r) * gguf_row_bytes(t.type, t.cols()), t.cols(),
                          row.data());
      for (const float x : row) {
        values.push_back(f32_to_f16(x));
        if (std::isfinite(f16_to_f32(values.back()))) continue;
        throw FormatError(path_, name, "numbers within f16", fmt::format("{}", x));
      }
    }
    return values;
  }

  std::string path_;
  SafetensorsFile file_;
  std::int64_t dim_, vocab_size_;
  std::set<std::string> used_;
};

}  // namespace

MedusaHeads read_medusa_safetensors(const std::string& path, const Manifest& manifest) {
  return MedusaReader(path, manifest).read();
}

}  // namespace jupiter

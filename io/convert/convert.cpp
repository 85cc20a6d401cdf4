// One shard file after the other, one panel of 16 rows after the other.
#include "io/convert/convert.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "io/enum_names.hpp"
#include "io/error.hpp"
#include "io/files.hpp"
#include "io/float16.hpp"
#include "io/hash.hpp"
#include "io/model/quantize.hpp"
#include "io/model/shards.hpp"

namespace jupiter {

namespace {

constexpr std::array<std::string_view, 5> kQuantizations = {"keep", "q4", "q8", "f16", "f32"};

bool is_half_finite(std::uint16_t bits) {
  return (bits & 0x7c00u) != 0x7c00u;
}

bool is_finite(Format format, const QuantizedRow& row) {
  for (const auto* scales : {&row.scales, &row.mins, &row.super_scales, &row.super_mins}) {
    if (!std::all_of(scales->begin(), scales->end(), is_half_finite)) return false;
  }
  if (parts(format).scales != Scales::exponent) return true;
  return std::all_of(row.sub_scales.begin(), row.sub_scales.end(),
                     [](std::uint8_t exponent) { return std::isfinite(exponent_scale(exponent)); });
}

class Converter {
 public:
  Converter(const ModelSource& source, const std::filesystem::path& folder, const ConvertOptions& options)
      : source_(source), options_(options), folder_(folder) {
    manifest_.config = source.config();
    const bool f32 = options.quantization == Quantization::f32;
    manifest_.config.residual = options.residual.value_or(f32 ? Precision::f32 : source.config().residual);
    manifest_.source = std::filesystem::path(source.file()).filename().string();
    manifest_.quantization = name(options.quantization);
    for (const TensorSpec& spec : tensor_specs(manifest_.config)) {
      if (source.has(spec.canonical)) total_bytes_ += source.tensor(spec.canonical).bytes();
    }
  }

  Manifest run() {
    write_file(tokenizer_file_name(), [&](ShardWriter& w) { write_tokenizer(w, source_.tokenizer()); });
    write_file(embed_file_name(), [&](ShardWriter& w) { matrix(w, "embed", "embed"); });
    for (std::int64_t i = 0; i < manifest_.config.n_layers; ++i) {
      write_file(layer_file_name(i), [&](ShardWriter& w) { layer(w, i); });
    }
    write_file(output_file_name(), [&](ShardWriter& w) {
      vector(w, "output_norm", "output_norm");
      if (!manifest_.config.tied_embeddings) matrix(w, "output", "output");
    });
    const std::string text = to_json(manifest_);
    std::error_code ignored;
    std::filesystem::remove(folder_ / kManifestName, ignored);  // from here to the end the folder is no model
    for (NewFile& shard : shards_) shard.put_in_place();
    write_file_atomically(folder_ / kManifestName, text);
    manifest_.hash = hash_bytes(text);
    return manifest_;
  }

 private:
  template <typename Content>
  void write_file(const std::string& name, const Content& content) {
    ShardWriter writer(folder_, name, manifest_.config);
    content(writer);
    auto [info, file] = writer.finish();
    manifest_.files.push_back(std::move(info));
    shards_.push_back(std::move(file));
  }

  void layer(ShardWriter& w, std::int64_t i) {
    const std::string prefix = fmt::format("layers.{}.", i);
    for (const char* part : {"attn_norm",
                             "wq",
                             "wk",
                             "wv",
                             "bq",
                             "bk",
                             "bv",
                             "q_norm",
                             "k_norm",
                             "wo",
                             "bo",
                             "sinks",
                             "attn_post_norm",
                             "ffn_norm",
                             "router",
                             "router_bias",
                             "w_gate_experts",
                             "w_up_experts",
                             "w_down_experts",
                             "b_gate_experts",
                             "b_up_experts",
                             "b_down_experts",
                             "shared_router",
                             "w_gate",
                             "w_up",
                             "w_down",
                             "ffn_post_norm"}) {
      if (!source_.has(prefix + part)) continue;  // the source checked that what the configuration needs is there
      if (part[0] == 'w' || is_router(part)) {
        matrix(w, prefix + part, part);
      } else {
        vector(w, prefix + part, part);
      }
    }
  }

  void vector(ShardWriter& w, const std::string& canonical, const std::string& dataset) {
    const std::vector<float> values = source_.read_vector(canonical);
    if (!std::all_of(values.begin(), values.end(), [](float v) { return std::isfinite(v); })) bad_weight(canonical, 0);
    w.write_vector(dataset, values);
    advance(canonical);
  }

  // Routers stay f32: they are small, and a little error may choose another expert.
  static bool is_router(std::string_view dataset) { return dataset.ends_with("router"); }

  Format target(const SourceTensor& t, const std::string& dataset) const {
    if (is_router(dataset)) return Format::f32;
    const bool end_of_model = dataset == "embed" || dataset == "output";
    switch (options_.quantization) {
      case Quantization::keep:
        return t.format;
      case Quantization::q4:
        return end_of_model ? Format::q8 : Format::q4m;
      case Quantization::q8:
        return Format::q8;
      case Quantization::f16:
        return Format::f16;
      default:
        return Format::f32;
    }
  }

  void matrix(ShardWriter& w, const std::string& canonical, const std::string& dataset) {
    const SourceTensor& t = source_.tensor(canonical);
    const Format format = target(t, dataset);
    if (t.cols % col_multiple(format) != 0) {
      throw FormatError(source_.file(), canonical,
                        fmt::format("columns in multiples of {} for {}", col_multiple(format), name(format)),
                        fmt::format("{} (convert with --quant f16 or f32)", t.cols));
    }
    const std::size_t row_bytes =
        is_float(format) ? static_cast<std::size_t>(t.cols) * (format == Format::f32 ? 4 : 2) : 0;
    Row scratch{QuantizedRow(is_float(format) ? Format::q8 : format, is_float(format) ? kGroupCols : t.cols),
                std::vector<float>(t.cols)};
    w.write_matrix(dataset, format, t.rows, t.cols, [&](std::int64_t panel, std::byte* bytes) {
      for (std::int64_t i = 0; i < kPanelRows; ++i) {
        const std::int64_t row = panel * kPanelRows + i;
        if (row >= t.rows) {
          pack_zero_row(format, t.cols, i, bytes);
        } else if (is_float(format)) {
          float_row(t, row, format, scratch, bytes + static_cast<std::size_t>(i) * row_bytes);
        } else {
          quantized_row(t, row, format, scratch);
          pack_row(format, t.cols, scratch.integers, i, bytes);
        }
      }
      report(t, std::min((panel + 1) * kPanelRows, t.rows));
    });
    source_.release(t);
    advance(canonical);
  }

  struct Row {
    QuantizedRow integers;
    std::vector<float> floats;
  };

  void quantized_row(const SourceTensor& t, std::int64_t row, Format format, Row& scratch) {
    if (format == t.format) {
      source_.read_row(t, row, scratch.integers);
      if (!is_finite(format, scratch.integers)) bad_weight(t.name, row);
      return;
    }
    read_floats(t, row, scratch);
    if (format == Format::q8) {
      quantize_q8(scratch.floats.data(), t.cols, scratch.integers);
    } else {
      quantize_q4m(scratch.floats.data(), t.cols, scratch.integers);
    }
    if (!is_finite(format, scratch.integers)) {
      throw FormatError(source_.file(), fmt::format("{}, row {}", t.name, row), "scales within f16's range",
                        "larger weights");
    }
  }

  void float_row(const SourceTensor& t, std::int64_t row, Format format, Row& scratch, std::byte* out) {
    read_floats(t, row, scratch);
    if (format == Format::f32) {
      std::memcpy(out, scratch.floats.data(), scratch.floats.size() * 4);
      return;
    }
    for (std::size_t i = 0; i < scratch.floats.size(); ++i) {
      const float x = scratch.floats[i];
      const std::uint16_t bits = format == Format::f16 ? f32_to_f16(x) : f32_to_bf16(x);
      if (format == Format::f16 && !is_half_finite(bits)) {
        throw FormatError(source_.file(), fmt::format("{}, row {}", t.name, row), "values within f16's range",
                          fmt::format("{} (convert with --quant f32)", x));
      }
      std::memcpy(out + 2 * i, &bits, 2);
    }
  }

  void read_floats(const SourceTensor& t, std::int64_t row, Row& scratch) {
    source_.read_row_f32(t, row, scratch.floats.data());
    for (const float x : scratch.floats) {
      if (!std::isfinite(x)) bad_weight(t.name, row);
    }
  }

  [[noreturn]] void bad_weight(const std::string& tensor, std::int64_t row) const {
    throw FormatError(source_.file(), fmt::format("{}, row {}", tensor, row), "finite weights", "NaN or infinity");
  }

  void report(const SourceTensor& t, std::int64_t rows) {
    if (options_.progress) {
      options_.progress(done_bytes_ + static_cast<std::uint64_t>(rows) * t.row_bytes(), total_bytes_);
    }
  }
  void advance(const std::string& canonical) {
    done_bytes_ += source_.tensor(canonical).bytes();
    if (options_.progress) options_.progress(done_bytes_, total_bytes_);
  }

  const ModelSource& source_;
  const ConvertOptions& options_;
  std::filesystem::path folder_;
  std::vector<NewFile> shards_;  // those of a conversion that does not end well are removed with it
  Manifest manifest_;
  std::uint64_t done_bytes_ = 0, total_bytes_ = 0;
};

}  // namespace

std::string_view name(Quantization q) {
  return kQuantizations[index_of(q)];
}

std::optional<Quantization> quantization_from_name(std::string_view text) {
  return enum_from_name<Quantization>(kQuantizations, text);
}

Manifest convert_model(const ModelSource& source, const std::filesystem::path& folder, const ConvertOptions& options) {
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error) throw RunError(folder.string() + ": cannot be created: " + error.message());
  return Converter(source, folder, options).run();
}

}  // namespace jupiter

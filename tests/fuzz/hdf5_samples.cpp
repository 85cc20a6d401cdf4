#include "hdf5_samples.hpp"

#include <array>
#include <cstring>
#include <filesystem>

#include "io/files.hpp"
#include "io/model/reference_logits.hpp"

namespace jupiter::fuzz {

namespace {

constexpr std::int64_t kVocabSize = 40, kDim = 8;

TokenizerData tokenizer() {
  TokenizerData t;
  t.kind = TokenizerKind::sentencepiece;
  for (std::int64_t id = 0; id < kVocabSize; ++id) {
    t.tokens.push_back(id < 3 ? std::string(1, static_cast<char>('a' + id)) : "piece" + std::to_string(id));
    t.types.push_back(TokenType::normal);
    t.scores.push_back(-static_cast<float>(id));
  }
  t.tokens[3] = "<s>";
  t.types[3] = TokenType::control;
  t.bos = t.eos = 3;
  t.end_of_turn = {3};
  t.add_bos = true;
  t.chat_template = "{{ messages }}";
  t.merges = {"a b"};
  return t;
}

ModelConfig config() {
  ModelConfig c;
  c.model_name = "sample";
  c.vocab_size = kVocabSize;
  c.dim = kDim;
  c.n_layers = 1;
  return c;
}

FileInfo write_layer(const std::filesystem::path& folder) {
  ShardWriter writer(folder, "layer.h5", config());
  const std::vector<float> norm(kDim, 0.5f);
  writer.write_vector("attn_norm", norm);
  writer.write_matrix("wq", Format::q8, 20, 32, [](std::int64_t panel, std::byte* bytes) {
    std::memset(bytes, static_cast<int>(panel) + 1, 64);
  });
  writer.write_matrix("wo", Format::f16, 4, kDim, [](std::int64_t, std::byte* bytes) { std::memset(bytes, 7, 16); });
  auto [info, file] = writer.finish();
  file.put_in_place();
  return info;
}

FileInfo write_tokenizer_shard(const std::filesystem::path& folder) {
  ShardWriter writer(folder, tokenizer_file_name(), config());
  write_tokenizer(writer, tokenizer());
  auto [info, file] = writer.finish();
  file.put_in_place();
  return info;
}

struct SampleFile {
  std::vector<std::byte> bytes;
  std::vector<std::size_t> places;  // of bytes that are worth changing
};

SampleFile read_sample(const std::filesystem::path& path) {
  constexpr std::size_t kNear = 16;
  const std::string content = read_file(path);
  SampleFile file;
  const auto bytes = std::as_bytes(std::span(content));
  file.bytes.assign(bytes.begin(), bytes.end());
  std::size_t quiet = kNear;  // zeros since the last other byte
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    quiet = bytes[i] == std::byte{0} ? quiet + 1 : 0;
    if (quiet < kNear) file.places.push_back(i);
  }
  return file;
}

// Written once by the program's own writers.
struct Samples {
  FileInfo layer_info, tokenizer_info;
  std::array<SampleFile, 5> files;
  Samples();
};
const Samples& samples() {
  static const Samples all;
  return all;
}

Manifest manifest_of(const FileInfo& tokenizer_info) {
  Manifest m;
  m.config = config();
  m.files = {tokenizer_info};
  return m;
}

DraftData draft(const Manifest& manifest) {
  DraftData d = empty_draft(manifest);
  d.made_from = "self";
  d.tokens = 9;
  d.tables[0] = {{4, 9}, {0, 2, 3}, {200, 1}, {5, 6, 7}, {100, 50, 255}};
  SequentialHead head;
  head.shape = {kDim, 2};
  head.tokens = {1, 2, 30};
  head.weights.assign(static_cast<std::size_t>(head.shape.size()), 0.25f);
  d.sequential = head;
  const std::vector<f16_t> square(kDim * kDim), bias(kDim), output(kVocabSize * kDim);
  d.medusa = MedusaHeads{{{{{square, bias}}, output}}};
  return d;
}

void write_reference(const std::filesystem::path& path) {
  ReferenceWriter reference(path, {{1, 2, 3}, 2, 8, "0123456789abcdef"});
  const std::vector<f16_t> row(8);
  for (std::int64_t i = 0; i < 3; ++i) reference.write(i, row);
  reference.finish();
}

Samples::Samples() {
  std::string name = (std::filesystem::temp_directory_path() / "jupiter-fuzz-XXXXXX").string();
  expect(::mkdtemp(name.data()) != nullptr, "a temporary folder cannot be made");
  const std::filesystem::path folder = name;
  layer_info = write_layer(folder);
  tokenizer_info = write_tokenizer_shard(folder);
  write_draft(folder / "draft.h5", draft(manifest_of(tokenizer_info)));
  write_draft_head_training(folder / "training.h5", sample_training());
  write_reference(folder / "reference.h5");
  constexpr const char* kNames[] = {"layer.h5", "tokenizer.h5", "draft.h5", "training.h5", "reference.h5"};
  for (std::size_t i = 0; i < files.size(); ++i) files[i] = read_sample(folder / kNames[i]);
  std::filesystem::remove_all(folder);
}

}  // namespace

std::int64_t sample_vocab_size() {
  return kVocabSize;
}

std::int64_t sample_training_size() {
  return 12;
}

const DraftHeadTraining& sample_training() {
  static const DraftHeadTraining t{"key", 3, std::vector<float>(12, 1), std::vector<float>(12), std::vector<float>(12)};
  return t;
}

const Manifest& sample_manifest() {
  static const Manifest manifest = manifest_of(samples().tokenizer_info);
  return manifest;
}

const FileInfo& sample_layer_info() {
  return samples().layer_info;
}

const FileInfo& sample_tokenizer_info() {
  return samples().tokenizer_info;
}

std::vector<std::byte> changed_sample(Sample sample, Input changes) {
  const SampleFile& file = samples().files[static_cast<std::size_t>(sample)];
  std::vector<std::byte> bytes = file.bytes;
  for (std::size_t i = 0; i + 2 < changes.size(); i += 3) {
    const std::size_t place =
        std::to_integer<std::size_t>(changes[i]) << 8 | std::to_integer<std::size_t>(changes[i + 1]);
    bytes[file.places[place % file.places.size()]] = changes[i + 2];
  }
  return bytes;
}

}  // namespace jupiter::fuzz

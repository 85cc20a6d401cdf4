// GGUF files, whole and damaged: a fault is a FormatError that names the thing, never a crash or a wrong value.
#include "io/formats/gguf.hpp"

#include <gtest/gtest.h>

#include "gguf_builder.hpp"
#include "io/convert/model_source.hpp"
#include "io/error.hpp"
#include "test_files.hpp"

namespace jupiter {
namespace {

using test::ExactCopy;
using test::GgufBuilder;
using test::tiny_llama;
using Bytes = GgufBuilder::Bytes;

// The message of the FormatError that f throws; fails the test where it throws none.
template <typename F>
std::string format_error(const F& f) {
  try {
    f();
  } catch (const FormatError& e) {
    EXPECT_EQ(e.code(), ExitCode::invalid_file);
    return e.what();
  }
  ADD_FAILURE() << "no FormatError";
  return {};
}

std::string parse_error(const Bytes& bytes) {
  const ExactCopy copy(bytes);
  return format_error([&] { parse_gguf(copy.bytes(), "tiny.gguf"); });
}
std::string config_error(const GgufBuilder& builder) {
  const Bytes bytes = builder.build();
  return format_error([&] { parse_gguf(bytes, "tiny.gguf").config(); });
}
std::string tokenizer_error(const GgufBuilder& builder) {
  const Bytes bytes = builder.build();
  return format_error([&] { parse_gguf(bytes, "tiny.gguf").tokenizer_data(); });
}
std::string source_error(const GgufBuilder& builder) {
  const test::TemporaryFolder folder;
  const std::string path = (folder.path() / "m.gguf").string();
  test::write_bytes(path, builder.build());
  return format_error([&] { open_model_source(path); });
}
bool mentions(const std::string& text, std::initializer_list<std::string_view> parts) {
  for (const std::string_view part : parts) {
    if (text.find(part) == std::string::npos) {
      ADD_FAILURE() << "\"" << text << "\" does not mention \"" << part << "\"";
      return false;
    }
  }
  return true;
}

TEST(Gguf, ReadsBothVersionsAndItsMetadata) {
  for (const std::uint32_t version : {2u, 3u}) {
    const Bytes bytes = tiny_llama().u64("big", 1ull << 40).build(version);
    const Gguf file = parse_gguf(bytes, "tiny.gguf");
    EXPECT_EQ(file.find_int("big"), std::int64_t{1} << 40);
    EXPECT_EQ(file.find_string("general.name"), "tiny");
    EXPECT_EQ(file.find_int("absent"), std::nullopt);
    const StoredTensor* k = file.find_tensor("blk.0.attn_k.weight");
    ASSERT_NE(k, nullptr);
    EXPECT_EQ(k->cols(), 8);
    EXPECT_EQ(k->rows(), 4);
    float last;
    std::memcpy(&last, k->data + 31 * 4, 4);
    EXPECT_EQ(last, 31.5f);
  }
}

TEST(Gguf, ConfigAndDefaults) {
  const Bytes bytes = tiny_llama().build();
  const ModelConfig c = parse_gguf(bytes, "tiny.gguf").config();
  EXPECT_EQ(c.architecture, Architecture::llama);
  EXPECT_EQ(c.model_name, "tiny");
  EXPECT_EQ(c.dim, 8);
  EXPECT_EQ(c.n_heads, 2);
  EXPECT_EQ(c.n_kv_heads, 1);
  EXPECT_EQ(c.head_dim, 4);
  EXPECT_EQ(c.vocab_size, 4);
  EXPECT_TRUE(c.tied_embeddings);
  EXPECT_FALSE(c.qkv_bias);
  EXPECT_TRUE(c.rope_factors.empty());
  EXPECT_EQ(c.sliding_window, 0);
  const TokenizerData t = parse_gguf(bytes, "tiny.gguf").tokenizer_data();
  EXPECT_EQ(t.kind, TokenizerKind::sentencepiece);
  EXPECT_EQ(t.bos, 1);
  EXPECT_EQ(t.eos, 2);
  EXPECT_TRUE(t.add_bos);
  EXPECT_TRUE(t.add_space_prefix);
  EXPECT_EQ(t.end_of_turn, std::vector<TokenId>{2});
}

TEST(Gguf, RopeScaling) {
  const Bytes linear =
      tiny_llama().text("llama.rope.scaling.type", "linear").f32("llama.rope.scaling.factor", 4).build();
  EXPECT_EQ(parse_gguf(linear, "f").config().rope_factors, (std::vector<float>{4, 4}));
  const Bytes none = tiny_llama().text("llama.rope.scaling.type", "none").f32("llama.rope.scaling.factor", 4).build();
  EXPECT_TRUE(parse_gguf(none, "f").config().rope_factors.empty());
  const Bytes tensor = tiny_llama().tensor_f32("rope_freqs.weight", {2}, 1).build();
  EXPECT_EQ(parse_gguf(tensor, "f").config().rope_factors, (std::vector<float>{1, 2}));
  mentions(config_error(tiny_llama().text("llama.rope.scaling.type", "dynamic")),
           {"tiny.gguf", "rope.scaling.type", "yarn or longrope", "dynamic"});
  mentions(config_error(tiny_llama().text("llama.rope.scaling.type", "yarn")),
           {"tiny.gguf", "rope.scaling.factor", "positive"});
  mentions(config_error(tiny_llama().text("llama.rope.scaling.type", "longrope")),
           {"tiny.gguf", "original_context_length", "nothing"});
  mentions(config_error(tiny_llama().tensor_f32("rope_freqs.weight", {3})), {"rope_freqs.weight", "F32 [2]"});
  mentions(config_error(tiny_llama().u32("llama.rope.dimension_count", 2)),
           {"rope.dimension_count", "expected 4", "found 2"});
}

TEST(Gguf, EveryTruncationIsAFormatError) {
  const Bytes bytes = tiny_llama().build();
  for (std::size_t size = 0; size < bytes.size(); ++size) {
    const ExactCopy copy(std::span<const std::byte>(bytes).first(size));
    EXPECT_THROW(parse_gguf(copy.bytes(), "tiny.gguf"), FormatError) << size << " of " << bytes.size() << " bytes";
  }
  EXPECT_NO_THROW(parse_gguf(ExactCopy(bytes).bytes(), "tiny.gguf"));
}

// Whatever one byte becomes, the file is read or refused; the sanitizer watches.
TEST(Gguf, EveryDamagedByteIsReadOrRefused) {
  const Bytes whole = tiny_llama().build();
  for (std::size_t at = 0; at < whole.size(); ++at) {
    for (const unsigned change : {0x01u, 0x80u, 0xFFu}) {
      Bytes bytes = whole;
      bytes[at] ^= static_cast<std::byte>(change);
      const ExactCopy copy(bytes);
      try {
        const Gguf file = parse_gguf(copy.bytes(), "tiny.gguf");
        file.config();
        file.tokenizer_data();
      } catch (const FormatError&) {
      }
    }
  }
}

TEST(Gguf, RefusesWhatItDoesNotKnow) {
  mentions(parse_error(Bytes{std::byte{'P'}, std::byte{'K'}, std::byte{3}, std::byte{4}}), {"tiny.gguf", "magic"});
  mentions(parse_error(tiny_llama().build(1)), {"version", "found 1"});
  mentions(parse_error(tiny_llama().build(0x03000000)), {"version", "little-endian"});
  mentions(parse_error(tiny_llama().tensor("x", {256}, 16, Bytes(66)).build()), {"\"x\"", "Q4_K", "found IQ2_XXS"});
  mentions(parse_error(tiny_llama().tensor("x", {256}, 99, Bytes(84)).build()), {"\"x\"", "found type 99"});
  mentions(config_error(tiny_llama().text("general.architecture", "gpt2")), {"general.architecture", "llama", "gpt2"});
  const auto experts = [] { return tiny_llama().u32("llama.expert_count", 8); };
  mentions(config_error(experts()), {"expert_used_count", "an integer", "nothing"});
  mentions(config_error(experts().u32("llama.expert_used_count", 9)), {"n_experts_used", "1 to 8", "found 9"});
  mentions(config_error(experts().u32("llama.expert_used_count", 2).u32("llama.expert_gating_func", 2)),
           {"expert_gating_func", "expected 1", "found 2"});
  mentions(tokenizer_error(tiny_llama().text("tokenizer.ggml.model", "bert")),
           {"tokenizer.ggml.model", "gpt2 or llama", "bert"});
  GgufBuilder bpe = tiny_llama();
  bpe.text("tokenizer.ggml.model", "gpt2").texts("tokenizer.ggml.merges", {}).text("tokenizer.ggml.pre", "tekken");
  mentions(tokenizer_error(bpe), {"tokenizer.ggml.pre", "smollm", "tekken"});
}

TEST(Gguf, RefusesInconsistentMetadata) {
  mentions(config_error(tiny_llama().remove("llama.block_count")), {"llama.block_count", "found nothing"});
  mentions(config_error(tiny_llama().text("llama.block_count", "1")), {"llama.block_count", "an integer", "a string"});
  mentions(config_error(tiny_llama().u32("llama.attention.head_count", 0)), {"head_count"});
  mentions(config_error(tiny_llama().u32("llama.block_count", 0xFFFFFFFF)), {"n_layers"});
  mentions(config_error(tiny_llama().remove_tensor("token_embd.weight")), {"token_embd.weight"});
  mentions(tokenizer_error(tiny_llama().numbers<float>("tokenizer.ggml.scores", 6, {0})),
           {"scores", "4 entries", "found 1"});
  mentions(tokenizer_error(tiny_llama().u32("tokenizer.ggml.eos_token_id", 4)), {"eos", "found 4"});
  mentions(tokenizer_error(tiny_llama().u64("tokenizer.ggml.eos_token_id", 1ull << 32)), {"eos"});
  mentions(tokenizer_error(tiny_llama().remove("tokenizer.ggml.tokens")), {"tokenizer.ggml.tokens", "nothing"});
  mentions(parse_error(tiny_llama().u32("general.alignment", 48).build()), {"general.alignment", "a power of two"});
}

// Sizes chosen so that unchecked products would wrap.
TEST(Gguf, RefusesOverflowingSizes) {
  const std::uint64_t huge = 1ull << 62;
  mentions(parse_error(tiny_llama().tensor("x", {huge, 8}, 0, {}).build()), {"\"x\"", "dimensions"});
  mentions(parse_error(tiny_llama().tensor("x", {huge}, 0, {}).build()), {"\"x\"", "inside the file"});
  mentions(parse_error(tiny_llama().tensor("x", {~0ull}, 0, {}).build()), {"\"x\"", "dimensions"});
  mentions(parse_error(tiny_llama().tensor("x", {0}, 0, {}).build()), {"\"x\"", "positive"});
  mentions(parse_error(tiny_llama().tensor("x", {31}, 8, {}).build()), {"\"x\"", "multiples of 32"});
  for (const std::uint32_t element : {8u, 10u, 0u}) {
    Bytes payload;
    GgufBuilder::put(payload, element);
    GgufBuilder::put(payload, huge);
    parse_error(tiny_llama().entry("array", 9, payload).build());
  }
  Bytes nested;
  GgufBuilder::put<std::uint32_t>(nested, 9);
  GgufBuilder::put<std::uint64_t>(nested, 1);
  mentions(parse_error(tiny_llama().entry("array", 9, nested).build()), {"\"array\"", "scalars or strings"});
}

TEST(Gguf, HonoursAlignment) {
  const Bytes bytes = tiny_llama().u32("general.alignment", 256).build(3, 256);
  const Gguf file = parse_gguf(bytes, "f");
  for (const StoredTensor& t : file.tensors()) EXPECT_EQ((t.data - bytes.data()) % 256, 0) << t.name;
  EXPECT_THROW(parse_gguf(tiny_llama().u32("general.alignment", 256).build(3, 64), "f"), FormatError);
}

TEST(GgufSource, RefusesMissingWrongAndUnknownTensors) {
  mentions(source_error(tiny_llama().remove_tensor("blk.0.ffn_up.weight")), {"blk.0.ffn_up.weight", "nothing"});
  mentions(source_error(tiny_llama().tensor_f32("blk.0.ffn_up.weight", {8, 9})),
           {"blk.0.ffn_up.weight", "[8, 8]", "[9, 8]"});
  mentions(source_error(tiny_llama().tensor_f32("blk.0.attn_norm.weight", {8, 2})), {"attn_norm", "[8]", "[2, 8]"});
  mentions(source_error(tiny_llama().tensor_f32("blk.0.attn_output.bias", {8})), {"blk.0.attn_output.bias"});
  mentions(source_error(tiny_llama().tensor_f32("blk.1.attn_norm.weight", {8})), {"blk.1.attn_norm.weight"});
  mentions(source_error(tiny_llama()
                            .texts("tokenizer.ggml.tokens", {"<unk>", "<s>", "</s>"})
                            .numbers<float>("tokenizer.ggml.scores", 6, {0, 0, 0})
                            .numbers<std::int32_t>("tokenizer.ggml.token_type", 5, {2, 3, 3})),
           {"tokenizer.ggml.tokens", "4 (embedding rows)", "found 3"});
  EXPECT_THROW(open_model_source("/no/such/file.gguf"), FormatError);
}

// Stored rows of a head are pairs (first half, second half); canonical rows are the halves.
TEST(GgufSource, UndoesTheInterleavingOfRotaryRows) {
  const test::TemporaryFolder folder;
  const std::string path = (folder.path() / "m.gguf").string();
  GgufBuilder builder = tiny_llama();
  builder.tensor_f32("blk.0.attn_q.bias", {8})
      .tensor_f32("blk.0.attn_k.bias", {4})
      .tensor_f32("blk.0.attn_v.bias", {4});
  test::write_bytes(path, builder.build());
  const auto source = open_model_source(path);
  const SourceTensor& q = source->tensor("layers.0.wq");
  std::vector<float> row(8);
  for (const auto& [canonical, stored] : {std::pair{0, 0}, {1, 2}, {2, 1}, {3, 3}, {4, 4}, {5, 6}, {6, 5}, {7, 7}}) {
    source->read_row_f32(q, canonical, row.data());
    EXPECT_EQ(row[0], 0.5f + static_cast<float>(8 * stored)) << canonical;
  }
  EXPECT_EQ(source->read_vector("layers.0.bk"), (std::vector<float>{0.5f, 2.5f, 1.5f, 3.5f}));
  EXPECT_EQ(source->read_vector("layers.0.bv"), (std::vector<float>{0.5f, 1.5f, 2.5f, 3.5f}));
  source->read_row_f32(source->tensor("layers.0.wv"), 1, row.data());
  EXPECT_EQ(row[0], 8.5f);
  EXPECT_FALSE(source->has("output"));
  source->release(q);
  source->read_row_f32(q, 0, row.data());
  EXPECT_EQ(row[0], 0.5f);
}

}  // namespace
}  // namespace jupiter

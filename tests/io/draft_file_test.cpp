// Draft files: what is written comes back; damage and other models are refused with a message that names the thing.
#include "io/model/draft_file.hpp"

#include <gtest/gtest.h>

#include "io/error.hpp"
#include "io/files.hpp"
#include "io/model/hdf5_handle.hpp"
#include "test_files.hpp"

namespace jupiter {
namespace {

namespace fs = std::filesystem;

Manifest manifest_of(std::int64_t vocab_size, std::int64_t dim, std::uint64_t tokenizer_checksum) {
  Manifest m;
  m.config.vocab_size = vocab_size;
  m.config.dim = dim;
  m.config.n_layers = 3;
  DatasetInfo d;
  d.name = "tokens_text";
  d.checksum = tokenizer_checksum;
  m.files.push_back({tokenizer_file_name(), {d}});
  return m;
}

class DraftFile : public testing::Test {
 protected:
  DraftFile() {
    std::string pattern = (fs::temp_directory_path() / "jupiter-XXXXXX").string();
    if (::mkdtemp(pattern.data()) == nullptr) throw std::runtime_error("mkdtemp");
    folder = pattern;
    path = folder / "draft.h5";
    data.identity = draft_identity(manifest);
    data.model_hash = "0123456789abcdef";
    data.made_from = "self";
    data.tokens = 77;
    data.tables[0] = {{4, 9}, {0, 2, 3}, {200, 1}, {5, 6, 7}, {100, 50, 255}};
    data.tables[1] = {{4 * 100 + 9}, {0, 1}, {3}, {99}, {255}};
    data.tables[2].first = {0};
  }
  ~DraftFile() override { fs::remove_all(folder); }

  std::string fault(const Manifest& m) const {
    try {
      read_draft(path, m);
    } catch (const FormatError& e) {
      EXPECT_NE(std::string(e.what()).find("draft.h5"), std::string::npos) << e.what();
      return e.what();
    }
    return "";
  }
  Manifest manifest = manifest_of(100, 64, 1);
  DraftData data;
  fs::path folder, path;
};

TEST_F(DraftFile, ComesBackAsItWas) {
  write_draft(path, data);
  const DraftData read = read_draft(path, manifest);
  EXPECT_EQ(read.model_hash, data.model_hash);
  EXPECT_EQ(read.made_from, data.made_from);
  EXPECT_EQ(read.tokens, data.tokens);
  for (std::size_t i = 0; i < kDraftOrders; ++i) {
    EXPECT_EQ(read.tables[i].keys, data.tables[i].keys);
    EXPECT_EQ(read.tables[i].first, data.tables[i].first);
    EXPECT_EQ(read.tables[i].counts, data.tables[i].counts);
    EXPECT_EQ(read.tables[i].tokens, data.tables[i].tokens);
    EXPECT_EQ(read.tables[i].shares, data.tables[i].shares);
  }
  EXPECT_EQ(read.tables[0].find(9), std::optional<std::size_t>(1));
  EXPECT_EQ(read.tables[0].find(5), std::nullopt);
  EXPECT_EQ(std::distance(fs::directory_iterator(folder), fs::directory_iterator()), 1);  // nothing beside it
}

TEST_F(DraftFile, HeadsComeBackAsTheyWere) {
  SequentialHead head;
  head.shape = {64, 8};
  head.tokens = {3, 5, 99};
  head.accuracy = "0.5 0.4";
  for (std::int64_t i = 0; i < head.shape.size(); ++i) head.weights.push_back(static_cast<float>(i % 100) / 64);
  data.sequential = head;
  MedusaHeads medusa;
  medusa.heads.resize(2);
  for (MedusaHeads::Head& h : medusa.heads) {
    h.layers.push_back({std::vector<f16_t>(64 * 64, 0x3c00), std::vector<f16_t>(64, 0x3800)});
    h.output.assign(100 * 64, 0x3400);
  }
  data.medusa = medusa;
  write_draft(path, data);
  const DraftData read = read_draft(path, manifest);
  ASSERT_TRUE(read.sequential && read.medusa);
  EXPECT_EQ(read.sequential->weights, head.weights);
  EXPECT_EQ(read.sequential->tokens, head.tokens);
  EXPECT_EQ(read.sequential->shape.units, 8);
  EXPECT_EQ(read.sequential->accuracy, head.accuracy);
  EXPECT_EQ(read.medusa->heads[1].layers[0].bias, medusa.heads[1].layers[0].bias);
  EXPECT_EQ(read.medusa->heads[1].output, medusa.heads[1].output);
  const auto refused = [&](const std::string& thing, const auto& change) {
    DraftData broken = data;
    change(broken);
    write_draft(path, broken);
    EXPECT_NE(fault(manifest).find(thing), std::string::npos) << thing << ": " << fault(manifest);
  };
  refused("head/tokens", [](DraftData& d) { d.sequential->tokens = {5, 3}; });
  refused("head/tokens", [](DraftData& d) { d.sequential->tokens = {5, 100}; });
  refused("head/w1", [](DraftData& d) { d.sequential->shape.dim = 32; });
  refused("medusa/head_1_output", [](DraftData& d) { d.medusa->heads[1].output.pop_back(); });
  refused("medusa/head_0_layer_0_weight", [](DraftData& d) { d.medusa->heads[0].layers[0].weight.pop_back(); });
}

TEST_F(DraftFile, ATrainingComesBackOnlyWhereItIsTheSame) {
  const DraftHeadTraining t{"key", 12, {1, 2}, {3, 4}, {5, 6}};
  write_draft_head_training(path, t);
  const auto read = read_draft_head_training(path, "key", 2);
  ASSERT_TRUE(read);
  EXPECT_EQ(read->steps, 12);
  EXPECT_EQ(read->weights, t.weights);
  EXPECT_EQ(read->first, t.first);
  EXPECT_EQ(read->second, t.second);
  EXPECT_FALSE(read_draft_head_training(path, "another", 2));
  EXPECT_THROW(read_draft_head_training(path, "key", 3), FormatError);
  test::write_text(path, "no HDF5");
  EXPECT_THROW(read_draft_head_training(path, "key", 2), FormatError);
  fs::remove(path);
  EXPECT_FALSE(read_draft_head_training(path, "key", 2));
}

TEST_F(DraftFile, AnotherModelIsRefused) {
  write_draft(path, data);
  EXPECT_NE(fault(manifest_of(101, 64, 1)).find("vocab_size: expected 101"), std::string::npos);
  EXPECT_NE(fault(manifest_of(100, 96, 1)).find("dim: expected 96"), std::string::npos);
  EXPECT_NE(fault(manifest_of(100, 64, 2)).find("tokenizer_hash"), std::string::npos);
  fs::remove(path);
  EXPECT_NE(fault(manifest).find("no file"), std::string::npos);
}

TEST_F(DraftFile, WrongNumbersAreRefused) {
  const auto refused = [&](const std::string& thing, const auto& change) {
    DraftData broken = data;
    change(broken);
    write_draft(path, broken);
    EXPECT_NE(fault(manifest).find(thing), std::string::npos) << thing << ": " << fault(manifest);
  };
  refused("order_1/keys", [](DraftData& d) { d.tables[0].keys = {9, 4}; });
  refused("order_1/tokens", [](DraftData& d) { d.tables[0].tokens = {5, 100, 7}; });
  refused("order_1/tokens", [](DraftData& d) { d.tables[0].tokens = {5}; });
  refused("order_2/shares", [](DraftData& d) { d.tables[1].shares = {1, 2}; });
  refused("order_1/counts", [](DraftData& d) { d.tables[0].counts = {1}; });
  refused("order_1/followers", [](DraftData& d) {
    d.tables[0].first = {0, 11, 12};
    d.tables[0].tokens.assign(12, 1);
    d.tables[0].shares.assign(12, 1);
  });
}

// What a file says of sizes is checked before memory is taken, or written by HDF5, for it.
TEST_F(DraftFile, SizesThatAFileOnlyClaimsAreRefused) {
  const auto refused = [&](const std::string& thing, const auto& change) {
    write_draft(path, data);
    {
      const Handle file(H5Fopen(path.c_str(), H5F_ACC_RDWR, H5P_DEFAULT), H5Fclose);
      change(static_cast<hid_t>(file));
    }
    EXPECT_NE(fault(manifest).find(thing), std::string::npos) << thing << ": " << fault(manifest);
  };
  const hsize_t many[1] = {4000};
  const Handle space(H5Screate_simple(1, many, nullptr), H5Sclose), one(H5Screate(H5S_SCALAR), H5Sclose);
  const auto attribute = [](hid_t file, const char* key, hid_t type, hid_t shape) {
    H5Adelete(file, key);
    const Handle made(H5Acreate2(file, key, type, shape, H5P_DEFAULT, H5P_DEFAULT), H5Aclose);
    ASSERT_TRUE(made.valid());
    const std::vector<char> bytes(64000, 'x');
    H5Awrite(made, type, bytes.data());
  };
  refused("version", [&](hid_t file) { attribute(file, "version", H5T_STD_I64LE, space); });
  refused("version", [&](hid_t file) { attribute(file, "version", H5T_IEEE_F64LE, one); });
  refused("tokenizer_hash", [&](hid_t file) {
    const Handle text(H5Tcopy(H5T_C_S1), H5Tclose);
    H5Tset_size(text, 16);
    attribute(file, "tokenizer_hash", text, space);
  });
  refused("tokenizer_hash", [&](hid_t file) {
    const Handle text(H5Tcopy(H5T_C_S1), H5Tclose);
    H5Tset_size(text, 60000);
    attribute(file, "tokenizer_hash", text, one);
  });
  refused("order_1/keys", [&](hid_t file) {  // half a gigabyte of values that were never written
    const hsize_t claimed[1] = {1u << 26}, chunk[1] = {1 << 16};
    const Handle large(H5Screate_simple(1, claimed, nullptr), H5Sclose),
        layout(H5Pcreate(H5P_DATASET_CREATE), H5Pclose);
    H5Pset_chunk(layout, 1, chunk);
    H5Ldelete(file, "order_1/keys", H5P_DEFAULT);
    const Handle set(H5Dcreate2(file, "order_1/keys", H5T_STD_U64LE, large, H5P_DEFAULT, layout, H5P_DEFAULT),
                     H5Dclose);
    ASSERT_TRUE(set.valid());
  });
}

TEST_F(DraftFile, CutOffOrDamagedNeverPassesForWhole) {
  write_draft(path, data);
  const std::string whole = read_file(path);
  for (std::size_t size = 0; size < whole.size(); size += 97) {
    test::write_text(path, whole.substr(0, size));
    EXPECT_NE(fault(manifest), "") << size << " of " << whole.size() << " bytes";
  }
  std::size_t found = 0, changed = 0;
  for (std::size_t at = 0; at < whole.size(); at += 61) {
    std::string damaged = whole;
    damaged[at] = static_cast<char>(damaged[at] ^ 0x55);
    test::write_text(path, damaged);
    ++changed;
    found += fault(manifest).empty() ? 0 : 1;  // bytes that HDF5 does not use stay harmless; nothing may crash
  }
  EXPECT_GT(found, 0u);
  EXPECT_LE(found, changed);
}

}  // namespace
}  // namespace jupiter

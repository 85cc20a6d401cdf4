// Groups order_1 ... order_3 with datasets keys u64, followers u8 (their number), counts u8, tokens u32, shares u8;
// compressed, since ascending keys and small numbers shrink to a third. All sizes are checked before they are trusted.
#include "io/model/draft_file.hpp"

#include <fmt/format.h>

#include "io/files.hpp"
#include "io/hash.hpp"
#include "io/model/draft_groups.hpp"
#include "io/model/hdf5_values.hpp"

namespace jupiter {

namespace {

constexpr std::int64_t kDraftVersion = 1;
constexpr std::uint64_t kMaxEntries = 1u << 26;  // of a dataset: a larger number is damage

std::string group_name(std::size_t order) {
  return fmt::format("order_{}", order);
}

template <typename T>
std::vector<T> read_part(hid_t group, const std::string& file, std::size_t order, const char* name) {
  return read_values<T>(group, file, group_name(order) + "/" + name, name, kMaxEntries);
}

void write_table(hid_t file, std::size_t order, const DraftTable& t) {
  const Handle group(H5Gcreate2(file, group_name(order).c_str(), H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT), H5Gclose);
  if (!group.valid()) throw RunError("HDF5 group cannot be written");
  std::vector<std::uint8_t> followers(t.contexts());
  for (std::size_t i = 0; i < followers.size(); ++i) {
    followers[i] = static_cast<std::uint8_t>(t.first[i + 1] - t.first[i]);
  }
  write_values(group, "keys", t.keys);
  write_values(group, "followers", followers);
  write_values(group, "counts", t.counts);
  write_values(group, "tokens", std::vector<std::uint32_t>(t.tokens.begin(), t.tokens.end()));
  write_values(group, "shares", t.shares);
}

void expect_size(const std::string& file, std::size_t order, const char* name, std::size_t expected,
                 std::size_t found) {
  if (expected == found) return;
  throw FormatError(file, group_name(order) + "/" + name, fmt::format("{} values", expected), std::to_string(found));
}

DraftTable read_table(hid_t file, std::size_t order, const std::string& name, std::uint64_t vocab_size) {
  const Handle group(H5Gopen2(file, group_name(order).c_str(), H5P_DEFAULT), H5Gclose);
  if (!group.valid()) throw FormatError(name, group_name(order), "a group", "none");
  DraftTable t;
  t.keys = read_part<std::uint64_t>(group, name, order, "keys");
  const auto followers = read_part<std::uint8_t>(group, name, order, "followers");
  t.counts = read_part<std::uint8_t>(group, name, order, "counts");
  const auto tokens = read_part<std::uint32_t>(group, name, order, "tokens");
  t.shares = read_part<std::uint8_t>(group, name, order, "shares");
  expect_size(name, order, "followers", t.contexts(), followers.size());
  expect_size(name, order, "counts", t.contexts(), t.counts.size());
  t.first.push_back(0);
  for (const std::uint8_t n : followers) {
    if (n > kDraftFollowers) {
      throw FormatError(name, group_name(order) + "/followers", fmt::format("at most {}", kDraftFollowers),
                        std::to_string(n));
    }
    t.first.push_back(t.first.back() + n);
  }
  expect_size(name, order, "tokens", t.first.back(), tokens.size());
  expect_size(name, order, "shares", t.first.back(), t.shares.size());
  const auto falls = std::adjacent_find(t.keys.begin(), t.keys.end(), std::greater_equal<>());
  if (falls != t.keys.end()) throw FormatError(name, group_name(order) + "/keys", "ascending numbers", "others");
  for (const std::uint32_t token : tokens) {
    if (token >= vocab_size) {
      throw FormatError(name, group_name(order) + "/tokens", fmt::format("tokens below {}", vocab_size),
                        std::to_string(token));
    }
    t.tokens.push_back(static_cast<TokenId>(token));
  }
  return t;
}

void check_identity(hid_t file, const std::string& name, const Manifest& manifest) {
  const DraftIdentity expected = draft_identity(manifest);
  const auto check = [&](const char* key, std::int64_t wanted) {
    const std::int64_t found = read_integer(file, key, name);
    if (found != wanted) {
      throw FormatError(name, key, fmt::format("{} (this model's)", wanted), std::to_string(found));
    }
  };
  check("version", kDraftVersion);
  check("vocab_size", expected.vocab_size);
  check("dim", expected.dim);
  check("n_layers", expected.n_layers);
  const std::string tokenizer = read_string(file, "tokenizer_hash", name);
  if (tokenizer != expected.tokenizer_hash) {
    throw FormatError(name, "tokenizer_hash", expected.tokenizer_hash + " (this model's)", tokenizer);
  }
}

}  // namespace

std::optional<std::size_t> DraftTable::find(std::uint64_t key) const {
  const auto it = std::lower_bound(keys.begin(), keys.end(), key);
  if (it == keys.end() || *it != key) return std::nullopt;
  return static_cast<std::size_t>(it - keys.begin());
}

std::uint64_t draft_key(std::span<const TokenId> context, std::int64_t vocab_size) {
  std::uint64_t key = 0;
  for (const TokenId t : context) key = key * static_cast<std::uint64_t>(vocab_size) + static_cast<std::uint64_t>(t);
  return key;
}

DraftIdentity draft_identity(const Manifest& m) {
  std::string checksums;
  for (const DatasetInfo& d : m.file(tokenizer_file_name()).datasets) checksums += hex(d.checksum);
  return {m.config.vocab_size, m.config.dim, m.config.n_layers, hex(hash_bytes(checksums))};
}

DraftData empty_draft(const Manifest& manifest) {
  DraftData data{draft_identity(manifest), hex(manifest.hash), "", 0, {}, {}, {}};
  for (DraftTable& t : data.tables) t.first.push_back(0);
  return data;
}

void write_draft(const std::filesystem::path& path, const DraftData& data) {
  write_hdf5_atomically(path, [&](hid_t file) {
    write_string(file, "creator", "jupiter");
    write_integer(file, "version", kDraftVersion);
    write_integer(file, "vocab_size", data.identity.vocab_size);
    write_integer(file, "dim", data.identity.dim);
    write_integer(file, "n_layers", data.identity.n_layers);
    write_string(file, "tokenizer_hash", data.identity.tokenizer_hash);
    write_string(file, "model_hash", data.model_hash);
    write_string(file, "made_from", data.made_from);
    write_integer(file, "tokens", data.tokens);
    for (std::size_t i = 0; i < kDraftOrders; ++i) write_table(file, i + 1, data.tables[i]);
    if (data.sequential) write_sequential_head(file, *data.sequential);
    if (data.medusa) write_medusa(file, *data.medusa);
  });
}

DraftData read_draft(const std::filesystem::path& path, const Manifest& manifest) {
  silence_hdf5();
  const std::string name = path.string();
  const Handle file(H5Fopen(path.c_str(), H5F_ACC_RDONLY, H5P_DEFAULT), H5Fclose);
  if (!file.valid()) {
    const bool there = std::filesystem::exists(path);
    throw FormatError(name, "content", "a whole HDF5 file", there ? "something else" : "no file");
  }
  check_identity(file, name, manifest);
  DraftData data;
  data.identity = draft_identity(manifest);
  data.model_hash = read_string(file, "model_hash", name);
  data.made_from = read_string(file, "made_from", name);
  data.tokens = read_integer(file, "tokens", name);
  for (std::size_t i = 0; i < kDraftOrders; ++i) {
    data.tables[i] = read_table(file, i + 1, name, static_cast<std::uint64_t>(data.identity.vocab_size));
  }
  data.sequential = read_sequential_head(file, name, data.identity);
  data.medusa = read_medusa(file, name, data.identity);
  return data;
}

std::string remove_foreign_draft(const std::filesystem::path& folder, const Manifest& manifest) {
  const std::filesystem::path path = folder / kDraftName;
  if (!std::filesystem::exists(path)) return "";
  try {
    read_draft(path, manifest);
    return "";
  } catch (const FormatError& e) {
    std::error_code error;
    std::filesystem::remove(path, error);
    if (error) throw RunError(fmt::format("{}; it cannot be removed: {}", e.what(), error.message()));
    return fmt::format("{}; removed\n", e.what());
  }
}

}  // namespace jupiter

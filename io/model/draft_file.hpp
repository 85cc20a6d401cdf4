// The draft file of a model: n-gram tables, which say what usually follows one, two or three tokens, and heads that
// guess from its hidden state. It is HDF5. Tables and the sequential head take a few MB, Medusa heads far more.
#pragma once

#include <array>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "io/model/draft_heads.hpp"
#include "io/model/manifest.hpp"
#include "io/tokenizer/tokenizer_data.hpp"

namespace jupiter {

inline constexpr std::size_t kDraftOrders = 3;      // tokens of the longest context
inline constexpr std::size_t kDraftFollowers = 10;  // most followers of one context
inline constexpr double kExpectedCount = 4;  // what the model expects after a single token counts as so many sightings
inline constexpr const char* kDraftName = "draft.h5";

// An n-gram table: the followers of contexts of one length, in compressed sparse rows.
struct DraftTable {
  std::vector<std::uint64_t> keys;   // of contexts, ascending: (older token * vocab_size + newer) ...
  std::vector<std::uint32_t> first;  // [contexts + 1]: followers of context i are [first[i], first[i + 1])
  std::vector<std::uint8_t> counts;  // [contexts]: how often the context was seen, at most 255
  std::vector<TokenId> tokens;       // [followers]: most likely first
  std::vector<std::uint8_t> shares;  // [followers]: share of the probability after the context, in 255ths

  std::size_t contexts() const { return keys.size(); }
  std::optional<std::size_t> find(std::uint64_t key) const;
};

struct DraftData {
  DraftIdentity identity;
  std::string model_hash;                       // of the conversion that wrote it; information only
  std::string made_from;                        // "self", or the hash of a text
  std::int64_t tokens = 0;                      // how many tokens were counted
  std::array<DraftTable, kDraftOrders> tables;  // [0] is for contexts of one token
  std::optional<SequentialHead> sequential;
  std::optional<MedusaHeads> medusa;
};

DraftIdentity draft_identity(const Manifest& manifest);
// Draft data for this model that has nothing in it yet.
DraftData empty_draft(const Manifest& manifest);
std::uint64_t draft_key(std::span<const TokenId> context, std::int64_t vocab_size);

// RunError where it cannot be written.
void write_draft(const std::filesystem::path& path, const DraftData& data);
// FormatError where the file is damaged or for another model.
DraftData read_draft(const std::filesystem::path& path, const Manifest& manifest);
// Removes the folder's draft file where it is not for the model that was just written there, because every run would
// end with an error about it. Returns a line that says why, empty where nothing was removed. RunError where it cannot
// be.
std::string remove_foreign_draft(const std::filesystem::path& folder, const Manifest& manifest);

}  // namespace jupiter

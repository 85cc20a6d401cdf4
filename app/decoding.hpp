// Options of decoding that run, bench and batch share: plain or speculative, and what drafts.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>

#include "app/options.hpp"
#include "io/model/manifest.hpp"
#include "parallel/draft/neural_drafter.hpp"
#include "parallel/pipeline/stage.hpp"

namespace jupiter {

// One part of --draft.
struct DraftChoice {
  DraftSource source = DraftSource::lookup;
  std::string file;     // of a table, heads, an oracle's run; folder of a model
  double hit_rate = 1;  // oracle
};

struct DecodingOptions {
  void declare(OptionSet& options);
  // After parsing. CollectiveError (usage) where the options contradict each other.
  void check(const OptionSet& options);

  DecodeOptions decode;
  std::vector<DraftChoice> drafts;
  bool auto_draft = false;  // besides them what the model folder's draft file has, the heads where they pay
  std::uint64_t oracle_seed = 1;
  // Whether the command line says it, or the command has no such option; a plan decides otherwise.
  bool mode_given = true;
  bool draft_max_given = true;
  // As they stand on the command line.
  bool drafts_wanted = true;
  DecodeMode spec_mode = DecodeMode::continuous;
  std::vector<std::string> draft_texts{"auto"};
};

// Folder of the draft model that these options ask for.
std::optional<std::string> model_folder(const DecodingOptions& options);

// Bytes of the files that draft tables and heads come from; those that are not there count nothing.
std::uint64_t draft_file_bytes(const DecodingOptions& options, const std::filesystem::path& folder);

// Loads what the drafters need, on the last rank; its stage must outlive them. model: heads of the draft model, if
// there is one. FormatError where a file is not for this model.
DrafterFactory make_drafters(const DecodingOptions& options, const Manifest& manifest,
                             const std::filesystem::path& folder, const Stage& stage,
                             std::shared_ptr<const NeuralDrafterFactory> model);

// Lines for --stats: tokens a step, how often each drafter and each depth was right, what drafting and rejected rows
// took. tokens: of the answer; decode_s: all its time after the first token.
std::string draft_text(const DraftStats& stats, std::int64_t tokens, double decode_s);
// Steps, acceptance by depth and drafter.
nlohmann::ordered_json draft_json(const DraftStats& stats);

}  // namespace jupiter

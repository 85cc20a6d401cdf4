// From options to drafters.
#include "app/decoding.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>

#include "io/files.hpp"
#include "io/json_fields.hpp"
#include "parallel/draft/draft_blender.hpp"
#include "parallel/draft/draft_head.hpp"
#include "parallel/draft/draft_table.hpp"

namespace jupiter {

namespace {

CollectiveError wrong(const std::string& message) {
  return {ExitCode::usage, message};
}

// oracle:RATE:FILE
DraftChoice read_oracle(const std::string& text) {
  const auto colon = text.find(':', 7);
  DraftChoice c{DraftSource::oracle, "", 0};
  try {
    if (colon == std::string::npos) throw std::invalid_argument("");
    std::size_t used = 0;
    const std::string rate = text.substr(7, colon - 7);
    c.hit_rate = std::stod(rate, &used);
    if (used != rate.size() || !(c.hit_rate >= 0 && c.hit_rate <= 1)) throw std::invalid_argument("");
  } catch (const std::logic_error&) {
    throw wrong("--draft: expected oracle:RATE:RUN.json with a rate from 0 to 1, found '" + text + "'");
  }
  c.file = text.substr(colon + 1);
  return c;
}

DraftChoice read_choice(const std::string& text) {
  if (text == "lookup") return {DraftSource::lookup, "", 0};
  if (text == "table") return {DraftSource::table, "", 0};
  if (text.starts_with("table=") && text.size() > 6) return {DraftSource::table, text.substr(6), 0};
  if (text == "heads") return {DraftSource::heads, "", 0};
  if (text.starts_with("heads=") && text.size() > 6) return {DraftSource::heads, text.substr(6), 0};
  if (text.starts_with("model=") && text.size() > 6) return {DraftSource::model, text.substr(6), 0};
  if (text.starts_with("oracle:")) return read_oracle(text);
  throw wrong(
      "--draft: expected auto, or a list of lookup, table, table=FILE, heads, heads=FILE, model=DIR and "
      "oracle:RATE:RUN.json, found '" +
      text + "'");
}

std::vector<TokenId> recorded_tokens(const std::string& file) {
  const JsonObject json = parse_json_object(read_file(file, kMaxJsonBytes), file);
  std::vector<TokenId> tokens;
  for (const char* field : {"prompt_token_ids", "generated_token_ids"}) {
    for (const std::int64_t t : json.ints(field)) {
      if (t < 0 || t > INT32_MAX) json.fail(field, "token ids", std::to_string(t));
      tokens.push_back(static_cast<TokenId>(t));
    }
  }
  return tokens;
}

}  // namespace

void DecodingOptions::declare(OptionSet& options) {
  // clang-format off
  options.group("Decoding");
  options.choice("decode", drafts_wanted, {{"spec", true}, {"plain", false}}, "spec: drafted tokens are verified many at a time, the text stays the same; plain: one by one");
  options.choice("spec-mode", spec_mode, {{"auto", DecodeMode::continuous}, {"lap", DecodeMode::lap}, {"continuous", DecodeMode::continuous}}, "continuous: several segments of the tree follow each other round the ranks; lap: one at a time, to compare with; auto: continuous");
  options.texts("draft", draft_texts, "LIST", "What drafts: lookup (earlier text), table or table=FILE, heads or heads=FILE (what train-draft made), model=DIR (a smaller model of the same vocabulary, on the rank that the plan names, else the last one), oracle:RATE:RUN.json (tests); auto: lookup, and what the model folder's draft.h5 has, heads only where they pay");
  options.number("draft-max", decode.draft_max, {0, kMaxDraftNodes - 1}, "N", "Drafted tokens of a segment at most");
  options.number("draft-width", decode.fixed_width, {0, kMaxDraftNodes}, "N", "Rows of a segment; 0: chosen from measured costs");
  options.choice("accept", decode.typical, {{"exact", false}, {"typical", true}}, "exact, or typical: plausible drafts are kept too, which changes the text");
  // clang-format on
}

void DecodingOptions::check(const OptionSet& options) {
  decode.mode = drafts_wanted ? spec_mode : DecodeMode::plain;
  refuse(decode.fixed_width > decode.draft_max + 1,
         fmt::format("--draft-width: expected 0 to {} (--draft-max and the root), found {}", decode.draft_max + 1,
                     decode.fixed_width));
  mode_given = options.given("decode") || options.given("spec-mode") || options.given("draft");
  draft_max_given = options.given("draft-max") || options.given("draft-width");
  auto_draft = draft_texts == std::vector<std::string>{"auto"};
  if (auto_draft) {
    drafts.push_back({DraftSource::lookup, "", 0});
    return;
  }
  for (const std::string& text : draft_texts) drafts.push_back(read_choice(text));
  const auto asks = std::count_if(drafts.begin(), drafts.end(), [](const DraftChoice& c) {
    return c.source == DraftSource::heads || c.source == DraftSource::model;
  });
  refuse(asks > 1, "--draft: expected one of heads and model, found several");
}

namespace {

using DrafterMaker = std::function<void(DraftMixer&)>;

// Draft files, each read once whatever drafters come from it.
class DraftFiles {
 public:
  DraftFiles(const Manifest& manifest, const std::filesystem::path& folder)
      : manifest_(manifest), own_(folder / kDraftName) {}
  const std::filesystem::path& own() const { return own_; }  // the model folder's
  std::shared_ptr<const DraftData> read(const std::filesystem::path& file) {
    std::shared_ptr<const DraftData>& data = read_[file];
    if (!data) data = std::make_shared<const DraftData>(read_draft(file, manifest_));
    return data;
  }

 private:
  const Manifest& manifest_;
  std::filesystem::path own_;
  std::map<std::filesystem::path, std::shared_ptr<const DraftData>> read_;
};

DrafterMaker table_maker(const std::shared_ptr<const DraftData>& data) {
  return [data](DraftMixer& mixer) { mixer.add(std::make_shared<TableDrafter>(data)); };
}

// The heads of a file: the sequential one, or Medusa's.
DrafterMaker head_maker(const DraftData& data, const std::string& file, const Stage& stage, bool thrifty) {
  std::shared_ptr<const NeuralDrafterFactory> maker;
  if (data.sequential) {
    maker = sequential_head_drafters(stage.runtime(), *data.sequential, stage.output_head());
  } else if (data.medusa) {
    maker = medusa_head_drafters(stage.runtime(), *data.medusa, data.identity.dim);
  } else {
    throw FormatError(file, "head or medusa", "a group", "none");
  }
  return [maker, thrifty](DraftMixer& mixer) {
    mixer.set_neural(std::make_shared<DraftBlender>(maker->make(), DraftSource::heads, thrifty));
  };
}

DrafterMaker drafter_maker(const DraftChoice& c, const DecodingOptions& o, const Manifest& manifest, DraftFiles& files,
                           const Stage& stage, const std::shared_ptr<const NeuralDrafterFactory>& model) {
  if (c.source == DraftSource::lookup) {
    return [](DraftMixer& mixer) { mixer.add(std::make_shared<LookupDrafter>()); };
  }
  if (c.source == DraftSource::oracle) {
    const auto oracle =
        std::make_shared<OracleDrafter>(recorded_tokens(c.file), c.hit_rate, manifest.config.vocab_size, o.oracle_seed);
    return [oracle](DraftMixer& mixer) { mixer.add(oracle); };
  }
  if (c.source == DraftSource::model) {
    return [model](DraftMixer& mixer) {
      mixer.set_neural(std::make_shared<DraftBlender>(model->make(), DraftSource::model, true));
    };
  }
  const std::filesystem::path file = c.file.empty() ? files.own() : std::filesystem::path(c.file);
  const auto data = files.read(file);
  return c.source == DraftSource::heads ? head_maker(*data, file.string(), stage, false) : table_maker(data);
}

}  // namespace

std::optional<std::string> model_folder(const DecodingOptions& o) {
  if (o.decode.mode == DecodeMode::plain) return std::nullopt;
  const auto it = std::find_if(o.drafts.begin(), o.drafts.end(),
                               [](const DraftChoice& c) { return c.source == DraftSource::model; });
  return it == o.drafts.end() ? std::nullopt : std::optional<std::string>(it->file);
}

std::uint64_t draft_file_bytes(const DecodingOptions& o, const std::filesystem::path& folder) {
  if (o.decode.mode == DecodeMode::plain) return 0;
  std::set<std::filesystem::path> files;
  if (o.auto_draft) files.insert(folder / kDraftName);
  for (const DraftChoice& c : o.drafts) {
    if (c.source != DraftSource::table && c.source != DraftSource::heads) continue;
    files.insert(c.file.empty() ? folder / kDraftName : std::filesystem::path(c.file));
  }
  std::uint64_t bytes = 0;
  for (const std::filesystem::path& file : files) {
    std::error_code missing;
    const std::uintmax_t size = std::filesystem::file_size(file, missing);
    if (!missing) bytes += size;
  }
  return bytes;
}

DrafterFactory make_drafters(const DecodingOptions& o, const Manifest& manifest, const std::filesystem::path& folder,
                             const Stage& stage, std::shared_ptr<const NeuralDrafterFactory> model) {
  DraftFiles files(manifest, folder);
  std::vector<DrafterMaker> makers;
  for (const DraftChoice& c : o.drafts) makers.push_back(drafter_maker(c, o, manifest, files, stage, model));
  if (o.auto_draft && std::filesystem::exists(files.own())) {
    const auto data = files.read(files.own());
    makers.push_back(table_maker(data));
    if (data->sequential || data->medusa) makers.push_back(head_maker(*data, files.own().string(), stage, true));
  }
  return [makers] {
    DraftMixer mixer;
    for (const auto& make : makers) make(mixer);
    return mixer;
  };
}

std::string draft_text(const DraftStats& s, std::int64_t tokens, double decode_s) {
  if (s.steps == 0 || decode_s <= 0) return "";
  const auto share = [](auto part, auto whole) {
    return whole > 0 ? 100 * static_cast<double>(part) / static_cast<double>(whole) : 0;
  };
  // Every row that was needed decided a token; what a drafted answer computed beyond that was rejected.
  const std::int64_t rejected = std::max<std::int64_t>(s.rows - (tokens - 1), 0);
  std::string text = fmt::format(
      "{:.2f} tokens a step; drafting took {:.1f} % of the time after the first token, {:.0f} % of {} rows were "
      "rejected\n",
      static_cast<double>(tokens - 1) / static_cast<double>(s.steps), share(s.draft_s, decode_s),
      share(rejected, s.rows), s.rows);
  for (std::size_t i = 0; i < kDraftSources; ++i) {
    if (s.sent_by[i] == 0) continue;
    text += fmt::format("  {:<8}{:>6} drafted, {:>5} right ({:.0f} %)\n", name(static_cast<DraftSource>(i)),
                        s.sent_by[i], s.accepted_by[i], share(s.accepted_by[i], s.sent_by[i]));
  }
  text += "  right by depth, %:";
  for (std::size_t i = 0; i < DraftStats::kDepths && s.reached[i] > 0; ++i) {
    text += fmt::format(" {:.0f}", share(s.right[i], s.reached[i]));
  }
  return text + "\n";
}

nlohmann::ordered_json draft_json(const DraftStats& s) {
  nlohmann::ordered_json j = {{"rows", s.rows}, {"accepted", s.accepted}, {"misses", s.misses}, {"draft_s", s.draft_s}};
  for (std::size_t i = 0; i < kDraftSources; ++i) {
    if (s.sent_by[i] == 0) continue;
    j["by_drafter"][std::string(name(static_cast<DraftSource>(i)))] = {{"sent", s.sent_by[i]},
                                                                       {"accepted", s.accepted_by[i]}};
  }
  if (s.neural.asked > 0) j["head"] = {{"asked", s.neural.asked}, {"head_s", s.neural.seconds}};
  std::vector<double> rates;
  for (std::size_t i = 0; i < DraftStats::kDepths && s.reached[i] > 0; ++i) {
    rates.push_back(static_cast<double>(s.right[i]) / static_cast<double>(s.reached[i]));
  }
  j["acceptance_by_depth"] = rates;
  return j;
}

}  // namespace jupiter

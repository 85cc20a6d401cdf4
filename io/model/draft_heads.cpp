// Groups head and medusa of draft files, and the state of a training. Weights are f16 in draft files, f32 in training.
#include "io/model/draft_heads.hpp"

#include <cmath>

#include "io/model/draft_groups.hpp"
#include "io/model/hdf5_values.hpp"

namespace jupiter {

namespace {

constexpr std::int64_t kMostUnits = 1 << 20;  // more is damage
constexpr std::int64_t kMostHeads = 64, kMostLayers = 16;

Handle make_group(hid_t file, const char* name) {
  Handle group(H5Gcreate2(file, name, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT), H5Gclose);
  if (!group.valid()) throw RunError(fmt::format("HDF5 group {} cannot be written", name));
  return group;
}

std::optional<Handle> open_group(hid_t file, const char* name) {
  if (H5Lexists(file, name, H5P_DEFAULT) <= 0) return std::nullopt;
  return Handle(H5Gopen2(file, name, H5P_DEFAULT), H5Gclose);
}

std::int64_t read_count(hid_t group, const char* key, const std::string& name, std::int64_t most) {
  const std::int64_t n = read_integer(group, key, name);
  if (n < 1 || n > most) throw FormatError(name, key, fmt::format("1 to {}", most), std::to_string(n));
  return n;
}

void write_narrow(hid_t group, const char* name, std::span<const float> values) {
  std::vector<f16_t> narrow(values.size());
  for (std::size_t i = 0; i < values.size(); ++i) {
    narrow[i] = f32_to_f16(values[i]);
    if (!std::isfinite(f16_to_f32(narrow[i]))) throw RunError(fmt::format("head/{}: {} is no f16", name, values[i]));
  }
  write_values(group, name, narrow);
}

void read_narrow(hid_t group, const std::string& file, const char* name, std::span<float> out) {
  const std::string thing = std::string("head/") + name;
  const auto values = read_values<f16_t>(group, file, thing, name, out.size(), std::ssize(out));
  for (std::size_t i = 0; i < values.size(); ++i) {
    out[i] = f16_to_f32(values[i]);
    if (!std::isfinite(out[i])) throw FormatError(file, thing, "finite numbers", "others");
  }
}

// Where the parts of the weights lie.
struct Part {
  const char* name;
  std::int64_t first, last;
};
std::vector<Part> parts(const DraftHeadShape& s) {
  return {{"w1", 0, s.b1_at()},
          {"b1", s.b1_at(), s.w2_at()},
          {"w2", s.w2_at(), s.gain_at()},
          {"gain", s.gain_at(), s.size()}};
}

template <typename T>
std::span<T> part_of(std::span<T> weights, const Part& p) {
  return weights.subspan(p.first, p.last - p.first);
}

std::vector<f16_t> read_matrix(hid_t group, const std::string& file, const std::string& name, std::int64_t size) {
  return read_values<f16_t>(group, file, "medusa/" + name, name, static_cast<std::uint64_t>(size), size);
}

}  // namespace

void write_sequential_head(hid_t file, const SequentialHead& head) {
  const Handle group = make_group(file, "head");
  write_integer(group, "units", head.shape.units);
  write_string(group, "accuracy", head.accuracy);
  write_values(group, "tokens", std::vector<std::uint32_t>(head.tokens.begin(), head.tokens.end()));
  for (const Part& p : parts(head.shape)) write_narrow(group, p.name, part_of(std::span(head.weights), p));
}

std::optional<SequentialHead> read_sequential_head(hid_t file, const std::string& name, const DraftIdentity& identity) {
  const auto group = open_group(file, "head");
  if (!group) return std::nullopt;
  SequentialHead head;
  head.shape = {identity.dim, read_count(*group, "units", name, kMostUnits)};
  head.accuracy = read_string(*group, "accuracy", name);
  const auto tokens = read_values<std::uint32_t>(*group, name, "head/tokens", "tokens",
                                                 static_cast<std::uint64_t>(identity.vocab_size));
  if (tokens.empty() || std::adjacent_find(tokens.begin(), tokens.end(), std::greater_equal<>()) != tokens.end()) {
    throw FormatError(name, "head/tokens", "ascending tokens", "others");
  }
  if (tokens.back() >= static_cast<std::uint64_t>(identity.vocab_size)) {
    throw FormatError(name, "head/tokens", fmt::format("tokens below {}", identity.vocab_size),
                      std::to_string(tokens.back()));
  }
  head.tokens.assign(tokens.begin(), tokens.end());
  // A file that claims more than it has is found before memory is taken for it.
  for (const Part& p : parts(head.shape)) {
    const Handle set(H5Dopen2(*group, p.name, H5P_DEFAULT), H5Dclose);
    const std::string thing = std::string("head/") + p.name;
    if (!set.valid()) throw FormatError(name, thing, "a dataset", "none");
    const auto dims = dims_of(set, 1, name, thing.c_str());
    if (dims[0] != static_cast<hsize_t>(p.last - p.first)) {
      throw FormatError(name, thing, fmt::format("{} values", p.last - p.first), std::to_string(dims[0]));
    }
    check_stored(set, dims[0] * sizeof(f16_t), name, thing.c_str());
  }
  head.weights.resize(head.shape.size());
  for (const Part& p : parts(head.shape)) read_narrow(*group, name, p.name, part_of(std::span(head.weights), p));
  return head;
}

void write_medusa(hid_t file, const MedusaHeads& medusa) {
  const Handle group = make_group(file, "medusa");
  write_integer(group, "heads", std::ssize(medusa.heads));
  write_integer(group, "layers", static_cast<std::int64_t>(medusa.heads.front().layers.size()));
  for (std::size_t h = 0; h < medusa.heads.size(); ++h) {
    const MedusaHeads::Head& head = medusa.heads[h];
    for (std::size_t l = 0; l < head.layers.size(); ++l) {
      write_values(group, fmt::format("head_{}_layer_{}_weight", h, l), head.layers[l].weight);
      write_values(group, fmt::format("head_{}_layer_{}_bias", h, l), head.layers[l].bias);
    }
    write_values(group, fmt::format("head_{}_output", h), head.output);
  }
}

std::optional<MedusaHeads> read_medusa(hid_t file, const std::string& name, const DraftIdentity& identity) {
  const auto group = open_group(file, "medusa");
  if (!group) return std::nullopt;
  MedusaHeads medusa;
  medusa.heads.resize(read_count(*group, "heads", name, kMostHeads));
  const std::int64_t layers = read_count(*group, "layers", name, kMostLayers);
  for (std::size_t h = 0; h < medusa.heads.size(); ++h) {
    MedusaHeads::Head& head = medusa.heads[h];
    for (std::int64_t l = 0; l < layers; ++l) {
      const std::string layer = fmt::format("head_{}_layer_{}_", h, l);
      head.layers.push_back({read_matrix(*group, name, layer + "weight", identity.dim * identity.dim),
                             read_matrix(*group, name, layer + "bias", identity.dim)});
    }
    head.output = read_matrix(*group, name, fmt::format("head_{}_output", h), identity.vocab_size * identity.dim);
  }
  return medusa;
}

void write_draft_head_training(const std::filesystem::path& path, const DraftHeadTraining& training) {
  write_hdf5_atomically(path, [&](hid_t file) {
    write_string(file, "key", training.key);
    write_integer(file, "steps", training.steps);
    write_values(file, "weights", training.weights);
    write_values(file, "first", training.first);
    write_values(file, "second", training.second);
  });
}

std::optional<DraftHeadTraining> read_draft_head_training(const std::filesystem::path& path, const std::string& key,
                                                          std::int64_t size) {
  silence_hdf5();
  if (!std::filesystem::exists(path)) return std::nullopt;
  const std::string name = path.string();
  const Handle file(H5Fopen(path.c_str(), H5F_ACC_RDONLY, H5P_DEFAULT), H5Fclose);
  if (!file.valid()) throw FormatError(name, "content", "a whole HDF5 file", "something else");
  if (read_string(file, "key", name) != key) return std::nullopt;
  DraftHeadTraining t;
  t.key = key;
  t.steps = read_integer(file, "steps", name);
  const auto most = static_cast<std::uint64_t>(size);
  t.weights = read_values<float>(file, name, "weights", "weights", most, size);
  t.first = read_values<float>(file, name, "first", "first", most, size);
  t.second = read_values<float>(file, name, "second", "second", most, size);
  return t;
}

}  // namespace jupiter

// The header is checked against the file before any tensor is handed out.
#include "io/formats/safetensors.hpp"

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>
#include <optional>

#include "io/error.hpp"
#include "io/json_fields.hpp"

namespace jupiter {

namespace {

constexpr std::uint64_t kMaxHeaderBytes = 100'000'000;  // the format's own limit

struct Dtype {
  std::string_view name;
  std::uint64_t bytes;
  std::optional<GgufType> type;  // empty: known, but not one we compute with
};
constexpr std::array<Dtype, 15> kDtypes = {{{"F32", 4, GgufType::f32},
                                            {"F16", 2, GgufType::f16},
                                            {"BF16", 2, GgufType::bf16},
                                            {"F64", 8, {}},
                                            {"I64", 8, {}},
                                            {"U64", 8, {}},
                                            {"I32", 4, {}},
                                            {"U32", 4, {}},
                                            {"I16", 2, {}},
                                            {"U16", 2, {}},
                                            {"I8", 1, {}},
                                            {"U8", 1, {}},
                                            {"BOOL", 1, {}},
                                            {"F8_E4M3", 1, {}},
                                            {"F8_E5M2", 1, {}}}};

const Dtype* find_dtype(std::string_view name) {
  const auto it = std::find_if(kDtypes.begin(), kDtypes.end(), [name](const Dtype& d) { return d.name == name; });
  return it == kDtypes.end() ? nullptr : &*it;
}

}  // namespace

class SafetensorsParser {
 public:
  SafetensorsParser(std::span<const std::byte> bytes, std::string_view file_name) : bytes_(bytes) {
    out_.file_name_ = file_name;
  }

  Safetensors parse() {
    if (bytes_.size() < 8) fail("header length", "8 bytes", std::to_string(bytes_.size()));
    std::uint64_t header_size;
    std::memcpy(&header_size, bytes_.data(), 8);
    const std::uint64_t limit = std::min<std::uint64_t>(kMaxHeaderBytes, bytes_.size() - 8);
    if (header_size > limit) fail("header length", "at most " + std::to_string(limit), std::to_string(header_size));
    data_ = bytes_.subspan(8 + static_cast<std::size_t>(header_size));
    const std::string_view text(reinterpret_cast<const char*>(bytes_.data()) + 8,
                                static_cast<std::size_t>(header_size));
    const JsonObject header = parse_json_object(text, out_.file_name_, kMaxHeaderBytes);
    for (const std::string& name : header.keys()) {
      if (name != "__metadata__") read_entry(name, header.object(name));
    }
    check_layout();
    return std::move(out_);
  }

 private:
  [[noreturn]] void fail(std::string_view thing, std::string_view expected, std::string_view found) const {
    throw FormatError(out_.file_name_, thing, expected, found);
  }

  void read_entry(const std::string& name, const JsonObject& fields) {
    const std::string thing = "tensor " + name.substr(0, 80);
    Safetensors::Entry entry;
    entry.dtype = fields.string("dtype");
    entry.shape = fields.ints("shape");
    const std::vector<std::int64_t> offsets = fields.ints("data_offsets");
    const auto size = std::ssize(data_);
    if (offsets.size() != 2 || offsets[0] < 0 || offsets[1] < offsets[0] || offsets[1] > size) {
      fail(thing, "data_offsets inside " + std::to_string(size) + " bytes of data (the file may be truncated)",
           offsets.size() == 2 ? std::to_string(offsets[0]) + " to " + std::to_string(offsets[1]) : "no pair");
    }
    entry.data = data_.data() + offsets[0];
    entry.bytes = static_cast<std::size_t>(offsets[1] - offsets[0]);
    check_size(thing, entry);
    out_.entries_.emplace(name, std::move(entry));
  }

  void check_size(const std::string& thing, const Safetensors::Entry& entry) const {
    const Dtype* dtype = find_dtype(entry.dtype);
    std::uint64_t bytes = dtype == nullptr ? 1 : dtype->bytes;
    bool empty = false;
    for (const std::int64_t size : entry.shape) {
      // Rows and columns are counted one by one: their product must not overflow where another size is 0 either.
      const auto limit = static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());
      if (size < 0 || (size > 0 && bytes > limit / static_cast<std::uint64_t>(size))) {
        fail(thing, "a shape of positive sizes", std::to_string(size));
      }
      empty = empty || size == 0;
      if (size > 0) bytes *= static_cast<std::uint64_t>(size);
    }
    if (empty) bytes = 0;
    if (dtype != nullptr && bytes != entry.bytes) {
      fail(thing, std::to_string(bytes) + " bytes (its shape)", std::to_string(entry.bytes) + " (its data_offsets)");
    }
  }

  // The format asks that tensors fill the data without holes: what is not accounted for is a sign of damage.
  void check_layout() const {
    std::vector<std::pair<const std::byte*, const std::byte*>> ranges;
    for (const auto& [name, entry] : out_.entries_) ranges.emplace_back(entry.data, entry.data + entry.bytes);
    std::sort(ranges.begin(), ranges.end());
    const std::byte* end = data_.data();
    for (const auto& [first, last] : ranges) {
      if (first != end) fail("tensors", "each byte of data in one tensor", first < end ? "an overlap" : "a hole");
      end = last;
    }
    if (end != data_.data() + data_.size()) fail("tensors", "each byte of data in one tensor", "bytes left over");
  }

  std::span<const std::byte> bytes_;
  std::span<const std::byte> data_;
  Safetensors out_;
};

Safetensors parse_safetensors(std::span<const std::byte> bytes, std::string_view file_name) {
  return SafetensorsParser(bytes, file_name).parse();
}

std::vector<std::string_view> Safetensors::names() const {
  std::vector<std::string_view> names;
  for (const auto& [name, entry] : entries_) names.emplace_back(name);
  return names;
}

const std::pair<const std::string, Safetensors::Entry>& Safetensors::entry(std::string_view name) const {
  const auto it = entries_.find(name);
  if (it == entries_.end()) throw FormatError(file_name_, "tensor " + std::string(name), "its weights", "nothing");
  return *it;
}

StoredTensor Safetensors::tensor(std::string_view name) const {
  const auto& [own_name, found] = entry(name);
  const Dtype* dtype = find_dtype(found.dtype);
  if (dtype == nullptr || !dtype->type) {
    throw FormatError(file_name_, "tensor " + own_name, "dtype F32, F16 or BF16", found.dtype.substr(0, 40));
  }
  StoredTensor tensor;
  tensor.name = own_name;
  tensor.type = *dtype->type;
  tensor.shape.assign(found.shape.rbegin(), found.shape.rend());
  tensor.data = found.data;
  tensor.bytes = found.bytes;
  return tensor;
}

std::span<const std::byte> Safetensors::bytes(std::string_view name, const std::vector<std::int64_t>& shape) const {
  const auto& [own_name, found] = entry(name);
  const auto text = [](const std::string& dtype, const std::vector<std::int64_t>& sizes) {
    std::string out = dtype.substr(0, 40) + " [";
    for (const std::int64_t size : sizes) out += (out.back() == '[' ? "" : ", ") + std::to_string(size);
    return out + "]";
  };
  if (found.dtype != "U8" || found.shape != shape) {
    throw FormatError(file_name_, "tensor " + own_name, text("U8", shape), text(found.dtype, found.shape));
  }
  return {found.data, found.bytes};
}

}  // namespace jupiter

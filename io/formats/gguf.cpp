// Parsing of GGUF's header, metadata and tensor directory, and typed look-ups.
#include "io/formats/gguf.hpp"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>

#include "io/error.hpp"

namespace jupiter {

namespace {

// GGUF's numbers of metadata types.
enum ValueType : std::uint32_t {
  kU8 = 0,
  kI8 = 1,
  kU16 = 2,
  kI16 = 3,
  kU32 = 4,
  kI32 = 5,
  kF32 = 6,
  kBool = 7,
  kString = 8,
  kArray = 9,
  kU64 = 10,
  kI64 = 11,
  kF64 = 12,
};

// Bytes of a scalar; 0: not a scalar.
std::size_t scalar_bytes(std::uint32_t type) {
  switch (type) {
    case kU8:
    case kI8:
    case kBool:
      return 1;
    case kU16:
    case kI16:
      return 2;
    case kU32:
    case kI32:
    case kF32:
      return 4;
    case kU64:
    case kI64:
    case kF64:
      return 8;
    default:
      return 0;
  }
}

template <typename T>
T load(const std::byte* p) {
  T v;
  std::memcpy(&v, p, sizeof(T));
  return v;
}

GgufValue scalar(std::uint32_t type, const std::byte* p) {
  switch (type) {
    case kU8:
      return std::uint64_t{load<std::uint8_t>(p)};
    case kU16:
      return std::uint64_t{load<std::uint16_t>(p)};
    case kU32:
      return std::uint64_t{load<std::uint32_t>(p)};
    case kU64:
      return load<std::uint64_t>(p);
    case kI8:
      return std::int64_t{load<std::int8_t>(p)};
    case kI16:
      return std::int64_t{load<std::int16_t>(p)};
    case kI32:
      return std::int64_t{load<std::int32_t>(p)};
    case kI64:
      return load<std::int64_t>(p);
    case kF32:
      return double{load<float>(p)};
    case kF64:
      return load<double>(p);
    default:
      return load<std::uint8_t>(p) != 0;
  }
}

std::optional<std::int64_t> as_int(const GgufValue& value) {
  if (const auto* i = std::get_if<std::int64_t>(&value)) return *i;
  const auto* u = std::get_if<std::uint64_t>(&value);
  if (u == nullptr || *u > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max())) return std::nullopt;
  return static_cast<std::int64_t>(*u);
}

std::string describe(const GgufValue& value) {
  static constexpr const char* kKinds[] = {"an integer", "an integer", "a number", "a boolean", "a string", "an array"};
  if (const auto i = as_int(value)) return "the integer " + std::to_string(*i);
  return kKinds[value.index()];
}

// Text from the file that goes into a message: bounded, printable.
std::string quoted(std::string_view text) {
  std::string out = "\"";
  for (const char c : text.substr(0, 80)) out += (c >= 32 && c < 127) ? c : '?';
  return out + (text.size() > 80 ? "...\"" : "\"");
}

}  // namespace

// Walks the bytes once; a read past the end is a FormatError that says what was being read.
class GgufParser {
 public:
  GgufParser(std::span<const std::byte> bytes, std::string_view file_name) : bytes_(bytes) {
    out_.file_name_ = file_name;
  }

  Gguf parse() {
    const auto [n_tensors, n_values] = read_header();
    for (std::uint64_t i = 0; i < n_values; ++i) read_key_value();
    std::vector<std::uint64_t> offsets;
    for (std::uint64_t i = 0; i < n_tensors; ++i) read_tensor_info(offsets);
    place_tensors(offsets);
    return std::move(out_);
  }

 private:
  [[noreturn]] void fail(std::string_view thing, std::string_view expected, std::string_view found) const {
    throw FormatError(out_.file_name_, thing, expected, found);
  }

  std::span<const std::byte> take(std::uint64_t count, std::string_view thing) {
    const std::size_t left = bytes_.size() - at_;
    if (count > left) {
      fail(thing, std::to_string(count) + " bytes at offset " + std::to_string(at_),
           std::to_string(left) + " (the file is truncated or corrupt)");
    }
    const auto taken = bytes_.subspan(at_, count);
    at_ += static_cast<std::size_t>(count);
    return taken;
  }
  template <typename T>
  T read(std::string_view thing) {
    return load<T>(take(sizeof(T), thing).data());
  }
  std::string_view read_string(std::string_view thing) {
    const auto count = read<std::uint64_t>(thing);
    const auto text = take(count, thing);
    return {reinterpret_cast<const char*>(text.data()), text.size()};
  }

  std::pair<std::uint64_t, std::uint64_t> read_header() {
    const auto magic = take(4, "magic");
    if (std::memcmp(magic.data(), "GGUF", 4) != 0) fail("magic", "\"GGUF\"", "other bytes (not a GGUF file)");
    const auto version = read<std::uint32_t>("version");
    if (version != 2 && version != 3) fail("version", "2 or 3, little-endian", std::to_string(version));
    const auto n_tensors = read<std::uint64_t>("number of tensors");
    const auto n_values = read<std::uint64_t>("number of metadata entries");
    return {n_tensors, n_values};
  }

  void read_key_value() {
    const std::string_view key = read_string("metadata key");
    const std::string thing = "metadata " + quoted(key);
    GgufValue value = read_value(read<std::uint32_t>(thing), thing);
    if (!out_.values_.emplace(key, value).second) fail(thing, "one entry", "two");
  }

  GgufValue read_value(std::uint32_t type, const std::string& thing) {
    if (type == kString) return read_string(thing);
    if (type == kArray) return read_array(thing);
    const std::size_t size = scalar_bytes(type);
    if (size == 0) fail(thing, "a metadata type from 0 to 12", std::to_string(type));
    return scalar(type, take(size, thing).data());
  }

  GgufArray read_array(const std::string& thing) {
    GgufArray array;
    array.element_type = read<std::uint32_t>(thing);
    array.count = read<std::uint64_t>(thing);
    const std::size_t start = at_;
    if (array.element_type == kString) {
      // Each string takes at least its 8 bytes of length: a huge count ends at the end of the file, not of memory.
      for (std::uint64_t i = 0; i < array.count; ++i) read_string(thing);
    } else {
      const std::size_t size = scalar_bytes(array.element_type);
      if (size == 0)
        fail(thing, "an array of scalars or strings", "elements of type " + std::to_string(array.element_type));
      if (array.count > bytes_.size() / size)
        fail(thing, "an array inside the file", std::to_string(array.count) + " elements");
      take(array.count * size, thing);
    }
    array.bytes = bytes_.subspan(start, at_ - start);
    return array;
  }

  void read_tensor_info(std::vector<std::uint64_t>& offsets) {
    StoredTensor tensor;
    tensor.name = read_string("tensor name");
    const std::string thing = "tensor " + quoted(tensor.name);
    const auto n_dims = read<std::uint32_t>(thing);
    if (n_dims < 1 || n_dims > 4) fail(thing, "1 to 4 dimensions", std::to_string(n_dims));
    constexpr auto kMax = static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());
    std::uint64_t elements = 1;
    for (std::uint32_t d = 0; d < n_dims; ++d) {
      const auto size = read<std::uint64_t>(thing);
      if (size == 0 || size > kMax / elements) fail(thing, "positive dimensions", std::to_string(size));
      elements *= size;
      tensor.shape.push_back(static_cast<std::int64_t>(size));
    }
    const auto type = read<std::uint32_t>(thing);
    const auto known = gguf_type_from_number(type);
    if (!known) fail(thing, gguf_type_list(), gguf_type_name(type));
    tensor.type = *known;
    const GgufBlock block = gguf_block(*known);
    if (tensor.shape[0] % block.cols != 0) {
      fail(thing, "columns in multiples of " + std::to_string(block.cols), std::to_string(tensor.shape[0]));
    }
    const std::uint64_t blocks = elements / static_cast<std::uint64_t>(block.cols);
    if (blocks > bytes_.size() / block.bytes)
      fail(thing, "a tensor inside the file", std::to_string(elements) + " elements");
    tensor.bytes = static_cast<std::size_t>(blocks) * block.bytes;
    offsets.push_back(read<std::uint64_t>(thing));
    if (!out_.tensor_index_.emplace(tensor.name, out_.tensors_.size()).second) fail(thing, "one entry", "two");
    out_.tensors_.push_back(std::move(tensor));
  }

  std::uint64_t alignment() const {
    const std::int64_t value = out_.find_int("general.alignment").value_or(32);
    if (value < 1 || value > (1 << 30) || !std::has_single_bit(static_cast<std::uint64_t>(value))) {
      fail("metadata \"general.alignment\"", "a power of two", std::to_string(value));
    }
    return static_cast<std::uint64_t>(value);
  }

  // Data start at the next aligned offset after the directory; every tensor must lie inside, on its own bytes.
  void place_tensors(const std::vector<std::uint64_t>& offsets) {
    const std::uint64_t align = alignment();
    const std::uint64_t start = (at_ + align - 1) / align * align;
    const std::uint64_t size = start <= bytes_.size() ? bytes_.size() - start : 0;
    for (std::size_t i = 0; i < offsets.size(); ++i) {
      StoredTensor& tensor = out_.tensors_[i];
      const std::string thing = "tensor " + quoted(tensor.name);
      if (offsets[i] % align != 0)
        fail(thing, "an offset in multiples of " + std::to_string(align), std::to_string(offsets[i]));
      if (offsets[i] > size || tensor.bytes > size - offsets[i]) {
        fail(thing, std::to_string(tensor.bytes) + " bytes at data offset " + std::to_string(offsets[i]),
             std::to_string(size) + " bytes of data (the file is truncated or corrupt)");
      }
      tensor.data = bytes_.data() + start + offsets[i];
    }
    check_overlap();
  }

  void check_overlap() const {
    std::vector<const StoredTensor*> order;
    for (const StoredTensor& tensor : out_.tensors_) order.push_back(&tensor);
    std::sort(order.begin(), order.end(),
              [](const StoredTensor* a, const StoredTensor* b) { return a->data < b->data; });
    for (std::size_t i = 1; i < order.size(); ++i) {
      if (order[i - 1]->data + order[i - 1]->bytes > order[i]->data) {
        fail("tensor " + quoted(order[i]->name), "its own bytes", "an overlap with " + quoted(order[i - 1]->name));
      }
    }
  }

  std::span<const std::byte> bytes_;
  std::size_t at_ = 0;
  Gguf out_;
};

Gguf parse_gguf(std::span<const std::byte> bytes, std::string_view file_name) {
  return GgufParser(bytes, file_name).parse();
}

GgufFile::GgufFile(const std::string& path) : mapping_(path), content_(parse_gguf(mapping_.bytes(), path)) {}

const GgufValue* Gguf::find(std::string_view key) const {
  const auto it = values_.find(key);
  return it == values_.end() ? nullptr : &it->second;
}

std::optional<std::int64_t> Gguf::find_int(std::string_view key) const {
  const GgufValue* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (const auto i = as_int(*value)) return i;
  throw FormatError(file_name_, "metadata " + quoted(key), "an integer", describe(*value));
}

std::optional<double> Gguf::find_number(std::string_view key) const {
  const GgufValue* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (const auto* d = std::get_if<double>(value)) return *d;
  if (const auto i = as_int(*value)) return static_cast<double>(*i);
  throw FormatError(file_name_, "metadata " + quoted(key), "a number", describe(*value));
}

std::optional<bool> Gguf::find_bool(std::string_view key) const {
  const GgufValue* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (const auto* b = std::get_if<bool>(value)) return *b;
  throw FormatError(file_name_, "metadata " + quoted(key), "a boolean", describe(*value));
}

std::optional<std::string_view> Gguf::find_string(std::string_view key) const {
  const GgufValue* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (const auto* s = std::get_if<std::string_view>(value)) return *s;
  throw FormatError(file_name_, "metadata " + quoted(key), "a string", describe(*value));
}

std::optional<std::vector<std::string_view>> Gguf::find_strings(std::string_view key) const {
  const GgufValue* value = find(key);
  if (value == nullptr) return std::nullopt;
  const auto* array = std::get_if<GgufArray>(value);
  if (array == nullptr || array->element_type != kString) {
    throw FormatError(file_name_, "metadata " + quoted(key), "an array of strings", describe(*value));
  }
  std::vector<std::string_view> out;
  out.reserve(array->count);  // the parser walked the strings: the count is true
  const std::byte* p = array->bytes.data();
  for (std::uint64_t i = 0; i < array->count; ++i) {
    const auto size = static_cast<std::size_t>(load<std::uint64_t>(p));
    out.emplace_back(reinterpret_cast<const char*>(p + 8), size);
    p += 8 + size;
  }
  return out;
}

std::optional<std::vector<std::int64_t>> Gguf::find_ints(std::string_view key) const {
  const GgufValue* value = find(key);
  if (value == nullptr) return std::nullopt;
  const auto* array = std::get_if<GgufArray>(value);
  const std::size_t size = array == nullptr ? 0 : scalar_bytes(array->element_type);
  std::vector<std::int64_t> out;
  for (std::uint64_t i = 0; size != 0 && i < array->count; ++i) {
    const auto element = as_int(scalar(array->element_type, array->bytes.data() + i * size));
    if (!element) break;
    out.push_back(*element);
  }
  if (size != 0 && out.size() == array->count) return out;
  throw FormatError(file_name_, "metadata " + quoted(key), "an array of integers", describe(*value));
}

std::optional<std::vector<float>> Gguf::find_floats(std::string_view key) const {
  const GgufValue* value = find(key);
  if (value == nullptr) return std::nullopt;
  const auto* array = std::get_if<GgufArray>(value);
  if (array == nullptr || array->element_type != kF32) {
    throw FormatError(file_name_, "metadata " + quoted(key), "an array of f32", describe(*value));
  }
  std::vector<float> out(array->count);
  if (!out.empty()) std::memcpy(out.data(), array->bytes.data(), out.size() * sizeof(float));
  return out;
}

const StoredTensor* Gguf::find_tensor(std::string_view name) const {
  const auto it = tensor_index_.find(name);
  return it == tensor_index_.end() ? nullptr : &tensors_[it->second];
}

}  // namespace jupiter

// HDF5's C interface with handles that close themselves. Only sources of this folder that write HDF5 include it.
#pragma once

#include <fmt/format.h>
#include <hdf5.h>

#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "io/error.hpp"

namespace jupiter {

// An HDF5 identifier and the function that closes it.
class Handle {
 public:
  Handle(hid_t id, herr_t (*closer)(hid_t)) : id_(id), close_(closer) {}
  ~Handle() {
    if (id_ >= 0) close_(id_);
  }
  Handle(Handle&& other) noexcept : id_(std::exchange(other.id_, -1)), close_(other.close_) {}
  Handle& operator=(Handle&& other) noexcept {
    std::swap(id_, other.id_);
    std::swap(close_, other.close_);
    return *this;
  }
  operator hid_t() const { return id_; }  // NOLINT(google-explicit-constructor): HDF5 takes it everywhere
  bool valid() const { return id_ >= 0; }
  // Closes now and tells whether that worked (the destructor could not report it).
  bool close() { return close_(std::exchange(id_, -1)) >= 0; }

 private:
  hid_t id_;
  herr_t (*close_)(hid_t);
};

// Errors come back as codes that we turn into messages; the library need not print them too.
inline void silence_hdf5() {
  static const bool once = [] {
    H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
    return true;
  }();
  (void)once;
}

inline void write_string(hid_t object, const char* key, const std::string& value) {
  const Handle type(H5Tcopy(H5T_C_S1), H5Tclose);
  H5Tset_size(type, std::max<std::size_t>(value.size(), 1));
  const Handle space(H5Screate(H5S_SCALAR), H5Sclose);
  const Handle attribute(H5Acreate2(object, key, type, space, H5P_DEFAULT, H5P_DEFAULT), H5Aclose);
  if (!attribute.valid() || H5Awrite(attribute, type, value.c_str()) < 0) {
    throw RunError(fmt::format("HDF5 attribute {} cannot be written", key));
  }
}

inline void write_integer(hid_t object, const char* key, std::int64_t value) {
  const Handle space(H5Screate(H5S_SCALAR), H5Sclose);
  const Handle attribute(H5Acreate2(object, key, H5T_STD_I64LE, space, H5P_DEFAULT, H5P_DEFAULT), H5Aclose);
  if (!attribute.valid() || H5Awrite(attribute, H5T_NATIVE_INT64, &value) < 0) {
    throw RunError(fmt::format("HDF5 attribute {} cannot be written", key));
  }
}

// Readers throw FormatError with the name of the file. What the file says of sizes is checked before memory is taken:
// HDF5 writes as many values as an attribute has.
inline bool has_one_value(const Handle& attribute, const Handle& type, H5T_class_t kind) {
  const Handle space(H5Aget_space(attribute), H5Sclose);
  return H5Sget_simple_extent_npoints(space) == 1 && H5Tget_class(type) == kind;
}

inline std::int64_t read_integer(hid_t file, const char* key, const std::string& name) {
  std::int64_t value = 0;
  const Handle attribute(H5Aopen(file, key, H5P_DEFAULT), H5Aclose);
  if (!attribute.valid()) throw FormatError(name, key, "an integer attribute", "none");
  const Handle type(H5Aget_type(attribute), H5Tclose);
  if (!has_one_value(attribute, type, H5T_INTEGER) || H5Aread(attribute, H5T_NATIVE_INT64, &value) < 0) {
    throw FormatError(name, key, "an attribute of one integer", "another");
  }
  return value;
}

inline std::string read_string(hid_t file, const char* key, const std::string& name) {
  const Handle attribute(H5Aopen(file, key, H5P_DEFAULT), H5Aclose);
  if (!attribute.valid()) throw FormatError(name, key, "a text attribute", "none");
  const Handle type(H5Aget_type(attribute), H5Tclose);
  const std::size_t size = H5Tget_size(type);
  std::string value(std::min<std::size_t>(size, 4096), '\0');
  if (size > value.size() || !has_one_value(attribute, type, H5T_STRING) || H5Tis_variable_str(type) > 0 ||
      H5Aread(attribute, type, value.data()) < 0) {
    throw FormatError(name, key, "a short text attribute of fixed length", "another");
  }
  return value.substr(0, value.find('\0'));
}

inline std::vector<hsize_t> dims_of(hid_t set, std::size_t rank, const std::string& name, const char* dataset) {
  const Handle space(H5Dget_space(set), H5Sclose);
  std::vector<hsize_t> dims(rank);
  if (H5Sget_simple_extent_ndims(space) != static_cast<int>(rank) ||
      H5Sget_simple_extent_dims(space, dims.data(), nullptr) < 0) {
    throw FormatError(name, dataset, std::to_string(rank) + " dimensions", "others");
  }
  return dims;
}

// Before memory is taken for a dataset's values: they must lie in the file, compressed by as much as its method can.
inline void check_stored(hid_t set, std::uint64_t bytes, const std::string& name, const char* dataset) {
  constexpr std::uint64_t kMostPacked = 1032;  // deflate's best
  const Handle file(H5Iget_file_id(set), H5Fclose);
  hsize_t file_bytes = 0;
  const bool known = H5Fget_filesize(file, &file_bytes) >= 0;
  const std::uint64_t stored = std::min<std::uint64_t>(H5Dget_storage_size(set), file_bytes);
  if (known && bytes / kMostPacked <= stored) return;
  throw FormatError(name, dataset, fmt::format("{} bytes of values", bytes), fmt::format("{} in the file", stored));
}

}  // namespace jupiter

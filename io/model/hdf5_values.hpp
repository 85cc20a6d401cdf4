// Small HDF5 files that appear whole or not at all, and lists of plain numbers as their datasets: compressed, with a
// checksum for each chunk, the same bytes for the same values. Only sources of this folder include it.
#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <string>
#include <type_traits>
#include <vector>

#include "io/files.hpp"
#include "io/model/hdf5_handle.hpp"

namespace jupiter {

// Writes a file that replaces `path` only when it is whole and on the disk. RunError names it.
template <typename Fill>
void write_hdf5_atomically(const std::filesystem::path& path, const Fill& fill) {
  silence_hdf5();
  NewFile target(path);
  try {
    Handle file(H5Fcreate(target.path().c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT), H5Fclose);
    if (!file.valid()) throw RunError("it cannot be created");
    fill(static_cast<hid_t>(file));
    if (!file.close()) throw RunError("is the disk full?");
    target.put_in_place();
  } catch (const Error& e) {
    throw RunError(fmt::format("{}: cannot be written: {}", path.string(), e.what()));
  }
}

template <typename T>
hid_t stored_type() {
  if (std::is_same_v<T, float>) return H5T_IEEE_F32LE;
  return sizeof(T) == 8   ? H5T_STD_U64LE
         : sizeof(T) == 4 ? H5T_STD_U32LE
         : sizeof(T) == 2 ? H5T_STD_U16LE
                          : H5T_STD_U8LE;
}

template <typename T>
hid_t memory_type() {
  if (std::is_same_v<T, float>) return H5T_NATIVE_FLOAT;
  return sizeof(T) == 8   ? H5T_NATIVE_UINT64
         : sizeof(T) == 4 ? H5T_NATIVE_UINT32
         : sizeof(T) == 2 ? H5T_NATIVE_UINT16
                          : H5T_NATIVE_UINT8;
}

// RunError where it cannot be written.
template <typename T>
void write_values(hid_t group, const std::string& name, const std::vector<T>& values) {
  const hsize_t dims[1] = {values.size()}, chunk[1] = {std::clamp<hsize_t>(values.size(), 1, 1 << 16)};
  const Handle space(H5Screate_simple(1, dims, nullptr), H5Sclose);
  const Handle properties(H5Pcreate(H5P_DATASET_CREATE), H5Pclose);
  H5Pset_obj_track_times(properties, false);  // equal values are equal files
  H5Pset_chunk(properties, 1, chunk);
  H5Pset_shuffle(properties);
  if (!std::is_same_v<T, float>) H5Pset_deflate(properties, 9);  // mantissas do not shrink
  H5Pset_fletcher32(properties);
  const Handle set(H5Dcreate2(group, name.c_str(), stored_type<T>(), space, H5P_DEFAULT, properties, H5P_DEFAULT),
                   H5Dclose);
  if (!set.valid() ||
      (!values.empty() && H5Dwrite(set, memory_type<T>(), H5S_ALL, H5S_ALL, H5P_DEFAULT, values.data()) < 0)) {
    throw RunError(fmt::format("HDF5 dataset {} cannot be written (is the disk full?)", name));
  }
}

// thing: the dataset's full name for messages. FormatError where there is none, it is damaged, or has more than `most`
// values, or other than `exactly` (where that is not negative).
template <typename T>
std::vector<T> read_values(hid_t group, const std::string& file, const std::string& thing, const std::string& name,
                           std::uint64_t most, std::int64_t exactly = -1) {
  const Handle set(H5Dopen2(group, name.c_str(), H5P_DEFAULT), H5Dclose);
  if (!set.valid()) throw FormatError(file, thing, "a dataset", "none");
  const auto dims = dims_of(set, 1, file, thing.c_str());
  if (dims[0] > most) throw FormatError(file, thing, fmt::format("at most {} values", most), std::to_string(dims[0]));
  if (exactly >= 0 && dims[0] != static_cast<hsize_t>(exactly)) {
    throw FormatError(file, thing, fmt::format("{} values", exactly), std::to_string(dims[0]));
  }
  check_stored(set, dims[0] * sizeof(T), file, thing.c_str());
  std::vector<T> values(dims[0]);
  if (!values.empty() && H5Dread(set, memory_type<T>(), H5S_ALL, H5S_ALL, H5P_DEFAULT, values.data()) < 0) {
    throw FormatError(file, thing, "values whose checksum is right", "damage");
  }
  return values;
}

}  // namespace jupiter

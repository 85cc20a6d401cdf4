// HDF5 through its C interface: handles closed by RAII, every return code checked.
#include "io/model/shards.hpp"

#include <fmt/format.h>
#include <cstring>

#include "io/error.hpp"
#include "io/hash.hpp"
#include "io/model/hdf5_handle.hpp"
#include "io/model/verified_files.hpp"

namespace jupiter {

namespace {

constexpr hsize_t kSmallestMatrixBytes = 320;  // a panel of 4-bit weights with 32 columns
constexpr int kShardVersion = 1;               // of the datasets' layout
constexpr const char* kCreatorVersion = JUPITER_VERSION;

}  // namespace

struct ShardWriter::Impl {
  explicit Impl(const std::filesystem::path& to) : path(to), target(to) {}
  std::filesystem::path path;
  NewFile target;
  Handle file{-1, H5Fclose};
  FileInfo info;

  RunError failure(const std::string& what) const {
    return RunError(fmt::format("{}: {} (is the disk full?)", path.string(), what));
  }

  Handle create(const std::string& dataset, hid_t type, int rank, const hsize_t* dims) const {
    const Handle space(H5Screate_simple(rank, dims, nullptr), H5Sclose);
    const Handle properties(H5Pcreate(H5P_DATASET_CREATE), H5Pclose);
    H5Pset_layout(properties, H5D_CONTIGUOUS);
    H5Pset_alloc_time(properties, H5D_ALLOC_TIME_EARLY);
    H5Pset_fill_time(properties, H5D_FILL_TIME_NEVER);
    Handle set(H5Dcreate2(file, dataset.c_str(), type, space, H5P_DEFAULT, properties, H5P_DEFAULT), H5Dclose);
    if (!set.valid()) throw failure("dataset " + dataset + " cannot be created");
    return set;
  }

  void write_whole(const std::string& dataset, hid_t type, const void* data, std::int64_t count,
                   const std::string& meaning, DatasetInfo::Kind kind, std::int64_t element_bytes) {
    const hsize_t dims[1] = {static_cast<hsize_t>(count)};
    const Handle set = create(dataset, type, 1, dims);
    write_string(set, "meaning", meaning);
    if (H5Dwrite(set, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, data) < 0) throw failure(dataset + " cannot be written");
    const auto bytes = static_cast<std::uint64_t>(count * element_bytes);
    info.datasets.push_back({dataset, kind, Format::f32, 1, count, bytes, hash_bytes(data, bytes)});
  }
};

ShardWriter::ShardWriter(const std::filesystem::path& folder, const std::string& name, const ModelConfig& config)
    : impl_(std::make_unique<Impl>(folder / name)) {
  silence_hdf5();
  impl_->info.name = name;
  const Handle access(H5Pcreate(H5P_FILE_ACCESS), H5Pclose);
  H5Pset_libver_bounds(access, H5F_LIBVER_EARLIEST, H5F_LIBVER_V18);
  H5Pset_alignment(access, kSmallestMatrixBytes, kDatasetAlignment);
  impl_->file = Handle(H5Fcreate(impl_->target.path().c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, access), H5Fclose);
  if (!impl_->file.valid()) throw RunError(impl_->path.string() + ": cannot be created");
  write_string(impl_->file, "creator", "jupiter");
  write_string(impl_->file, "creator_version", kCreatorVersion);
  write_integer(impl_->file, "format_version", kShardVersion);
  write_string(impl_->file, "architecture", std::string(jupiter::name(config.architecture)));
  write_string(impl_->file, "model_name", config.model_name.empty() ? "unnamed" : config.model_name);
}

ShardWriter::~ShardWriter() = default;

void ShardWriter::write_matrix(const std::string& dataset, Format format, std::int64_t rows, std::int64_t cols,
                               const std::function<void(std::int64_t, std::byte*)>& fill) {
  const PackedMatrix shape{format, rows, cols, nullptr};
  const std::size_t panel_bytes = shape.panel_bytes();
  const hsize_t dims[2] = {static_cast<hsize_t>(shape.panels()), panel_bytes};
  const Handle set = impl_->create(dataset, H5T_STD_U8LE, 2, dims);
  write_string(set, "format", std::string(name(format)));
  write_integer(set, "rows", rows);
  write_integer(set, "cols", cols);
  write_integer(set, "panel_rows", kPanelRows);
  if (!is_float(format)) write_integer(set, "group_cols", kGroupCols);
  write_string(set, "meaning", "panels of 16 output rows; the sections of a panel are described in io/README.md");

  // Panels are gathered to about a megabyte a write: bounded memory, and few calls.
  const std::int64_t batch = std::max<std::int64_t>(1, static_cast<std::int64_t>((1 << 20) / panel_bytes));
  Buffer<std::byte> bytes(static_cast<std::size_t>(batch) * panel_bytes);
  const Handle file_space(H5Dget_space(set), H5Sclose);
  Hasher hasher;
  for (std::int64_t first = 0; first < shape.panels(); first += batch) {
    const std::int64_t count = std::min(batch, shape.panels() - first);
    const std::size_t used = static_cast<std::size_t>(count) * panel_bytes;
    std::memset(bytes.data(), 0, used);
    for (std::int64_t p = 0; p < count; ++p) fill(first + p, bytes.data() + static_cast<std::size_t>(p) * panel_bytes);
    hasher.update(bytes.data(), used);
    const hsize_t start[2] = {static_cast<hsize_t>(first), 0}, extent[2] = {static_cast<hsize_t>(count), panel_bytes};
    H5Sselect_hyperslab(file_space, H5S_SELECT_SET, start, nullptr, extent, nullptr);
    const Handle memory_space(H5Screate_simple(2, extent, nullptr), H5Sclose);
    if (H5Dwrite(set, H5T_NATIVE_UINT8, memory_space, file_space, H5P_DEFAULT, bytes.data()) < 0) {
      throw impl_->failure(dataset + " cannot be written");
    }
  }
  impl_->info.datasets.push_back(
      {dataset, DatasetInfo::Kind::matrix, format, rows, cols, shape.bytes(), hasher.digest()});
}

void ShardWriter::write_vector(const std::string& dataset, std::span<const float> values) {
  impl_->write_whole(dataset, H5T_IEEE_F32LE, values.data(), std::ssize(values), "one f32 per output row or channel",
                     DatasetInfo::Kind::vector, 4);
}

void ShardWriter::write_bytes(const std::string& dataset, std::span<const std::byte> bytes,
                              const std::string& meaning) {
  impl_->write_whole(dataset, H5T_STD_U8LE, bytes.data(), std::ssize(bytes), meaning, DatasetInfo::Kind::bytes, 1);
}

std::pair<FileInfo, NewFile> ShardWriter::finish() {
  if (H5Fflush(impl_->file, H5F_SCOPE_GLOBAL) < 0) throw impl_->failure("cannot be written");
  if (!impl_->file.close()) throw impl_->failure("cannot be written");  // the last blocks may not have fitted
  impl_->target.finish();
  return {std::move(impl_->info), std::move(impl_->target)};
}

namespace {

// The offset of a dataset's bytes in the file, after checking layout, size and bounds.
std::uint64_t locate(hid_t file, const std::string& file_name, const DatasetInfo& d, std::uint64_t file_bytes) {
  const std::string thing = "dataset " + d.name;
  const Handle set(H5Dopen2(file, d.name.c_str(), H5P_DEFAULT), H5Dclose);
  if (!set.valid()) throw FormatError(file_name, thing, "to be there", "none");
  const Handle properties(H5Dget_create_plist(set), H5Pclose);
  if (H5Pget_layout(properties) != H5D_CONTIGUOUS) {
    throw FormatError(file_name, thing, "contiguous layout", "another layout");
  }
  const std::uint64_t stored = H5Dget_storage_size(set);
  if (stored != d.bytes) {
    throw FormatError(file_name, thing, fmt::format("{} bytes (manifest)", d.bytes), fmt::format("{} bytes", stored));
  }
  const haddr_t offset = H5Dget_offset(set);
  if (offset == HADDR_UNDEF || offset > file_bytes || d.bytes > file_bytes - offset) {
    throw FormatError(file_name, thing, "to lie inside the file", "an offset past its end (truncated?)");
  }
  // Views cast these bytes to floats and cache lines: what our writer aligned must still be aligned.
  if (offset % kCacheLine != 0 && d.bytes >= kDatasetAlignment) {
    throw FormatError(file_name, thing, "an offset aligned to 64 bytes", std::to_string(offset));
  }
  return offset;
}

void check_checksum(const std::string& file_name, const DatasetInfo& d, const std::byte* bytes) {
  const std::uint64_t found = hash_bytes(bytes, d.bytes);
  if (found != d.checksum) {
    throw FormatError(file_name, "checksum of dataset " + d.name, hex(d.checksum) + " (manifest)", hex(found));
  }
}

std::string checksums_of(const FileInfo& info) {
  std::string all;
  for (const DatasetInfo& d : info.datasets) all += hex(d.checksum);
  return all;
}

Handle open_hdf5(const std::string& path) {
  silence_hdf5();
  const Handle access(H5Pcreate(H5P_FILE_ACCESS), H5Pclose);
  Handle file(H5Fopen(path.c_str(), H5F_ACC_RDONLY, access), H5Fclose);
  if (!file.valid()) throw FormatError(path, "content", "a whole HDF5 file", "something else, or a truncated file");
  return file;
}

std::string shard_path(const std::filesystem::path& folder, const FileInfo& info) {
  const std::filesystem::path path = folder / info.name;
  if (!std::filesystem::exists(path)) throw FormatError(path.string(), "shard", "a file", "nothing");
  return path.string();
}

}  // namespace

ShardFile::ShardFile(const std::filesystem::path& folder, const FileInfo& info, bool verify)
    : info_(info), mapping_(shard_path(folder, info)) {
  const std::string& path = mapping_.path();
  const Handle file = open_hdf5(path);
  const std::uint64_t key = verify ? VerifiedFiles::key(path, checksums_of(info_)) : 0;
  const bool read = verify && !VerifiedFiles::of_user().has(key);
  for (const DatasetInfo& d : info_.datasets) {
    offsets_.push_back(locate(file, path, d, mapping_.bytes().size()));
    const std::byte* bytes = mapping_.bytes().data() + offsets_.back();
    if (read) {
      check_checksum(path, d, bytes);
    } else if (!holds_experts(d.name)) {      // of experts only what is used is read
      populate_mapped_pages(bytes, d.bytes);  // as checksums do: else the first token waits for every page
    }
  }
  if (read) VerifiedFiles::of_user().add(key);
}

std::vector<std::string> verify_shard(const std::filesystem::path& folder, const FileInfo& info) {
  std::vector<std::string> problems;
  try {
    const std::string path = shard_path(folder, info);
    const MappedFile mapping(path);
    const Handle file = open_hdf5(path);
    for (const DatasetInfo& d : info.datasets) {
      try {
        check_checksum(path, d, mapping.bytes().data() + locate(file, path, d, mapping.bytes().size()));
      } catch (const FormatError& e) {
        problems.emplace_back(e.what());
      }
    }
  } catch (const FormatError& e) {
    problems.emplace_back(e.what());
  }
  return problems;
}

const std::byte* ShardFile::find(const std::string& dataset, DatasetInfo::Kind kind, const DatasetInfo** info) const {
  for (std::size_t i = 0; i < info_.datasets.size(); ++i) {
    const DatasetInfo& d = info_.datasets[i];
    if (d.name != dataset) continue;
    if (d.kind != kind) throw FormatError(name(), "dataset " + dataset, "another kind of data", "the manifest's kind");
    *info = &d;
    return mapping_.bytes().data() + offsets_[i];
  }
  throw FormatError(name(), "dataset " + dataset, "to be there", "none");
}

PackedMatrix ShardFile::matrix(const std::string& dataset, std::int64_t rows, std::int64_t cols) const {
  const DatasetInfo* d = nullptr;
  const std::byte* data = find(dataset, DatasetInfo::Kind::matrix, &d);
  if (d->rows != rows || d->cols != cols) {
    throw FormatError(name(), "dataset " + dataset, fmt::format("{} x {}", rows, cols),
                      fmt::format("{} x {}", d->rows, d->cols));
  }
  if (reinterpret_cast<std::uintptr_t>(data) % kCacheLine != 0) {
    throw FormatError(name(), "dataset " + dataset, "an offset aligned to 64 bytes", "another");
  }
  return {d->format, rows, cols, data};
}

std::span<const float> ShardFile::vector(const std::string& dataset, std::int64_t size) const {
  const DatasetInfo* d = nullptr;
  const std::byte* data = find(dataset, DatasetInfo::Kind::vector, &d);
  if (d->cols != size) {
    throw FormatError(name(), "dataset " + dataset, fmt::format("{} values", size), std::to_string(d->cols));
  }
  if (reinterpret_cast<std::uintptr_t>(data) % alignof(float) != 0) {
    throw FormatError(name(), "dataset " + dataset, "an offset aligned to 4 bytes", "another");
  }
  return {reinterpret_cast<const float*>(data), static_cast<std::size_t>(size)};
}

std::span<const std::byte> ShardFile::bytes(const std::string& dataset) const {
  const DatasetInfo* d = nullptr;
  const std::byte* data = find(dataset, DatasetInfo::Kind::bytes, &d);
  return {data, d->bytes};
}

}  // namespace jupiter

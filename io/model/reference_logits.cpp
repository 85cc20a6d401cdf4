// Datasets: tokens i32 [rows], log_probabilities u16 (f16 bits) [rows][vocab_size]; attributes window, model_hash.
#include "io/model/reference_logits.hpp"

#include "io/files.hpp"
#include "io/model/hdf5_handle.hpp"

namespace jupiter {

struct ReferenceWriter::Impl {
  std::filesystem::path path;
  NewFile target;
  Handle file{-1, H5Fclose};
  Handle set{-1, H5Dclose};
  hsize_t vocab_size = 0;
  explicit Impl(const std::filesystem::path& to) : path(to), target(to) {}
  RunError failure() const { return RunError(path.string() + ": cannot be written (is the disk full?)"); }
};

ReferenceWriter::ReferenceWriter(const std::filesystem::path& path, const ReferenceInfo& info)
    : impl_(std::make_unique<Impl>(path)) {
  silence_hdf5();
  impl_->vocab_size = static_cast<hsize_t>(info.vocab_size);
  impl_->file = Handle(H5Fcreate(impl_->target.path().c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT), H5Fclose);
  if (!impl_->file.valid()) throw impl_->failure();
  write_string(impl_->file, "creator", "jupiter");
  write_integer(impl_->file, "window_tokens", info.window);
  write_string(impl_->file, "model_hash", info.model_hash);
  const hsize_t rows[1] = {info.tokens.size()};
  const Handle space(H5Screate_simple(1, rows, nullptr), H5Sclose);
  const Handle tokens(H5Dcreate2(impl_->file, "tokens", H5T_STD_I32LE, space, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT),
                      H5Dclose);
  if (!tokens.valid() || H5Dwrite(tokens, H5T_NATIVE_INT32, H5S_ALL, H5S_ALL, H5P_DEFAULT, info.tokens.data()) < 0) {
    throw impl_->failure();
  }
  const hsize_t dims[2] = {rows[0], impl_->vocab_size};
  const Handle matrix(H5Screate_simple(2, dims, nullptr), H5Sclose);
  const Handle properties(H5Pcreate(H5P_DATASET_CREATE), H5Pclose);
  H5Pset_layout(properties, H5D_CONTIGUOUS);
  H5Pset_alloc_time(properties, H5D_ALLOC_TIME_EARLY);
  impl_->set =
      Handle(H5Dcreate2(impl_->file, "log_probabilities", H5T_STD_U16LE, matrix, H5P_DEFAULT, properties, H5P_DEFAULT),
             H5Dclose);
  if (!impl_->set.valid()) throw impl_->failure();
  write_string(impl_->set, "meaning", "natural log-probabilities of the next token, f16 bits");
}

ReferenceWriter::~ReferenceWriter() = default;

void ReferenceWriter::write(std::int64_t row, std::span<const f16_t> values) {
  const hsize_t start[2] = {static_cast<hsize_t>(row), 0}, extent[2] = {1, impl_->vocab_size};
  const Handle target(H5Dget_space(impl_->set), H5Sclose);
  H5Sselect_hyperslab(target, H5S_SELECT_SET, start, nullptr, extent, nullptr);
  const Handle memory(H5Screate_simple(2, extent, nullptr), H5Sclose);
  if (H5Dwrite(impl_->set, H5T_NATIVE_UINT16, memory, target, H5P_DEFAULT, values.data()) < 0) throw impl_->failure();
}

void ReferenceWriter::finish() {
  const bool set_closed = impl_->set.close(), file_closed = impl_->file.close();
  if (!set_closed || !file_closed) throw impl_->failure();
  impl_->target.put_in_place();
}

ReferenceFile::ReferenceFile(const std::filesystem::path& path) : mapping_(path.string()) {
  silence_hdf5();
  const std::string name = path.string();
  const Handle file(H5Fopen(path.c_str(), H5F_ACC_RDONLY, H5P_DEFAULT), H5Fclose);
  if (!file.valid()) throw FormatError(name, "content", "a whole HDF5 file", "something else");
  info_.window = read_integer(file, "window_tokens", name);
  info_.model_hash = read_string(file, "model_hash", name);
  const Handle tokens(H5Dopen2(file, "tokens", H5P_DEFAULT), H5Dclose);
  const Handle set(H5Dopen2(file, "log_probabilities", H5P_DEFAULT), H5Dclose);
  if (!tokens.valid() || !set.valid()) throw FormatError(name, "datasets", "tokens and log_probabilities", "others");
  const auto rows = dims_of(tokens, 1, name, "tokens"), dims = dims_of(set, 2, name, "log_probabilities");
  const std::uint64_t bytes = mapping_.bytes().size();
  const haddr_t offset = H5Dget_offset(set);
  if (rows[0] != dims[0] || dims[1] == 0 || dims[0] > bytes / dims[1] / 2 || offset == HADDR_UNDEF || offset % 2 != 0 ||
      offset > bytes - dims[0] * dims[1] * 2 || H5Dget_storage_size(set) != dims[0] * dims[1] * 2) {
    throw FormatError(name, "log_probabilities", "one contiguous row of 16-bit values for every token",
                      "another shape");
  }
  info_.tokens.resize(rows[0]);
  if (H5Dread(tokens, H5T_NATIVE_INT32, H5S_ALL, H5S_ALL, H5P_DEFAULT, info_.tokens.data()) < 0) {
    throw FormatError(name, "tokens", "to be readable", "damage");
  }
  info_.vocab_size = static_cast<std::int64_t>(dims[1]);
  rows_ = reinterpret_cast<const f16_t*>(mapping_.bytes().data() + offset);
}

}  // namespace jupiter

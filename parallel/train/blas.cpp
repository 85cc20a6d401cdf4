// OpenBLAS is loaded when it is first needed. Linked, it would start a thread for every core in every subcommand,
// before main() could say how many it may use.
#include "parallel/train/blas.hpp"

#include <cblas.h>
#include <dlfcn.h>

#include <algorithm>
#include <cassert>
#include <cstdlib>

#include "io/error.hpp"

namespace jupiter {

namespace {

constexpr const char* kLibrary = "libopenblas.so.0";

decltype(&cblas_sgemm) load_sgemm() {
  ::setenv("OPENBLAS_NUM_THREADS", "1", 1);  // its own threads; ours call it at the same time
  void* library = ::dlopen(kLibrary, RTLD_NOW | RTLD_LOCAL);
  void* found = library != nullptr ? ::dlsym(library, "cblas_sgemm") : nullptr;
  if (found == nullptr) {
    throw RunError(std::string("train-draft: expected ") + kLibrary +
                   " with cblas_sgemm (package libopenblas0), found " + ::dlerror());
  }
  return reinterpret_cast<decltype(&cblas_sgemm)>(found);
}

}  // namespace

void multiply_blas(const Runtime& rt, const Factor& a, const Factor& b, MatrixView<float> c, Into into) {
  static const auto sgemm = load_sgemm();
  const std::int64_t k = a.transposed ? a.matrix.rows : a.matrix.cols;
  assert(c.rows == (a.transposed ? a.matrix.cols : a.matrix.rows));
  assert(c.cols == (b.transposed ? b.matrix.rows : b.matrix.cols));
  assert(k == (b.transposed ? b.matrix.cols : b.matrix.rows));
  const auto narrow = [](std::int64_t n) { return static_cast<blasint>(n); };
  for_rows(rt, c.rows, 1, [&](std::int64_t first, std::int64_t last) {
    const float* from = a.transposed ? a.matrix.data + first : a.matrix.row(first);
    sgemm(CblasRowMajor, a.transposed ? CblasTrans : CblasNoTrans, b.transposed ? CblasTrans : CblasNoTrans,
          narrow(last - first), narrow(c.cols), narrow(k), 1, from, narrow(a.matrix.stride), b.matrix.data,
          narrow(b.matrix.stride), into == Into::add ? 1 : 0, c.row(first), narrow(c.stride));
  });
}

}  // namespace jupiter
